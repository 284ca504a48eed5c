"""Our server with a bug, to show that the cases find it: ``python -m session_conformance.server.bugs BUG SETTINGS``.

Each is a function that breaks one thing, and says what.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from session_service import CloseReason
from session_service.delivery import Inbox, Outbox
from session_service.errors import ProtocolError, SequenceGap, SessionLimit, SessionUnknown, TakenOver
from session_service.host import ManagedSession, SessionManager
from session_service.host.requests import Requests
from session_service.lifecycle import Link
from session_service.server import attachment, farewell, service, statuses
from session_service.server.attachment import Attachment
from session_service.server.farewell import Farewell
from session_service.v1 import session_pb2 as pb

from . import serve

__all__ = ["BUGS"]

BUGS: dict[str, Callable[[], None]] = {}


def bug(plant: Callable[[], None]) -> Callable[[], None]:
    """Register a bug by its name."""
    BUGS[plant.__name__] = plant
    return plant


@bug
def commits_late() -> None:
    """The initial metadata waits for the first message."""
    attach = service.SessionService.attach

    class Without:
        def __init__(self, context: Any) -> None:
            self._context = context

        def __getattr__(self, name: str) -> Any:
            return getattr(self._context, name)

        async def send_initial_metadata(self, _: Any) -> None:
            pass

    async def late(sessions: Any, requests: Any, context: Any) -> None:
        await attach(sessions, requests, Without(context))  # type: ignore[arg-type]  # it has all of its methods

    _replace(service.SessionService, "attach", late)


@bug
def delivers_duplicates() -> None:
    """An event that has been here before is taken once more."""

    def skip(inbox: Inbox[Any], first: int, count: int) -> int:
        if first > inbox.expected:
            raise SequenceGap(inbox.expected, first)
        return 0

    _replace(Inbox, "skip", skip)


@bug
def forgets_ack_of_duplicates() -> None:
    """A duplicate is dropped, and not acknowledged again."""
    skip = Inbox.skip

    def silently(inbox: Inbox[Any], first: int, count: int) -> int:
        skipped = skip(inbox, first, count)
        inbox._repeat = False
        return skipped

    _replace(Inbox, "skip", silently)


@bug
def skips_gaps() -> None:
    """What is missing is taken for given."""
    skip = Inbox.skip
    _replace(Inbox, "skip", lambda inbox, first, count: skip(inbox, min(first, inbox.expected), count))


@bug
def acks_what_it_received() -> None:
    """An event is acknowledged as soon as it is here, whether the session has taken it over or not."""

    def heard(inbox: Inbox[Any]) -> int:
        return inbox.expected - 1

    def ack(inbox: Inbox[Any]) -> int:
        inbox._acked = heard(inbox)
        inbox._repeat = False
        return inbox._acked

    _replace(Inbox, "ack", ack)
    _replace(Inbox, "ack_pending", property(lambda inbox: heard(inbox) > inbox._acked))


@bug
def carries_acks_over() -> None:
    """The first ack of a stream covers what only an older one has brought."""

    def restart_acks(inbox: Inbox[Any], heard: int, told: int) -> None:
        inbox._heard = inbox.taken
        inbox._acked = told

    _replace(Inbox, "restart_acks", restart_acks)


@bug
def keeps_events_of_dead_streams() -> None:
    """Events that were not taken over outlive their stream."""
    _replace(Inbox, "drop_waiting", lambda inbox: None)


@bug
def takes_received_for_an_ack() -> None:
    """A resume acknowledges what it says it has received."""
    resume = Outbox.resume

    def acknowledging(outbox: Outbox[Any], received: int) -> None:
        resume(outbox, received)
        outbox.ack(received)

    _replace(Outbox, "resume", acknowledging)


@bug
def replays_beyond_the_window() -> None:
    """The window of a resume counts for nothing."""
    attach = ManagedSession.attach

    def ignoring(managed: ManagedSession, stream: Any, *, resuming: bool = False, **options: Any) -> None:
        if resuming:
            options["command_window"] = managed.outbox.window
        attach(managed, stream, resuming=resuming, **options)

    _replace(ManagedSession, "attach", ignoring)


@bug
def loses_closed() -> None:
    """What was written once as the last is not sent again."""
    resume = Outbox.resume

    def forgetful(outbox: Outbox[Any], received: int) -> None:
        closed = outbox.finished
        resume(outbox, received)
        if closed and outbox.waiting:
            outbox._elements.pop()

    _replace(Outbox, "resume", forgetful)


@bug
def lets_the_older_stream_act() -> None:
    """A stream that was taken over, and could not be ended at once, goes on to act on the session."""
    fail = Attachment.fail

    def unfenced(stream: Attachment, error: ProtocolError) -> None:
        is_writing = stream._sleep.done()
        if not (isinstance(error, TakenOver) and is_writing):
            fail(stream, error)

    _replace(Attachment, "fail", unfenced)


@bug
def lets_the_older_stream_detach() -> None:
    """The end of a stream that was taken over detaches the session from the newer one."""
    fail, detach = Attachment.fail, ManagedSession.detach

    def holding_on(stream: Attachment, error: ProtocolError) -> None:
        held = stream._managed if isinstance(error, TakenOver) else None
        if held is not None:
            stream._managed = None
        fail(stream, error)
        stream._managed = held or stream._managed

    def detach_any(managed: ManagedSession, stream: Any, *error: Any) -> None:
        detach(managed, managed.stream or stream, *error)

    _replace(Attachment, "fail", holding_on)
    _replace(ManagedSession, "detach", detach_any)


@bug
def knows_no_anonymous_clients() -> None:
    """Two streams without a client id count as those of one client."""
    attach = ManagedSession.attach

    def named(managed: ManagedSession, stream: Any, **options: Any) -> None:
        stream.client_id = stream.client_id or "anonymous"
        attach(managed, stream, **options)

    _replace(ManagedSession, "attach", named)


@bug
def needs_no_token() -> None:
    """A resume that has no token at all will do."""
    find = SessionManager.find

    def open_hearted(manager: SessionManager, session_id: str, token: str, principal: Any) -> ManagedSession:
        managed = manager.get(session_id)
        return managed if managed is not None and not token else find(manager, session_id, token, principal)

    _replace(SessionManager, "find", open_hearted)


@bug
def tells_strangers_how_far_it_got() -> None:
    """A resume with another token is told what the session has taken over."""
    find = SessionManager.find

    def talkative(manager: SessionManager, session_id: str, token: str, principal: Any) -> ManagedSession:
        try:
            return find(manager, session_id, token, principal)
        except SessionUnknown as error:
            managed = manager.get(session_id)
            if managed is not None and managed.resumable:
                error.details["received"] = str(managed.inbox.taken)
            raise

    _replace(SessionManager, "find", talkative)


@bug
def fences_before_it_checks() -> None:
    """An attach that is refused has taken over before."""
    attach = ManagedSession.attach

    def hasty(managed: ManagedSession, stream: Any, **options: Any) -> None:
        if managed.stream is not None:
            managed.stream.fail(TakenOver(by_same_client=False))
        attach(managed, stream, **options)

    _replace(ManagedSession, "attach", hasty)


@bug
def opens_again() -> None:
    """A request id is not remembered."""
    _replace(Requests, "find", lambda requests, request: None)


@bug
def takes_half_close_for_detach() -> None:
    """A resumable stream ends when its client has done writing."""
    half_close = Attachment._on_half_close

    def ending(stream: Attachment) -> None:
        half_close(stream)
        if stream._managed is not None and stream._managed.resumable and not stream._close_seen:
            stream._end()

    _replace(Attachment, "_on_half_close", ending)


@bug
def takes_events_after_close() -> None:
    """What comes after close is taken like any other event."""
    on_close = Attachment._on_close

    def open_ended(stream: Attachment, request: pb.Close) -> None:
        on_close(stream, request)
        stream._close_seen = False

    _replace(Attachment, "_on_close", open_ended)


@bug
def lets_close_overtake() -> None:
    """A close does not wait behind the events that are not yet taken over."""

    def end_events(managed: ManagedSession) -> None:
        managed.session.end_events()

    _replace(ManagedSession, "end_events", end_events)


@bug
def keeps_plain_sessions() -> None:
    """A plain session goes on when its stream is gone."""
    close = ManagedSession.detach

    def detach(managed: ManagedSession, stream: Any, *error: Any) -> None:
        if managed.resumable or managed.session.ended:
            close(managed, stream, *error)
        elif managed.stream is stream:
            managed.stream, managed.link = None, Link.DETACHED

    _replace(ManagedSession, "detach", detach)


@bug
def lets_anything_prolong() -> None:
    """Any ack of a session that has ended prolongs its time, whether it advances or not."""
    ack = ManagedSession.ack

    def prolonging(managed: ManagedSession, sequence: int) -> None:
        ack(managed, sequence)
        if managed.session.ended and managed.resumable and not managed.outbox.empty:
            managed._settle(anew=True)

    _replace(ManagedSession, "ack", prolonging)


@bug
def lets_anybody_resume() -> None:
    """A token is enough, whoever has it."""
    find = SessionManager.find

    def trusting(manager: SessionManager, session_id: str, token: str, principal: Any) -> ManagedSession:
        managed = manager.get(session_id)
        owner = dataclasses.replace(principal, name=managed.principal) if managed is not None else principal
        return find(manager, session_id, token, owner)

    _replace(SessionManager, "find", trusting)


@bug
def refuses_repeats_at_the_limit() -> None:
    """A repeated open needs room for a new session."""
    open_ = SessionManager.open

    def full(manager: SessionManager, app: str, **options: Any) -> ManagedSession:
        if len(manager) >= manager.config.max_sessions:
            raise SessionLimit("there is no room")
        return open_(manager, app, **options)

    _replace(SessionManager, "open", full)


@bug
def says_not_how_long_to_wait() -> None:
    """There is no RetryInfo."""
    _replace(statuses, "RETRY_DELAY_SECONDS", 0)


@bug
def makes_large_batches() -> None:
    """All commands that there are go out as one message."""
    attachment.BATCH_SIZE = 3_000_000


@bug
def mistakes_the_reason() -> None:
    """A session whose app returned is said to have been closed by the server."""
    close = ManagedSession._on_session_close

    def mistaken(managed: ManagedSession, session: Any) -> None:
        if session.close_reason is CloseReason.COMPLETED:
            session.work.app.reason = CloseReason.SERVER
        close(managed, session)

    _replace(ManagedSession, "_on_session_close", mistaken)


@bug
def mistakes_a_gap() -> None:
    """A gap is refused for another reason."""
    _replace(SequenceGap, "reason", "PROTOCOL_VIOLATION")


@bug
def sends_no_heartbeats() -> None:
    """The server is silent where it has nothing to say."""
    timer = Attachment._on_heartbeat_timer

    def silent(stream: Attachment) -> None:
        stream._sent_at = asyncio.get_running_loop().time()
        timer(stream)

    _replace(Attachment, "_on_heartbeat_timer", silent)


@bug
def says_errors_by_status_only() -> None:
    """An error is not written as `failed`."""

    async def say(goodbye: Farewell, context: Any, reader: Any, error: ProtocolError | None) -> None:
        await goodbye._wait(reader)
        if error is not None:
            await context.abort_with_status(statuses.to_status(error))

    _replace(Farewell, "say", say)


@bug
def contradicts_itself() -> None:
    """What is written as `failed` is another error than the status."""

    def other(error: ProtocolError) -> Any:
        return statuses.to_rich_status(error if isinstance(error, TakenOver) else SequenceGap(1, 2))

    _replace(farewell, "to_rich_status", other)


@bug
def ends_at_once() -> None:
    """The call ends when everything is said, whether the client has half-closed or not."""
    _replace(farewell, "LINGER", 0)


@bug
def waits_for_ever() -> None:
    """The call stands until the client half-closes, however long that takes."""
    _replace(farewell, "LINGER", 3600)


@bug
def keeps_the_session_for_the_half_close() -> None:
    """A plain session that has ended counts until its client half-closes."""
    forget = SessionManager.forget

    def late(manager: SessionManager, managed: ManagedSession) -> None:
        asyncio.get_running_loop().call_later(0 if managed.resumable else farewell.LINGER, forget, manager, managed)

    _replace(SessionManager, "forget", late)


def _replace(owner: Any, name: str, by: object) -> None:
    setattr(owner, name, by)


def main() -> None:
    """Serve with a bug."""
    BUGS[sys.argv[1]]()
    serve.main()


if __name__ == "__main__":
    main()
