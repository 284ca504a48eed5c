"""Bugs to plant in the Python client, to prove that the kit finds them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import grpc
from session_client import SessionClient, client, session, stream
from session_client.conversation import Closed, Conversation
from session_client.stream import StreamEnd

from session_service.delivery import Inbox, Outbox
from session_service.v1 import session_pb2 as pb
from session_service.window import Window

__all__ = ["BUGS"]

BUGS: dict[str, Callable[[], None]] = {}
"""What breaks the library, by name."""


def _bug(plant: Callable[[], None]) -> Callable[[], None]:
    BUGS[plant.__name__] = plant
    return plant


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put something else in the place of a method."""
    setattr(owner, name, make(getattr(owner, name)))


def _change_requests(change: Callable[[Conversation, pb.AttachRequest], None]) -> None:
    """Change the requests that a client writes, but the first of each stream."""

    def make(original: Any) -> Any:
        def next_request(self: Conversation, ack: bool = False, heartbeat: bool = False) -> bytes | None:
            data = original(self, ack, heartbeat)
            if data is None:
                return None
            request = pb.AttachRequest.FromString(data)
            change(self, request)
            return request.SerializeToString()

        return next_request

    _replace(Conversation, "next_request", make)


def _change_first_requests(change: Callable[[Conversation, pb.AttachRequest], None]) -> None:
    def make(original: Any) -> Any:
        def first_request(self: Conversation) -> bytes:
            request = pb.AttachRequest.FromString(original(self))
            change(self, request)
            return request.SerializeToString()

        return first_request

    _replace(Conversation, "first_request", make)


def _change_ends(change: Callable[[StreamEnd], StreamEnd]) -> None:
    """Change what the client understands of how a stream ended."""

    def make(original: Any) -> Any:
        async def find_end(self: stream.Stream) -> StreamEnd:
            return change(await original(self))

        return find_end

    _replace(stream.Stream, "_find_end", make)


# --- delivery ---------------------------------------------------------------------------------------------------------


@_bug
def keeps_duplicates() -> None:
    """Give the application a command each time that it comes (D2)."""
    _replace(Inbox, "skip", lambda original: lambda self, first, count: 0 * original(self, first, count))


@_bug
def forgets_ack_of_duplicates() -> None:
    """Drop a duplicate, and say nothing (D2)."""

    def make(original: Any) -> Any:
        def skip(self: Inbox[Any], first: int, count: int) -> int:
            known: int = original(self, first, count)
            self._repeat = False
            return known

        return skip

    _replace(Inbox, "skip", make)


@_bug
def ignores_gaps() -> None:
    """Take what comes, though something before it is missing (D2)."""

    def make(original: Any) -> Any:
        def skip(self: Inbox[Any], first: int, count: int) -> int:
            known: int = original(self, min(first, self.expected), count)
            return known

        return skip

    _replace(Inbox, "skip", make)


@_bug
def numbers_anew() -> None:
    """Give an event that is sent again a sequence of its own (D1)."""

    def make(original: Any) -> Any:
        def resume(self: Outbox[Any], received: int) -> None:
            original(self, received)
            again = self.last - self.sent
            self.acked += again
            self.sent += again
            self._highest = self.last

        return resume

    _replace(Outbox, "resume", make)


@_bug
def forgets_unacknowledged() -> None:
    """Send nothing again (A4)."""

    def make(original: Any) -> Any:
        def resume(self: Outbox[Any], received: int) -> None:
            original(self, max(received, self._highest))

        return resume

    _replace(Outbox, "resume", make)


@_bug
def acks_too_early() -> None:
    """Acknowledge what the library has, whatever the application does (D4)."""

    def make(original: Any) -> Any:
        def receive(self: Conversation, data: bytes) -> None:
            original(self, data)
            self.take_all()

        return receive

    _replace(Conversation, "receive", make)


@_bug
def acks_the_command_in_hand() -> None:
    """Acknowledge a command as soon as the application has it (D4)."""

    def make(original: Any) -> Any:
        def take(self: Conversation) -> Any:
            item = original(self)
            self.release()
            return item

        return take

    _replace(Conversation, "take", make)


