"""``session-service sessions``: lists, shows, watches and closes the sessions of a server, by its admin service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from .admin import Admin, admin_options
from .streams import say

if TYPE_CHECKING:
    from ..v1 import admin_pb2

__all__ = ["sessions"]

PAGE_SIZE = 1000

STATES = ("attached", "detached", "ended")


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--principal", default="", metavar="NAME", help="Only those of this principal.")(command)
    return click.option("--app", default="", metavar="NAME", help="Only those of this app.")(command)


@click.group()
def sessions() -> None:
    """Show the sessions of a server, and end them, by its admin service."""


@sessions.command("list")
@_filters
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@admin_options
def list_(admin: Admin, app: str, principal: str, state: str | None, as_json: bool) -> None:
    """List sessions, oldest first."""
    from .tables import Output

    output = Output(as_json=as_json)
    output.list(_all(admin, app, principal, state))


@sessions.command()
@click.argument("session_id")
@admin_options
def show(admin: Admin, session_id: str, as_json: bool) -> None:
    """Show what is known of one session."""
    from ..v1 import admin_pb2 as pb
    from .tables import Output

    request = pb.GetSessionRequest(session_id=session_id)
    output = Output(as_json=as_json)
    output.show(admin.stub.GetSession(request, timeout=admin.timeout, metadata=admin.metadata))


@sessions.command()
@_filters
@admin_options
def watch(admin: Admin, app: str, principal: str, as_json: bool) -> None:
    """Tell what becomes of sessions, until the server has ended or Ctrl-C.

    On a terminal it is a table of those that there are; else, or with --json, a line for each change.
    """
    from ..v1 import admin_pb2 as pb
    from .tables import Output

    output = Output(as_json=as_json)
    call = admin.stub.WatchSessions(pb.WatchSessionsRequest(app=app, principal=principal), metadata=admin.metadata)
    try:
        if output.live:
            call.initial_metadata()  # it watches: the list and what follows miss nothing between them
            output.watch_live(call, lambda: _all(admin, app, principal))
        else:
            output.watch(call)
    except KeyboardInterrupt:
        return
    finally:
        call.cancel()
    say("the server has ended")


@sessions.command()
@click.argument("session_id")
@click.option("--reason", default="", metavar="TEXT", help="Why: the client is told, and the server's log.")
@click.option("--now", is_flag=True, help="Cancel what the app does, instead of ending its events.")
@admin_options
def close(admin: Admin, session_id: str, reason: str, now: bool, as_json: bool) -> None:
    """Close a session. Returns when it has been told; an app may take its time to end."""
    from ..v1 import admin_pb2 as pb
    from .tables import Output

    request = pb.CloseSessionRequest(session_id=session_id, reason=reason, now=now)
    response = admin.stub.CloseSession(request, timeout=admin.timeout, metadata=admin.metadata)
    if as_json:
        Output(as_json=True).list([response.session])


def _all(admin: Admin, app: str, principal: str, state: str | None = None) -> Iterator[admin_pb2.SessionSummary]:
    """Go through all sessions, page by page."""
    from ..v1 import admin_pb2 as pb

    wanted = pb.SESSION_STATE_UNSPECIFIED if state is None else pb.SessionState.Value(f"SESSION_STATE_{state.upper()}")
    request = pb.ListSessionsRequest(page_size=PAGE_SIZE, app=app, principal=principal, state=wanted)
    while True:
        response = admin.stub.ListSessions(request, timeout=admin.timeout, metadata=admin.metadata)
        yield from response.sessions
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token
