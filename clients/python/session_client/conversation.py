"""A client's side of one session without IO: what to write next, and what a response means.

It outlives streams. For each stream the caller writes `first_request`, then whatever `next_request` returns whenever
something has changed, and hands every response to `receive`. The rules are those of docs/protocol.md, D1 to E1.
"""

from __future__ import annotations

import enum
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from session_service import payload
from session_service.delivery import Inbox, Outbox
from session_service.errors import ProtocolViolation
from session_service.v1 import session_pb2 as pb
from session_service.window import Window

__all__ = ["CloseReason", "Closed", "Command", "Conversation", "Position"]

# About what a batch of events holds, in bytes (protocol F7).
BATCH_SIZE = 256 * 1024

# What a message keeps free for its other parts.
MESSAGE_OVERHEAD = 1024

# Of these, the most that a sequence, an ack and the frame of a close take.
NUMBERS = 32

# In characters; the server cuts it there, too.
LONGEST_REASON = 1000

DEFAULT_MAX_MESSAGE = 4_000_000


class CloseReason(enum.Enum):
    """Why a session ended (protocol E4)."""

    UNSPECIFIED = pb.CLOSE_REASON_UNSPECIFIED
    COMPLETED = pb.CLOSE_REASON_COMPLETED
    CLIENT = pb.CLOSE_REASON_CLIENT
    SERVER = pb.CLOSE_REASON_SERVER
    EXPIRED = pb.CLOSE_REASON_EXPIRED
    FAILED = pb.CLOSE_REASON_FAILED
    SHUTDOWN = pb.CLOSE_REASON_SHUTDOWN

    @classmethod
    def _missing_(cls, value: object) -> CloseReason:
        return cls.UNSPECIFIED  # of a newer server


@dataclass(frozen=True, slots=True)
class Command:
    """What the app sent.

    Attributes:
        command: its name.
        task_id: the task that sent it; answer with an event for that task.
        spec: a JSON value, ``bytes`` or a protobuf message.
    """

    command: str
    task_id: str
    spec: Any


@dataclass(frozen=True, slots=True)
class Closed:
    """How the session ended.

    Attributes:
        reason: who or what ended it.
        message: for people; names the error id where the app failed.
    """

    reason: CloseReason
    message: str


@dataclass(frozen=True, slots=True)
class Position:
    """Where a client is in a session: what another process needs to go on. It holds the token, so it is a secret.

    Attributes:
        id: the session.
        token: resumes it.
        received: the last command that the application has in hand, or had.
        sent: the last event that was sent.
    """

    id: str
    token: str = field(repr=False)
    received: int
    sent: int