@_bug
def acks_only_with_events() -> None:
    """Let no ack go alone (D3)."""

    def change(_: Conversation, request: pb.AttachRequest) -> None:
        if not request.events:
            request.ack = 0

    _change_requests(change)


@_bug
def acks_once() -> None:
    """Acknowledge nothing again on the next stream (D3)."""

    def make(original: Any) -> Any:
        def restart_acks(self: Inbox[Any], heard: int, told: int) -> None:
            original(self, heard, max(told, self._acked))

        return restart_acks

    _replace(Inbox, "restart_acks", make)


@_bug
def leaves_closed_unacknowledged() -> None:
    """Half-close without an ack of `closed` (D4)."""

    def change(self: Conversation, request: pb.AttachRequest) -> None:
        if self.closed is not None and request.ack == self.inbox.taken:
            request.ack -= 1

    _change_requests(change)


@_bug
def stops_acks_at_close() -> None:
    """Leave what arrives after `close` to an application that reads no more (D4)."""
    _replace(Conversation, "take_all", lambda _: lambda self: None)


@_bug
def ignores_the_window() -> None:
    """Send whatever the application does (D5)."""
    _replace(Window, "has_room", lambda _: lambda self, messages, size: True)
    _replace(Window, "fits", lambda _: lambda self, messages, size, extra: True)
    _replace(Outbox, "room", lambda _: lambda self: (1, 1))


@_bug
def ignores_bytes_of_the_window() -> None:
    """Count events, and not their sizes (D5)."""
    _replace(Window, "fits", lambda _: lambda self, messages, size, extra: messages == 0 or messages < self.messages)
    _replace(Outbox, "room", lambda original: lambda self: (original(self)[0], 1))


@_bug
def ignores_the_window_in_a_replay() -> None:
    """Keep to the window of the first stream (D5)."""
    first: dict[int, Window] = {}

    def make(original: Any) -> Any:
        def on_answer(self: Conversation, response: pb.AttachResponse, control: str | None) -> None:
            original(self, response, control)
            self.outbox.window = first.setdefault(id(self), self.outbox.window)

        return on_answer

    _replace(Conversation, "_on_answer", make)


# --- streams ----------------------------------------------------------------------------------------------------------


@_bug
def sends_no_heartbeats() -> None:
    """Say nothing when there is nothing to say (F3)."""
    _replace(
        Conversation, "next_request", lambda original: lambda self, ack=False, heartbeat=False: original(self, ack)
    )


@_bug
def sets_a_deadline() -> None:
    """Give the call a deadline (F0)."""

    def attach(self: SessionClient, metadata: Mapping[str, str]) -> Any:
        connection = self._connections.find()
        attach: Any = connection.channel.stream_stream(client.ATTACH)
        return attach(metadata=tuple(metadata.items()), timeout=60), connection

    _replace(SessionClient, "_attach", lambda _: attach)


@_bug
def bears_silence() -> None:
    """Wait for ever for a server that says nothing (F3)."""
    stream.SILENT_INTERVALS = 1_000_000


@_bug
def leaves_streams_open() -> None:
    """Resume without an end to the stream before (A3)."""
    kept: list[_Kept] = []

    def make(original: Any) -> Any:
        def init(self: stream.Stream, call: Any, *rest: Any) -> None:
            kept.append(_Kept(call))
            original(self, kept[-1], *rest)

        return init

    _replace(stream.Stream, "__init__", make)


