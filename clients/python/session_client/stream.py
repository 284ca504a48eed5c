"""One Attach call: a reader, a writer and their clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from session_service.errors import PayloadError, ProtocolError, SequenceGap

from .connections import Connection
from .conversation import Conversation
from .patience import Patience

__all__ = ["Stream", "StreamEnd"]

# An ack that nothing carries goes alone after this time (protocol D3).
ACK_DELAY = 0.02

# Intervals of silence after which a stream counts as broken (protocol F3).
SILENT_INTERVALS = 3

# Seconds that a server has to end the call when everything has been said.
FAREWELL = 5.0

# Seconds after which to ask whether a stream that has not begun waits for others to end.
CROWDED = 1.0

DOMAIN = "session_service"

Call = grpc.aio.StreamStreamCall[bytes, bytes]


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How a stream ended before its session did.

    Attributes:
        code: the status.
        message: its text, or what went wrong here.
        reason: that of the ErrorInfo, if there was one of our domain.
        retry: what it says to do; empty without one.
        retry_delay: seconds that the server asks to wait.
        details: its metadata.
        defect_at: the sequence at which a response could not be taken; twice at the same one is for good (D7).
        crowded: it has not begun, since its connection takes no more streams.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    retry: str = ""
    retry_delay: float = 0.0
    details: dict[str, str] = field(default_factory=dict)
    defect_at: int | None = None
    crowded: bool = False

    @property
    def received(self) -> int:
        """The last event that the server says it took over; 0 where it says nothing."""
        text = self.details.get("received", "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0


class Stream:
    """Carries a conversation over one call, until the call or the session ends."""

    def __init__(
        self,
        call: Call,
        connection: Connection,
        conversation: Conversation,
        patience: Patience,
        changed: Callable[[], None],
    ) -> None:
        """``changed`` is called after each response."""
        self._call = call
        self._connection = connection
        self._conversation = conversation
        self._patience = patience
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._wakeup = asyncio.Event()
        self._room = asyncio.Event()
        self._waits_for_room = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._sent_at = self._received_at = self._loop.time()
        self._ack = False
        self._heartbeat = False
        self._end: StreamEnd | None = None
        self._begun = False  # its headers are out: until then the server knows nothing of it

    async def run(self, attach_timeout: float) -> StreamEnd | None:
        """Carry it; return how the stream ended, None when the session has ended and everything is said."""
        self._connection.choose()
        self._start_timer("attach", attach_timeout, self._break, f"no answer within {attach_timeout:g} s")
        self._start_timer("crowded", CROWDED, self._on_crowded)
        writer = self._loop.create_task(self._write())
        reader = self._loop.create_task(self._read())
        try:
            await asyncio.wait({reader})
            reader.result()
            end = await self._find_end()
            # The last ack may be lost with its stream; only the server's OK says that it has arrived.
            return None if self._conversation.finished and end.code is grpc.StatusCode.OK else end
        finally:
            self._conversation.end_stream()
            self._connection.leave(self._begun)
            for timer in self._timers.values():
                timer.cancel()
            self.cut()
            writer.cancel()
            reader.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)

    def wake(self) -> None:
        """Look whether something is to be written: the application sent, took or closed something."""
        conversation = self._conversation
        self._room.set()
        if conversation.inbox.ack_pending and "ack" not in self._timers:
            self._start_timer("ack", ACK_DELAY, self._ack_now)
        self._wakeup.set()

    def cut(self) -> None:
        """End it without a word."""
        # Not `cancel`, which also cancels the task that prepares the call: what that raises keeps the call and the
        # channel alive where it comes early, and a later fork hangs.
        self._call._cancel("left by the client")  # type: ignore[attr-defined]

    # --- the writer ---------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        conversation = self._conversation
        try:
            await self._call.wait_for_connection()
            self._begun = True
            self._connection.begin()
            self._timers.pop("crowded").cancel()
            await self._call.write(conversation.first_request())
            while not conversation.all_said:
                ack = self._ack or conversation.closed is not None
                heartbeat, self._ack, self._heartbeat = self._heartbeat, False, False
                data = conversation.next_request(ack, heartbeat)
                if data is not None:
                    if conversation.outbox.sent > conversation.outbox.acked:
                        self._patience.wrote(self._loop.time())  # even if the write breaks the stream
                    await self._call.write(data)
                    data = None  # an idle stream holds nothing
                    self._sent_at = self._loop.time()
                    if not conversation.resumable:
                        self._changed()  # what is written makes room
                elif not conversation.all_said:
                    await self._wakeup.wait()
                    self._wakeup.clear()
            await self._call.done_writing()
            self._start_farewell()
        except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            pass  # the status says why, and the reader will have it (D7)

    # --- the reader ---------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        conversation = self._conversation
        try:
            while isinstance(data := await self._call.read(), bytes):
                self._received_at = self._loop.time()
                self._on_response(data)
                del data  # an idle stream holds nothing
                self.wake()
                self._changed()
                await self._wait_room()
        except (DecodeError, ProtocolError, PayloadError) as error:
            code = grpc.StatusCode.OUT_OF_RANGE if isinstance(error, SequenceGap) else grpc.StatusCode.DATA_LOSS
            self._end = StreamEnd(code, f"a bad response: {error}", defect_at=conversation.inbox.expected)
        except grpc.RpcError:
            pass  # it has a status
        except asyncio.CancelledError:
            if self._end is None and not self._call.cancelled():
                raise

    async def _wait_room(self) -> None:
        """Let HTTP/2 hold the server of a plain session back while the application is slow (P4)."""
        conversation = self._conversation
        self._waits_for_room = True
        while not (
            conversation.resumable or conversation.inbox.has_room or conversation.closing or conversation.all_said
        ):
            self._room.clear()
            await self._room.wait()
        self._waits_for_room = False

    def _on_response(self, data: bytes) -> None:
        conversation, now = self._conversation, self._loop.time()
        attached, acked, expected = conversation.attached, conversation.outbox.acked, conversation.inbox.expected
        conversation.receive(data)
        if conversation.attached and not attached:
            self._on_attached()
        if conversation.failed is not None:
            self._start_farewell()  # the writer may be stuck
        if conversation.outbox.acked != acked:
            self._patience.acked(now, written=conversation.outbox.sent > conversation.outbox.acked)
        if conversation.inbox.expected != expected:
            self._patience.received(now)

    async def _find_end(self) -> StreamEnd:
        """Return how the stream ended: as `failed` said, whatever a proxy has made of the status (E2)."""
        failed = self._conversation.failed
        return _end_of(failed) if failed is not None else self._end or await _status(self._call)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _on_attached(self) -> None:
        conversation, patience = self._conversation, self._patience
        self._timers.pop("attach").cancel()
        self._start_timer("heartbeat", conversation.heartbeat_interval, self._on_heartbeat_timer)
        patience.attached(self._loop.time(), conversation.heartbeat_interval, not conversation.outbox.empty)
        if patience.suspects:
            conversation.suspect = conversation.outbox.acked + 1
        if patience.hold:
            conversation.held = True
            self._start_timer("hold", patience.hold, self._release)

    def _release(self) -> None:
        self._conversation.held = False
        self._wakeup.set()

    def _on_crowded(self) -> None:
        if self._connection.check_full():
            self._break("the connection takes no more streams", crowded=True)
        else:
            self._start_timer("crowded", CROWDED, self._on_crowded)

    def _on_heartbeat_timer(self) -> None:
        interval, now = self._conversation.heartbeat_interval, self._loop.time()
        if self._waits_for_room:
            self._received_at = now  # it is we who do not listen
        silent = self._received_at + interval * SILENT_INTERVALS
        if now >= silent:
            self._break(f"the server was silent for {interval * SILENT_INTERVALS:g} s")
            return
        due = self._sent_at + interval
        if now >= due:
            self._heartbeat = self._conversation.resumable
            self._wakeup.set()
            due = now + interval
        self._start_timer("heartbeat", min(due, silent) - now, self._on_heartbeat_timer)

    def _ack_now(self) -> None:
        del self._timers["ack"]
        self._ack = True
        self._wakeup.set()

    def _start_farewell(self) -> None:
        if "farewell" not in self._timers:
            self._start_timer("farewell", FAREWELL, self.cut)

    def _break(self, why: str, *, crowded: bool = False) -> None:
        self._end = StreamEnd(grpc.StatusCode.UNAVAILABLE, why, crowded=crowded)
        self.cut()

    def _start_timer(self, name: str, seconds: float, func: Callable[..., object], *args: Any) -> None:
        self._timers[name] = self._loop.call_later(seconds, func, *args)


async def _status(call: Call) -> StreamEnd:
    try:
        status = await rpc_status.aio.from_call(call)
    except ValueError:  # the details are of another status: a proxy's work
        status = None
    if status is not None:
        return _end_of(status)
    return StreamEnd(await call.code(), await call.details() or "")


def _end_of(status: status_pb2.Status) -> StreamEnd:
    """Return what a status with its details says."""
    reason, retry, delay, metadata = "", "", 0.0, {}
    for detail in status.details:
        info, wait = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
            retry = metadata.get("retry") or "NEVER"
        elif detail.Unpack(wait):
            delay = wait.retry_delay.seconds + wait.retry_delay.nanos / 1e9
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return StreamEnd(code, status.message, reason, retry, delay, metadata)


_CODES = {code.value[0]: code for code in grpc.StatusCode}
