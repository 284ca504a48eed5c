"""One stream: a reader and a writer.

The writer is the RPC's own coroutine: it alone writes, aborts and returns. The reader is a task, which ends by itself
when the client has half-closed or the RPC is over; it never waits for the writer (D6). Nothing else touches the stream;
whatever happens elsewhere wakes the writer, which looks at the state and writes what is due. A read is never cancelled
or timed out: grpc.aio would lose the next message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import MappingProxyType

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError

from .. import payload
from ..config import Config
from ..errors import (
    EndedUndelivered,
    FirstRequestTimeout,
    HeartbeatLost,
    PayloadError,
    PayloadInvalid,
    ProtocolError,
    ProtocolViolation,
)
from ..host import ManagedSession, SessionManager
from ..host.hosted import MESSAGE_OVERHEAD
from ..host.quota import Rate
from ..session import Principal, SessionInfo, get_session_info_from_headers
from ..session_logger import SessionLogger
from ..v1 import session_pb2 as pb
from ..window import Window
from .statuses import as_error

__all__ = ["AckTimer", "Attachment", "Context", "read_on"]

logger = logging.getLogger(__name__)

# About what a batch of commands holds, in bytes: large enough to make the cost per message small, small enough that
# others get their turn.
BATCH_SIZE = 256 * 1024

# An ack that nothing carries goes alone after this time (D3). SignalR waits a second, which caps it near 100 kB/s.
ACK_DELAY = 0.02

# Intervals of silence after which a stream counts as broken (F3).
SILENT_INTERVALS = 3

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_FORMATS = {pb.PAYLOAD_FORMAT_JSON: payload.Format.JSON}

Context = grpc.aio.ServicerContext[bytes, bytes]


class AckTimer:
    """One timer for the acks of all streams: starting one for each event would cost as much as the event."""

    def __init__(self) -> None:
        self._due: set[Attachment] = set()

    def add(self, attachment: Attachment) -> None:
        """Have the attachment acknowledge what it has by then, if nothing has carried it."""
        if not self._due:
            asyncio.get_running_loop().call_later(ACK_DELAY, self._flush)
        self._due.add(attachment)

    def _flush(self) -> None:
        due, self._due = self._due, set()
        for attachment in due:
            attachment.wake_ack()


class Attachment:
    """A stream, and while it is attached its session.

    Attributes:
        client_id: what the client calls itself, to tell its own late streams from another client's (A3).
        principal: who calls.
    """

    __slots__ = (
        "_ack_now",
        "_acks",
        "_close_seen",
        "_config",
        "_context",
        "_controls",
        "_error",
        "_heartbeat",
        "_loop",
        "_managed",
        "_manager",
        "_metadata",
        "_more",
        "_over",
        "_rate",
        "_read_all",
        "_received_at",
        "_room",
        "_sent_at",
        "_sleep",
        "_starved",
        "_timer",
        "_woken",
        "client_id",
        "principal",
    )

    def __init__(
        self,
        context: Context,
        manager: SessionManager,
        acks: AckTimer,
        principal: Principal,
        metadata: Mapping[str, str],
    ) -> None:
        """Begin.

        Args:
            context: the call.
            manager: of the sessions that it may want.
            acks: the timer that streams share.
            principal: who calls.
            metadata: the headers to read the session's information from where the request holds none.
        """
        self._context = context
        self._manager = manager
        self._config: Config = manager.config
        self._acks = acks
        self.principal = principal
        self._rate = manager.event_rate(principal)
        self._metadata = metadata
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._managed: ManagedSession | None = None
        self._controls: tuple[pb.AttachResponse, ...] = ()
        self._woken = False  # something has happened since the writer last looked
        self._sleep: asyncio.Future[None] = self._loop.create_future()
        self._more = False  # the message that is being written leaves something to write
        self._room: asyncio.Future[None] | None = None  # the reader waits to go on
        self._sent_at = self._received_at = self._loop.time()
        self._ack_now = False
        self._heartbeat = False
        self._starved = False  # commands wait for window
        self._read_all = False  # the client has half-closed
        self._close_seen = False
        self._over = False
        self._error: ProtocolError | None = None
        self.client_id = ""

    async def run(self) -> ProtocolError | None:
        """Write until everything is said, while `read` runs; return the error that is left to say, if there is one."""
        self._timer = self._loop.call_later(self._config.first_request_timeout, self._on_first_request_timeout)
        try:
            while not self._over:
                self._woken = False
                message = self._next_message()
                # No local variable holds the session: a client that does not read keeps this frame for as long.
                if message is not None:
                    await self._context.write(message)
                    message = None  # an idle stream holds nothing
                    self._sent_at = self._loop.time()
                    if self._managed is not None and not self._managed.resumable:
                        # Nobody acknowledges a plain session but HTTP/2 (P4).
                        self._managed.ack(self._managed.outbox.sent)
                    if self._more:
                        continue
                elif (
                    self._managed is not None
                    and self._managed.session.ended
                    and (self._read_all or not self._managed.resumable)
                ):
                    self._end()  # all is written, or no ack will come to make room for the rest (A1)
                if not self._woken:
                    self._sleep = self._loop.create_future()
                    await self._sleep
        except grpc.aio.BaseError:
            logger.debug("a stream broke while it was written to", exc_info=True)
        except Exception as error:
            self.fail(as_error(error))
        finally:
            self._timer.cancel()
            self._end()
        return self._error

    # --- what the session and the manager say -------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the writer look for something to write."""
        self._woken = True
        if not self._sleep.done():
            self._sleep.set_result(None)

    def events_taken(self) -> None:
        """Acknowledge what the session took over, now or soon; go on reading if that waited for it."""
        managed = self._managed
        if managed is None:
            return
        if not managed.resumable:
            self._wake_reader()
        elif managed.inbox.ack_due:
            self.wake_ack()
        elif managed.inbox.ack_pending:
            self._acks.add(self)

    def wake_ack(self) -> None:
        """Write an ack, if something is still unacknowledged."""
        if self._managed is not None and self._managed.inbox.ack_pending:
            self._ack_now = True
            self.wake()

    def fail(self, error: ProtocolError) -> None:
        """End the stream with an error; only the first counts."""
        if self._over:
            return
        if self._managed is not None:
            error.details.setdefault("received", str(self._managed.inbox.taken))
        # The frames of tracebacks hold the request, up to 4 MB, and they hold this: only the garbage collector would
        # end that, and it comes late where there are many sessions.
        self._error = error.with_traceback(None)
        error.__cause__ = error.__context__ = None
        self._end()

    def forgotten(self) -> None:
        """End the stream: its session has ended and is gone (A7)."""
        managed = self._managed
        if managed is not None and not managed.outbox.finished:
            self.fail(EndedUndelivered("the session ended, and what it still had to say was not acknowledged in time"))
        else:
            self._end()

    def announce_draining(self, grace: float) -> None:
        """Tell the client that the server shuts down."""
        self._controls += (pb.AttachResponse(draining=pb.Draining(grace=_duration(grace))),)
        self.wake()

    def _end(self) -> None:
        self._over = True
        self._detach()
        self.wake()
        self._wake_reader()

    def _detach(self) -> None:
        managed, self._managed = self._managed, None
        if managed is not None:
            managed.detach(self, self._error)

    # --- the writer ---------------------------------------------------------------------------------------------------

    def _next_message(self) -> bytes | None:
        """Return the next message, None when nothing is due. One control part a message: they share a oneof."""
        managed = self._managed
        if managed is None:
            return None
        if self._controls:
            response, self._controls = self._controls[0], self._controls[1:]
            self._more = bool(self._controls) or managed.session.ended or managed.starved
            self._add_ack(managed, response)
            return response.SerializeToString()
        managed.feed()
        most = min(BATCH_SIZE, self._config.max_message_bytes - MESSAGE_OVERHEAD)
        first, commands = managed.outbox.take(most, payload.FRAME)
        starved = managed.starved
        self._more = starved or managed.session.ended
        stalled = starved and not commands
        if stalled and not self._starved:
            managed.command_stalls += 1
        self._starved = stalled
        if not commands and not self._ack_now and not self._heartbeat:
            return None
        self._heartbeat = False
        if managed.resumable:
            response = pb.AttachResponse()
            if commands:
                response.first_sequence = first
                if managed.ack_stopwatch is not None and managed.ack_stopwatch.item is None:
                    managed.ack_stopwatch.start(first + len(commands) - 1)
            self._add_ack(managed, response)
            commands.insert(0, response.SerializeToString())
        return b"".join(commands)

    def _add_ack(self, managed: ManagedSession, response: pb.AttachResponse) -> None:
        self._ack_now = False
        if managed.resumable and managed.inbox.ack_pending:
            response.ack = managed.inbox.ack()

    # --- the reader ---------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Take requests, and from the end of `run` on drop them, until the client half-closes or the call is over."""
        try:
            while isinstance(data := await self._context.read(), bytes):  # else it is grpc.aio.EOF
                if self._over:
                    break
                self._received_at = self._loop.time()
                if self._rate is not None and not await self._wait_rate(self._rate, len(data)):
                    break
                self._on_request(pb.AttachRequest.FromString(data))
                del data  # an idle stream holds nothing
                # HTTP/2 holds a plain client back (P4). A resumable one knows its window, and the reader never waits.
                while self._managed and not self._managed.resumable and not self._managed.inbox.has_room:
                    await self._wait_room()
                if self._over:
                    break
            else:
                if not self._over:
                    self._on_half_close()
                return
        except grpc.aio.BaseError as error:  # the call is over
            if not self._over:
                raise
            error.__traceback__ = None  # of an abort, which gRPC keeps until the garbage collector comes
            return
        except DecodeError:
            self.fail(PayloadInvalid("the request cannot be decoded as an AttachRequest"))
        except Exception as error:
            self.fail(as_error(error))
        data = b""  # what ended the stream may be megabytes, and the client need not read on to its end
        await read_on(self._context, self._rate)

    async def _wait_room(self) -> None:
        self._room = self._loop.create_future()
        await self._room

    def _wake_reader(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _wait_rate(self, rate: Rate, size: int) -> bool:
        """Wait until the principal may send so many bytes; return False if the stream has ended before."""
        delay = rate.take(size)
        if delay > 0:
            self._received_at = self._loop.time() + delay  # it is not the client who is silent (F3)
            if self._managed is None and self._timer is not None:
                self._timer.cancel()  # the first request is here (F1)
            try:
                async with asyncio.timeout(delay):
                    while not self._over:
                        await self._wait_room()
                rate.give_back(size)
            except TimeoutError:
                pass
        return not self._over

    def _on_request(self, request: pb.AttachRequest) -> None:
        control = request.WhichOneof("control")
        first = self._managed is None
        if first and control == "open":
            self._check_first_ack(request.ack if request.open.resumable else 0, 0)
            self._on_open(request.open)
        elif first and control == "resume":
            self._check_first_ack(request.ack, request.resume.received)
            self._on_resume(request.resume)
        elif first:
            raise ProtocolViolation("the first request of a stream holds open or resume (F1)")
        if request.ack:
            self._on_ack(request.ack)
        if not first and control in ("open", "resume"):
            raise ProtocolViolation(f"{control} in a stream that has its session already (F2): use a new stream")
        if request.events:
            self._on_events(request)
        if control == "close":
            self._on_close(request.close)

    def _check_first_ack(self, ack: int, received: int) -> None:
        """Refuse an ack that the attach could not honour, before it changes anything (F6, A3)."""
        if ack > received:
            raise ProtocolViolation(f"ack {ack} is beyond what this stream begins with, {received} (D3)")

    def _on_open(self, request: pb.Open) -> None:
        try:
            params = payload.decode_struct(request.params, "params")
        except PayloadError as error:
            raise PayloadInvalid(str(error)) from None
        window = self._command_window(request.command_window)
        managed = self._manager.open(
            request.app,
            principal=self.principal,
            info=get_session_info_from_headers(request.headers or self._metadata, self._context.peer()),
            params=params,
            resumable=request.resumable,
            request_id=request.request_id,
            resume_window=_seconds(request.resume_window),
            command_window=window,
            command_format=_FORMATS.get(request.command_format, payload.Format.VALUE),
        )
        # The repeat of an open that has succeeded is a resume from the start, but for the answer (A6).
        self._attach(managed, request.client_id, received=0, window=window)
        self._answer(
            pb.AttachResponse(
                opened=pb.Opened(
                    session_id=managed.session.id, resume_token=managed.token, limits=self._limits(managed, window)
                )
            )
        )

    def _on_resume(self, request: pb.Resume) -> None:
        managed = self._manager.find(request.session_id, request.resume_token, self.principal)
        window = self._command_window(request.command_window)
        info = managed.session.info.updated(request.headers, self._context.peer())
        self._attach(managed, request.client_id, received=request.received, window=window, info=info)
        resumed = pb.Resumed(received=managed.inbox.taken, limits=self._limits(managed, window))
        self._answer(pb.AttachResponse(resumed=resumed))

    def _answer(self, response: pb.AttachResponse) -> None:
        self._controls += (response,)
        if (grace := self._manager.grace_left) is not None:
            self.announce_draining(grace)

    def _attach(
        self,
        managed: ManagedSession,
        client_id: str,
        *,
        received: int,
        window: Window,
        info: SessionInfo | None = None,
    ) -> None:
        self.client_id = client_id
        try:
            managed.attach(self, received=received, command_window=window, resuming=info is not None, info=info)
        except ProtocolError as error:
            error.details.setdefault("received", str(managed.inbox.taken))
            raise
        self._managed = managed
        self._metadata = NO_HEADERS
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._config.heartbeat_interval, self._on_heartbeat_timer)
        self.wake()

    def _on_ack(self, ack: int) -> None:
        managed = self._managed
        if managed is not None and managed.resumable:
            managed.ack(ack)
            if self._starved:  # an ack wakes nobody else (D3)
                self.wake()

    def _on_events(self, request: pb.AttachRequest) -> None:
        managed = self._managed
        if managed is None or self._close_seen:  # what comes after close is ignored (F6)
            return
        inbox, events = managed.inbox, request.events
        skipped = 0
        if managed.resumable:
            if not request.first_sequence:
                raise ProtocolViolation("events of a resumable session carry first_sequence (F6)")
            skipped = inbox.skip(request.first_sequence, len(events))
        try:
            for event in events[skipped:] if skipped else events:
                inbox.put(payload.decode_event(event), event.ByteSize(), exempt=not managed.resumable)
        except PayloadError as error:
            raise PayloadInvalid(f"the payload of an event: {error}", sequence=inbox.expected) from None
        finally:
            managed.take_over()
            self.events_taken()

    def _on_close(self, request: pb.Close) -> None:
        managed = self._managed
        if managed is None:
            return
        self._close_seen = True
        now = " now" if request.now else ""
        SessionLogger(logger, managed.session.id).info("its client closes it%s: %.200r", now, request.reason)
        if request.now:
            managed.close_now(request.reason)
        else:
            managed.end_events()

    def _on_half_close(self) -> None:
        self._read_all = True
        managed = self._managed
        if managed is None:
            self.fail(ProtocolViolation("the stream ended before open or resume (F1)"))
        elif not managed.resumable:
            managed.end_events()  # P2
        self.wake()

    # --- time ---------------------------------------------------------------------------------------------------------

    def _on_first_request_timeout(self) -> None:
        self.fail(FirstRequestTimeout(f"no open or resume within {self._config.first_request_timeout:g} s (F1)"))

    def _on_heartbeat_timer(self) -> None:
        """Look whether either side has been silent for too long (F3): one timer a stream, however much it carries."""
        interval, now = self._config.heartbeat_interval, self._loop.time()
        managed = self._managed
        if managed is None:
            return
        if managed.resumable and now - self._received_at >= interval * SILENT_INTERVALS:
            self.fail(HeartbeatLost(f"nothing was received for {interval * SILENT_INTERVALS:g} s (F3)"))
            return
        due = self._sent_at + interval
        if now >= due:
            self._heartbeat = True
            self.wake()
            due = now + interval
        if managed.resumable:
            due = min(due, self._received_at + interval * SILENT_INTERVALS)
        self._timer = self._loop.call_at(due, self._on_heartbeat_timer)

    # --- limits -------------------------------------------------------------------------------------------------------

    def _command_window(self, asked: pb.Window) -> Window:
        most = self._config.command_window
        if not asked.messages and not asked.bytes:
            return most  # as most do: one object for all of them
        return Window(min(asked.messages or most.messages, most.messages), min(asked.bytes or most.size, most.size))

    def _limits(self, managed: ManagedSession, window: Window) -> pb.Limits:
        events = managed.inbox.window
        return pb.Limits(
            event_window=pb.Window(messages=events.messages, bytes=events.size),
            command_window=pb.Window(messages=window.messages, bytes=window.size),
            max_message_bytes=self._config.max_message_bytes,
            heartbeat_interval=_duration(self._config.heartbeat_interval),
            resume_window=_duration(managed.resume_window) if managed.resumable else None,
        )


async def read_on(context: Context, rate: Rate | None = None) -> None:
    """Drop what comes until the client half-closes, the call is over, or more comes than ``rate`` allows."""
    try:
        while isinstance(data := await context.read(), bytes):
            if rate is not None and rate.take(len(data)) > 0:
                return
    except grpc.aio.BaseError as error:  # the call is over
        error.__traceback__ = None  # as in `Attachment.read`


def _duration(seconds: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))


def _seconds(duration: duration_pb2.Duration) -> float:
    return max(0.0, duration.seconds + duration.nanos / 1e9)