class _Kept:
    """A call that is left, and not cancelled."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._left = asyncio.Event()
        self._reads: set[asyncio.Task[Any]] = set()  # that nobody waits for any more

    async def read(self) -> Any:
        reading, left = asyncio.create_task(self._call.read()), asyncio.create_task(self._left.wait())
        self._reads.add(reading)
        await asyncio.wait({reading, left}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise asyncio.CancelledError
        left.cancel()
        self._reads.discard(reading)
        return reading.result()

    def _cancel(self, _details: str) -> None:
        self._left.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


@_bug
def takes_ok_for_the_end() -> None:
    """Take a stream that ends with OK for the end of the session (D7)."""
    _change_ends(lambda end: replace(end, retry="NEVER") if end.code is grpc.StatusCode.OK else end)


@_bug
def retries_never() -> None:
    """Come back although the server says NEVER (D7)."""
    _change_ends(lambda end: replace(end, retry="RESUME") if end.retry == "NEVER" else end)


@_bug
def judges_by_the_status() -> None:
    """Look at the status, and not at what the server says about it (D7)."""
    _change_ends(lambda end: replace(end, retry=""))


@_bug
def retries_final_statuses() -> None:
    """Come back after whatever status (D7)."""
    session._FINAL.clear()


@_bug
def never_resumes() -> None:
    """Give up when a stream breaks (D7)."""
    _change_ends(lambda end: replace(end, retry="NEVER"))


@_bug
def reopens_after_opened() -> None:
    """Open again where the session is lost: the app runs twice (D7a)."""

    def make(original: Any) -> Any:
        def verdict(self: session.ClientSession, end: StreamEnd, exhausted: bool, seconds: float) -> Any:
            if end.retry == "REOPEN":
                self._conversation.id = ""
                return None
            return original(self, end, exhausted, seconds)

        return verdict

    _replace(session.ClientSession, "_verdict", make)


@_bug
def ignores_reopen() -> None:
    """Tell the application of a REOPEN before the first `opened` (D7a)."""
    _change_ends(lambda end: replace(end, retry="NEVER") if end.retry == "REOPEN" else end)


@_bug
def ignores_retry_info() -> None:
    """Come back before the server wants it (D7a)."""
    _change_ends(lambda end: replace(end, retry_delay=0.0))


@_bug
def retries_unauthenticated() -> None:
    """Try the credentials again and again (D7)."""

    def change(end: StreamEnd) -> StreamEnd:
        unauthenticated = end.code is grpc.StatusCode.UNAUTHENTICATED
        return replace(end, code=grpc.StatusCode.UNAVAILABLE, retry="RESUME") if unauthenticated else end

    _change_ends(change)


@_bug
def keeps_stale_credentials() -> None:
    """Ask for credentials once (A2)."""

    def make(original: Any) -> Any:
        async def metadata(self: session.ClientSession) -> Mapping[str, str]:
            if not hasattr(self, "stale"):
                self.stale = await original(self)  # type: ignore[attr-defined]
            stale: Mapping[str, str] = self.stale  # type: ignore[attr-defined]
            return stale

        return metadata

    _replace(session.ClientSession, "_metadata", make)


@_bug
def retries_defects() -> None:
    """Resume again and again where the same response cannot be taken (D7)."""
    _replace(
        stream.Stream,
        "run",
        lambda original: lambda self, timeout: _without_defect(original(self, timeout)),
    )


async def _without_defect(run: Any) -> StreamEnd | None:
    end: StreamEnd | None = await run
    return end and replace(end, defect_at=None)


# --- attachment and the end -------------------------------------------------------------------------------------------


@_bug
def ignores_takeover() -> None:
    """Take the session back from another client (A3)."""
    _change_ends(lambda end: replace(end, retry="RESUME") if end.reason == "TAKEN_OVER" else end)


@_bug
def gives_up_at_takeover() -> None:
    """Leave the session to a late stream of its own (A3)."""
    _change_ends(lambda end: replace(end, retry="NEVER") if end.reason == "TAKEN_OVER" else end)


@_bug
def changes_client_id() -> None:
    """Name a new client_id in each resume (A3)."""

    def change(_: Conversation, request: pb.AttachRequest) -> None:
        if request.HasField("resume"):
            request.resume.client_id = str(uuid.uuid4())

    _change_first_requests(change)


@_bug
def changes_request_id() -> None:
    """Open with a new request_id each time: the app may run twice (A6)."""

    def change(_: Conversation, request: pb.AttachRequest) -> None:
        if request.open.resumable:
            request.open.request_id = str(uuid.uuid4())

    _change_first_requests(change)


@_bug
def resumes_from_acknowledged() -> None:
    """Resume from what the server has been told, one too low (A5)."""

    def change(_: Conversation, request: pb.AttachRequest) -> None:
        if request.resume.received:
            request.resume.received -= 1

    _change_first_requests(change)


@_bug
def half_closes_to_close() -> None:
    """Have done writing where `close` is due (A1)."""

    def make(original: Any) -> Any:
        async def write(self: stream.Stream) -> None:
            self._call = _HalfClosing(self._call)  # type: ignore[assignment]
            await original(self)

        return write

    _replace(stream.Stream, "_write", make)


class _HalfClosing:
    def __init__(self, call: Any) -> None:
        self._call = call

    async def write(self, data: bytes) -> None:
        if pb.AttachRequest.FromString(data).HasField("close"):
            await self._call.done_writing()
        else:
            await self._call.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


@_bug
def closes_once() -> None:
    """Send `close` on one stream only (E1)."""

    def make(original: Any) -> Any:
        def first_request(self: Conversation) -> bytes:
            written = self._close_written
            data: bytes = original(self)
            self._close_written = written
            return data

        return first_request

    _replace(Conversation, "first_request", make)


@_bug
def closes_before_its_events() -> None:
    """Send a graceful `close` before the events that wait (E1)."""
    _replace(Outbox, "waiting", lambda _: property(lambda self: False))


@_bug
def detaches_at_once() -> None:
    """Leave before the session has taken over all events (A1)."""
    _replace(Outbox, "empty", lambda _: property(lambda self: True))


@_bug
def closes_instead_of_detaching() -> None:
    """End a session that should run on (A1)."""

    def make(original: Any) -> Any:
        async def detach(self: session.ClientSession) -> Any:
            self._conversation.close("", True)
            self._wake()
            await asyncio.sleep(0.1)
            return await original(self)

        return detach

    _replace(session.ClientSession, "detach", make)


@_bug
def takes_draining_for_the_end() -> None:
    """Close when the server says that it is draining (E3)."""

    def make(original: Any) -> Any:
        def receive(self: Conversation, data: bytes) -> None:
            original(self, data)
            if self.draining:
                self.close("draining", True)

        return receive

    _replace(Conversation, "receive", make)


@_bug
def drops_commands_at_closed() -> None:
    """Forget the commands that the application has not taken when `closed` comes (E2)."""

    def make(original: Any) -> Any:
        def take(self: Conversation) -> Any:
            while self.closed is not None and (item := original(self)) is not None:
                if isinstance(item, Closed):
                    return item
            return original(self)

        return take

    _replace(Conversation, "take", make)


@_bug
def gives_large_events_a_sequence() -> None:
    """Find out that an event is too large when it has a sequence (F7)."""

    def make(original: Any) -> Any:
        def send(self: Conversation, event: str, data: Any, task_id: str) -> bool:
            sent: bool = original(self, event, data, task_id) if not isinstance(data, bytes) else False
            if isinstance(data, bytes):
                most, self._max_message = self._max_message, 1 << 30
                try:
                    sent = original(self, event, data, task_id)
                finally:
                    self._max_message = most
            return sent

        return send

    _replace(Conversation, "send", make)


@_bug
def loses_integers() -> None:
    """Carry integers as doubles (F4)."""

    def make(original: Any) -> Any:
        def send(self: Conversation, event: str, data: Any, task_id: str) -> bool:
            sent: bool = original(self, event, int(float(data)) if type(data) is int else data, task_id)
            return sent

        return send

    _replace(Conversation, "send", make)


@_bug
def breaks_plain_sessions() -> None:
    """Come back to a plain session (P3)."""

    def make(original: Any) -> Any:
        def verdict(self: session.ClientSession, end: StreamEnd, exhausted: bool, seconds: float) -> Any:
            return None if not self._conversation.resumable else original(self, end, exhausted, seconds)

        return verdict

    _replace(session.ClientSession, "_verdict", make)
