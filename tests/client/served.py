"""What the fixtures of this folder give out, and what tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import session_client
from session_client import RetryPolicy

from session_service import get_current_session
from session_service.host import App, ManagedSession
from session_service.server import Server

from .fake import FakeServer
from .relay import Relay

__all__ = ["QUICK", "FakeServes", "RelayTo", "Serve", "Served", "client_tasks", "echo", "echo_in_thread"]

# Comes back at once, and not for ever.
QUICK = RetryPolicy(initial=0.01, maximum=0.05, total=10.0, attach_timeout=5.0)

PACKAGE = str(Path(session_client.__file__).parent)


class Served:
    """A server in this process.

    Attributes:
        server: it.
        address: where it listens.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.address = server.address

    @property
    def sessions(self) -> list[ManagedSession]:
        """Those that there are, in the order of their opening."""
        return list(self.server.manager)

    @property
    def running(self) -> list[ManagedSession]:
        """Those whose app runs."""
        return [managed for managed in self.sessions if not managed.session.ended]

    @property
    def only(self) -> ManagedSession:
        """The session, where there is one."""
        [session] = self.sessions
        return session


class Serve(Protocol):
    """Starts a server with these apps, and with the fields of `Config` that are given."""

    async def __call__(self, apps: dict[str, App], *, authenticate: Any = None, **settings: Any) -> Served: ...


RelayTo = Callable[[str], Awaitable[Relay]]
FakeServes = Callable[..., Awaitable[FakeServer]]


def client_tasks() -> list[str]:
    """Return what runs on this loop out of `session_client`."""
    names = []
    for task in asyncio.all_tasks():
        coroutine: Any = task.get_coro()
        code = getattr(coroutine, "cr_code", None)
        if code is not None and code.co_filename.startswith(PACKAGE):
            names.append(coroutine.__qualname__)
    return names


async def echo() -> None:
    """Say each event back."""
    session = get_current_session()
    while True:
        event = await session.next_client_event()
        session.send_task_command({"command": "echo", "spec": event["data"]})
        await session.drain()


def echo_in_thread() -> None:
    """Say each event back, from a thread."""
    session = get_current_session()
    while True:
        session.send_task_command({"command": "echo", "spec": session.next_client_event()["data"]})