class Conversation:
    """The state of one session at the client.

    Attributes:
        id: the session's id; empty before the first answer.
        resumable: whether it outlives its streams.
        attached: the current stream has been answered.
        closed: how it ended, known before the application has taken what came before.
        draining: the server has said that it shuts down.
        failed: the error that the current stream is about to end with; None without one.
        held: events are held back: one may be what breaks the streams (D7).
        suspect: the event that it may be, which goes alone until it is acknowledged; 0 where none is suspected.
        may_run: an open was written, and no answer has said that it opened nothing.
        given_up: nobody wants what was opened (A6).
        heartbeat_interval: seconds of silence after which an empty message is due.
        outbox: events.
        inbox: commands, and `Closed` as the last.
    """

    def __init__(self, opening: pb.Open | None, position: Position | None, command_window: Window) -> None:
        """Begin with an ``opening``, or go on from a ``position``."""
        self.id = position.id if position else ""
        self.resumable = opening.resumable if opening else True
        self.attached = False
        self.closed: Closed | None = None
        self.draining = False
        self.failed: status_pb2.Status | None = None
        self.held = False
        self.suspect = 0
        self.may_run = False
        self.given_up = False
        self.heartbeat_interval = 25.0
        self.outbox: Outbox[bytes] = Outbox(Window(0, 0), position.sent if position else 0)
        self.inbox: Inbox[Command | Closed] = Inbox(command_window, position.received if position else 0)
        self._adopts = position is not None  # only the server knows which event is the next
        self._opening = opening
        self._token = position.token if position else ""
        self._command_window = pb.Window(messages=command_window.messages, bytes=command_window.size)
        self._client_id = opening.client_id if opening else str(uuid.uuid4())
        self._max_message = DEFAULT_MAX_MESSAGE
        self._holding = False  # the application works on the head of the inbox
        self._ready: deque[Command | Closed] = deque()  # acknowledged before it was asked for, since we are closing
        self._close: pb.Close | None = None
        self._close_written = False

    # --- for the application ------------------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """Where this client is; the command in hand counts as done.

        It could not be resumed from otherwise: asking for the next command acknowledges it.
        """
        return Position(self.id, self._token, self.inbox.taken + self._holding, self.outbox.last)

    @property
    def opened(self) -> bool:
        """True once the session is known to exist."""
        return bool(self.id)

    @property
    def taken_over(self) -> int:
        """The last event that the server has said it took over; of a plain session it says nothing."""
        return self.outbox.acked if self.resumable and not self._adopts else 0

    @property
    def closing(self) -> bool:
        """True once `close` was called."""
        return self._close is not None

    def send(self, event: str, data: Any, task_id: str) -> bool:
        """Add an event; return False where the window has no room.

        Raises:
            PayloadError: ``data`` cannot be carried exactly.
        """
        messages, room = self.outbox.room()
        if messages < 1 or room < 1:
            return False
        item, size = payload.encode_event(event, task_id, data, self._max_message - MESSAGE_OVERHEAD)
        self.outbox.append(item, size)
        return True

    def release(self) -> None:
        """Acknowledge the command that `take` gave out last: the application has done with it (D4)."""
        if self._holding:
            self._holding = False
            self.inbox.take()

    def take(self) -> Command | Closed | None:
        """Return the next command, or how the session ended, or None when nothing is there."""
        self.release()
        if self._ready:
            item = self._ready.popleft()
        elif (head := self.inbox.head) is None:
            return None
        else:
            item = head[0]
            self._holding = True
        if isinstance(item, Closed):
            self.release()
        return item

    def give_back(self, command: Command) -> None:
        """Undo `take`: nobody got the command."""
        if self._holding:
            self._holding = False
        else:
            self._ready.appendleft(command)

    def close(self, reason: str, now: bool) -> None:
        """End the session: behind what has been sent, or ``now``."""
        if self._close is None or (now and not self._close.now):
            self._close = pb.Close(reason=reason[:LONGEST_REASON], now=now)
            self._close_written = False
            self.take_all()

    def give_up(self) -> None:
        """Close what was opened, and say no more, whether or not the open has been answered (A6)."""
        self.given_up = True
        self.close("the client gave the open up", now=True)

    def take_all(self) -> None:
        """Acknowledge everything, and keep it for `take`.

        After `close` that is done at once with whatever comes: else a full window and a graceful close would wait for
        each other (D4).
        """
        self.release()
        while (head := self.inbox.head) is not None:
            self._ready.append(head[0])
            self.inbox.take()

    # --- for the stream -----------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True when nothing is left to be said, to either side."""
        told = not self.resumable or (self.inbox.head is None and not self.inbox.ack_pending)
        return self.closed is not None and told

    @property
    def all_said(self) -> bool:
        """True when the client has nothing more to say on this stream, and half-closes (E2, A6)."""
        return self.finished or self.failed is not None or (self.given_up and self._close_written)

    def first_request(self) -> bytes:
        """Begin a stream; return what to write first."""
        self.end_stream()
        self._close_written = False
        self.inbox.restart_acks(self.inbox.expected - 1, told=0)
        if not self.opened and self._opening is not None:
            self.may_run = True
            return pb.AttachRequest(open=self._opening).SerializeToString()
        resume = pb.Resume(
            session_id=self.id,
            resume_token=self._token,
            received=self.inbox.expected - 1,
            command_window=self._command_window,
            client_id=self._client_id,
        )
        return pb.AttachRequest(resume=resume).SerializeToString()

    def next_request(self, ack: bool = False, heartbeat: bool = False) -> bytes | None:
        """Return what to write next; None when nothing is due.

        Args:
            ack: acknowledge even if nothing else is to be written.
            heartbeat: write something in any case.
        """
        if self.given_up and not self._close_written:
            self._close_written = True
            return pb.AttachRequest(close=self._close).SerializeToString()
        if not self.attached:
            return None
        first, events = self._take_events()
        head = pb.AttachRequest()
        if self.resumable:
            if events:
                head.first_sequence = first
            if self.inbox.ack_pending and (events or ack or heartbeat or self.inbox.ack_due):
                head.ack = self.inbox.ack()
        else:
            self.outbox.ack(self.outbox.sent)
        data = b"".join(events)
        close = self._close
        if close is not None and not self._close_written and (close.now or not self.outbox.waiting):
            # Its reason may be long: where that has no room it waits for the next message.
            fits = not events or len(data) + close.ByteSize() + NUMBERS <= self._max_message
            if fits:
                self._close_written = True
                head.close.CopyFrom(close)
        data = head.SerializeToString() + data
        return data if data or heartbeat else None

    def _take_events(self) -> tuple[int, list[bytes]]:
        outbox = self.outbox
        if self.held or outbox.acked < self.suspect <= outbox.sent:
            return 0, []
        alone = outbox.acked < self.suspect
        most = 0 if alone else min(BATCH_SIZE, self._max_message - MESSAGE_OVERHEAD)
        return outbox.take(most, payload.FRAME)

    def end_stream(self) -> None:
        """Forget what was so on the stream that has ended."""
        self.attached = self.held = False
        self.suspect = 0
        self.failed = None

    def receive(self, data: bytes) -> None:
        """Take a response.

        Raises:
            DecodeError, ProtocolError, PayloadError: it breaks the stream (D7).
        """
        response = pb.AttachResponse.FromString(data)
        control = response.WhichOneof("control")
        if control == "failed":
            self._on_failed(response.failed)
        elif not self.attached:
            if control is None and not response.commands and not response.ack:
                return  # a heartbeat, or what this client does not know (F3, F6)
            self._on_answer(response, control)
        if response.ack and self.resumable:
            self.outbox.ack(response.ack)
        if response.commands:
            first = response.first_sequence if self.resumable else self.inbox.expected
            for command in response.commands[self.inbox.skip(first, len(response.commands)) :]:
                spec = payload.decode_command_spec(command)
                # Its window bounds a resumable server; a plain one is held back by HTTP/2.
                self.inbox.put(
                    Command(command.command, command.task_id, spec), command.ByteSize(), exempt=not self.resumable
                )
        if control == "closed":
            self._on_closed(response.closed)
        elif control == "draining":
            self.draining = True
        if self.closing:
            self.take_all()

    def _on_answer(self, response: pb.AttachResponse, control: str | None) -> None:
        if control == "opened" and not self.opened:
            self.id, self._token = response.opened.session_id, response.opened.resume_token
            limits = response.opened.limits
            self.outbox.resume(0)
        elif control == "resumed" and self.opened:
            received, limits = response.resumed.received, response.resumed.limits
            if self._adopts:
                self._adopts = False
                self.outbox = Outbox(Window(0, 0), received)
            self.outbox.resume(received)
            self.outbox.ack(received)
        else:
            raise ProtocolViolation(f"the server began with {control}")
        self.attached = True
        self.outbox.window = _window(limits.event_window)
        if self.resumable:
            self.inbox.window = _window(limits.command_window)
        self._max_message = limits.max_message_bytes or DEFAULT_MAX_MESSAGE
        interval = limits.heartbeat_interval
        self.heartbeat_interval = interval.seconds + interval.nanos / 1e9 or self.heartbeat_interval

    def _on_failed(self, failed: pb.Failed) -> None:
        try:
            status = status_pb2.Status.FromString(failed.status)
        except DecodeError:
            return  # the status of the call says the same
        if status.code:
            self.failed = status

    def _on_closed(self, closed: pb.Closed) -> None:
        if self.inbox.skip(closed.sequence if self.resumable else self.inbox.expected, 1) == 0:
            self.closed = Closed(CloseReason(closed.reason), closed.message)
            self.inbox.put(self.closed, 0, exempt=True)


def _window(window: pb.Window) -> Window:
    default = Window()  # for what is absent (D5)
    return Window(window.messages or default.messages, window.bytes or default.size)
