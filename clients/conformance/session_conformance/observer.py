"""The observer of the wire: it sees every message of every stream, and knows what no client may ever do.

It does no IO. Whoever carries the streams tells it what passes, requests when they arrive and responses before they
leave; whoever drives the client tells it what the application has asked for. What is wrong is in `violations`, each
with the rule of docs/protocol.md that it is against.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from session_service.v1 import session_pb2 as pb

from .matching import show

__all__ = ["Observer", "Stream"]

# What a client may have sent before it has its limits (D5).
INITIAL_WINDOW = pb.Window(messages=16, bytes=64 * 1024)
DEFAULT_WINDOW = pb.Window(messages=1024, bytes=1024 * 1024)
DEFAULT_MAX_MESSAGE = 4_000_000

# A batch is cut at about 256 KiB (F7): this is no longer about.
LARGEST_BATCH = 384 * 1024

# The shortest request id that a server takes (A6).
SHORTEST_REQUEST_ID = 16


@dataclass(eq=False)
class Stream:
    """What has passed on one stream.

    Attributes:
        number: counts the streams of the case, from 1.
        metadata: what came with the call.
        began: when it arrived, by the monotonic clock.
        ended: when it ended; None before.
        requests: what the client has written.
        last_event: the sequence of the last event on it; 0 before the first.
        events: by their sequences; a plain session's are counted.
        ack: the last that the client has sent on it; 0 before the first.
        close: the client's.
        half_closed: the client has done writing.
        cancelled: the client has cancelled the call, or its connection is gone.
        written: the last sequence of the server on it, or that it began with.
        last: ``closed`` or ``failed``, once the server has written that; empty before.
        attached: the server has answered with its limits.
        suspicion: what is wrong with the half-close if it was one, and no cancellation.
        log: all that has passed, for people.
    """

    number: int
    metadata: Mapping[str, str]
    began: float
    ended: float | None = None
    requests: list[pb.AttachRequest] = field(default_factory=list)
    last_event: int = 0
    events: dict[int, pb.Event] = field(default_factory=dict)
    ack: int = 0
    close: pb.Close | None = None
    half_closed: bool = False
    cancelled: bool = False
    written: int = 0
    last: str = ""
    attached: bool = False
    suspicion: tuple[str, str] | None = None
    log: list[str] = field(default_factory=list)

    @property
    def first_event(self) -> int:
        """The sequence of the first event on it; 0 before that."""
        return min(self.events, default=0)

    @property
    def heartbeats(self) -> int:
        """How many empty messages the client has sent."""
        return sum(not request.ByteSize() for request in self.requests)

    @property
    def acks(self) -> int:
        """How many of the requests have an ack."""
        return sum(request.ack > 0 for request in self.requests)

    @property
    def closing(self) -> bool:
        """Whether the client has ended its events."""
        return self.close is not None or self.half_closed


class Observer:
    """Sees what passes between one client and its servers, one session at a time.

    Attributes:
        streams: all that there were, in the order in which they began.
        violations: the rules that were broken, each once.
    """

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.violations: list[str] = []
        self._new_session()

    def _new_session(self) -> None:
        self._opening: pb.Open | None = None
        self._resumable = True
        self._client_id = ""
        self._session_id = self._token = ""
        self._is_open = False  # the application knows that the session exists
        self._is_given_up = False
        self._events: dict[int, pb.Event] = {}
        self._sizes: dict[int, int] = {}
        self._told = 0  # the last event that the server has told that it was taken over
        self._acked = 0  # the last command that the client has acknowledged
        self._last_command = 0
        self._closed = 0  # the sequence of `closed`, once it was written
        self._may_ack: int | None = 0  # None: whatever comes
        self._taken = 0  # commands that the application has got
        self._asked = 0  # those that it waits for
        self._window = DEFAULT_WINDOW
        self._max_message = DEFAULT_MAX_MESSAGE

    # --- the application ----------------------------------------------------------------------------------------------

    def on_open(self) -> None:
        """The application opens a session."""
        self._new_session()

    def on_resume(self, received: int) -> None:
        """The application goes on from a position, maybe in another process."""
        self._client_id = ""
        self._acked = 0
        self._events = {sequence: event for sequence, event in self._events.items() if sequence <= self._told}
        self._taken, self._may_ack = received, received

    def on_opened(self) -> None:
        """The application has been told that the session is attached."""
        self._is_open = True

    def on_receive(self, count: int) -> None:
        """The application asks for so many commands, 0 for all; the last of them it will have in hand."""
        self._asked += count
        if self._may_ack is not None:
            self._may_ack = max(self._may_ack, self._taken + self._asked - 1) if count else None

    def on_received(self, asked: int, count: int) -> None:
        """The application has got so many commands of those that it ``asked`` for at once."""
        self._asked -= asked
        self._taken += count

    def on_release(self) -> None:
        """The application has done with the command in hand."""
        if self._may_ack is not None:
            self._may_ack = max(self._may_ack, self._taken)

    def on_close(self) -> None:
        """The application ends the session: all is acknowledged from now on (D4)."""
        self._may_ack = None

    def on_give_up(self) -> None:
        """The application does not want the session any more that it has begun to open."""
        self._is_given_up = True

    # --- the wire -----------------------------------------------------------------------------------------------------

    def begin(self, metadata: Mapping[str, str], has_deadline: bool = False) -> Stream:
        """A stream arrives."""
        stream = Stream(len(self.streams) + 1, dict(metadata), time.monotonic())
        self.streams.append(stream)
        if has_deadline:
            self._violation(stream, "F0", "the call has a deadline")
        return stream

    def on_request(self, stream: Stream, request: pb.AttachRequest) -> None:
        """The client's request arrives."""
        stream.log.append(f"> {show(request)}")
        control = request.WhichOneof("control")
        if not stream.requests:
            if control not in ("open", "resume"):
                self._violation(stream, "F1", f"the first request holds {control}, neither open nor resume")
        elif control in ("open", "resume"):
            self._violation(stream, "F2", f"{control} in a later request")
        stream.requests.append(request)
        if (size := request.ByteSize()) > self._max_message:
            self._violation(stream, "F7", f"a request of {size} bytes, and {self._max_message} are allowed")
        elif size > LARGEST_BATCH and len(request.events) > 1:
            self._violation(stream, "F7", f"a batch of {len(request.events)} events and {size} bytes")
        if request.ack and self._resumable:
            self._on_ack(stream, request.ack)
        if control == "open":
            self._on_open(stream, request.open)
        elif control == "resume":
            self._on_resume(stream, request.resume)
        if request.events:
            self._on_events(stream, request)
        if control == "close":
            stream.close = request.close

    def on_half_close(self, stream: Stream) -> None:
        """The client has done writing, or so it seems: `confirm_half_close` when it has not cancelled the call."""
        stream.half_closed = True
        stream.log.append("> half-close")
        if not self._resumable or stream.last == "failed" or (self._is_given_up and stream.close is not None):
            return
        if not self._closed:
            stream.suspicion = "A1", "a resumable client half-closes before it has `closed`"
        elif stream.ack < self._closed:
            stream.suspicion = "D4", f"it half-closes without an ack of `closed`, which is {self._closed}"

    def confirm_half_close(self, stream: Stream) -> None:
        """The half-close was one, and not the beginning of a cancellation."""
        if stream.suspicion is not None:
            self._violation(stream, *stream.suspicion)

    def on_cancel(self, stream: Stream) -> None:
        """The client has cancelled the call, or its connection is gone."""
        stream.cancelled = True
        self.on_end(stream, "> cancelled")

    def on_end(self, stream: Stream, how: str) -> None:
        """The call has ended; nothing passes from now on."""
        if stream.ended is None:
            stream.ended = time.monotonic()
            stream.log.append(how)

    def on_response(self, stream: Stream, response: pb.AttachResponse) -> None:
        """The server's response is about to leave."""
        stream.log.append(f"< {show(response)}")
        control = response.WhichOneof("control")
        if control == "opened":
            if stream.requests and stream.requests[0].HasField("open"):
                self._session_id, self._token = response.opened.session_id, response.opened.resume_token
            self._on_limits(stream, response.opened.limits)
        elif control == "resumed":
            self._told = max(self._told, response.resumed.received)
            self._on_limits(stream, response.resumed.limits)
        self._told = max(self._told, response.ack)
        if response.commands:
            stream.written = max(stream.written, response.first_sequence + len(response.commands) - 1)
        if control in ("closed", "failed"):
            stream.last = control
        if control == "closed":
            self._closed = response.closed.sequence
            stream.written = max(stream.written, self._closed)
        self._last_command = max(self._last_command, stream.written)

    def on_other(self, stream: Stream, what: str) -> None:
        """Something passes that is no message, or is for people only."""
        stream.log.append(what)

    # --- the rules ----------------------------------------------------------------------------------------------------

    def _violation(self, stream: Stream, rule: str, what: str) -> None:
        text = f"{rule}: {what} (stream {stream.number})"
        if text not in self.violations:
            self.violations.append(text)
        stream.log.append(f"! {rule}: {what}")

    def check_alone(self, stream: Stream) -> None:
        """An older stream should have ended by now, but for a short time."""
        for older in self.streams[: stream.number - 1]:
            if older.ended is None:
                self._violation(stream, "A3", f"stream {older.number} of the same client is still open")

    def _on_open(self, stream: Stream, opening: pb.Open) -> None:
        self._resumable = opening.resumable
        if not opening.resumable:
            if opening.request_id:
                self._violation(stream, "P1", "a request_id in a plain open")
            return
        if self._is_open:
            self._violation(stream, "D7a", "it opens again although the session had been opened")
        if len(opening.request_id) < SHORTEST_REQUEST_ID:
            self._violation(stream, "A6", f"the request_id {opening.request_id!r} is too short to be random")
        if self._opening is not None and (opening.request_id, opening.app) != (
            self._opening.request_id,
            self._opening.app,
        ):
            self._violation(stream, "A6", "the open is repeated with another request_id, or another app")
        self._opening = opening
        self._on_client_id(stream, opening.client_id)

    def _on_resume(self, stream: Stream, resume: pb.Resume) -> None:
        self._resumable = self._is_open = True
        if self._session_id and (resume.session_id, resume.resume_token) != (self._session_id, self._token):
            self._violation(stream, "A2", "the session or token of `resume` is not that of `opened`")
        self._on_client_id(stream, resume.client_id)
        if resume.received < self._acked:
            self._violation(stream, "A5", f"received {resume.received} is below the ack {self._acked}")
        if self._session_id and resume.received > self._last_command:
            self._violation(stream, "A5", f"received {resume.received}, and only {self._last_command} were sent")
        stream.written = resume.received

    def _on_client_id(self, stream: Stream, client_id: str) -> None:
        if not client_id:
            self._violation(stream, "A3", "there is no client_id")
        elif self._client_id and client_id != self._client_id:
            self._violation(stream, "A3", "the client_id is another one")
        self._client_id = client_id

    def _on_ack(self, stream: Stream, ack: int) -> None:
        # What an older stream still brings was written before the newer one began, and may arrive after its messages.
        is_newest = stream.number == len(self.streams)
        least = max(stream.ack, self._acked) if is_newest else stream.ack
        if ack < least:
            self._violation(stream, "D3", f"ack {ack} after ack {least}")
        if ack > stream.written:
            self._violation(stream, "D8", f"ack {ack}, and this stream has brought {stream.written}")
        if self._may_ack is not None and ack > self._may_ack:
            self._violation(stream, "D4", f"ack {ack}, and the application has done with {max(self._may_ack, 0)}")
        stream.ack = max(stream.ack, ack)
        self._acked = max(self._acked, ack)

    def _on_events(self, stream: Stream, request: pb.AttachRequest) -> None:
        first = request.first_sequence
        if stream.close is not None:
            self._violation(stream, "E1", "events after `close`")
        if not self._resumable:
            first = stream.last_event + 1
        elif not first:
            self._violation(stream, "F6", "events without first_sequence")
            return
        elif stream.last_event and first != stream.last_event + 1:
            self._violation(stream, "D1", f"event {first} after event {stream.last_event}")
        elif not stream.last_event and first > self._told + 1:
            self._violation(stream, "D1", f"event {first}, and {self._told + 1} is due")
        for sequence, event in enumerate(request.events, first):
            stream.events[sequence] = event
            stream.last_event = sequence
            if self._resumable:
                if self._events.setdefault(sequence, event) != event:
                    self._violation(stream, "D1", f"event {sequence} is another than before")
                self._sizes[sequence] = event.ByteSize()
        if self._resumable:
            self._check_window(stream)

    def _check_window(self, stream: Stream) -> None:
        window, last = self._window if stream.attached else INITIAL_WINDOW, stream.last_event
        if last > self._told + window.messages:
            self._violation(
                stream, "D5", f"event {last} is beyond the window: {self._told} acknowledged, {window.messages} allowed"
            )
        size = sum(self._sizes.get(sequence, 0) for sequence in range(self._told + 1, last + 1))
        if size > window.bytes and last > self._told + 1:
            self._violation(stream, "D5", f"{size} bytes are not acknowledged, and {window.bytes} are allowed")

    def _on_limits(self, stream: Stream, limits: pb.Limits) -> None:
        stream.attached = True
        self._window = pb.Window(
            messages=limits.event_window.messages or DEFAULT_WINDOW.messages,
            bytes=limits.event_window.bytes or DEFAULT_WINDOW.bytes,
        )
        self._max_message = limits.max_message_bytes or DEFAULT_MAX_MESSAGE
