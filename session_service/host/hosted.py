"""A session with what outlives its streams.

What it owns stands here, what a stream owns dies with it: a session knows a stream only as a `Stream`. Everything here
runs on the loop's thread, so an attach is one step: it is checked whole before anything changes.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ..config import Config
from ..delivery import Inbox, Outbox
from ..errors import ProtocolError, TakenOver
from ..lifecycle import App, Consequence, Link, LinkAct, LinkInput, Standing, Trigger, consequences, next_link, standing
from ..payload import EncodedCommand, Format, command_encoder, encode_closed
from ..session import AbstractSession, CloseReason, Principal, SessionInfo, SessionOptions
from ..session.stopwatch import Stopwatch
from ..session.tasks import Task
from ..session_logger import SessionLogger
from ..window import Window
from .expiry import Expiry
from .observers import Observers
from .requests import Request

__all__ = ["Around", "Host", "ManagedSession", "Stream"]

logger = logging.getLogger(__name__)

# Room that a message keeps for its other parts: sequences, acks, a control part.
MESSAGE_OVERHEAD = 1024

# In characters: a client chooses the text, and the server sends it back.
LONGEST_CLOSE_MESSAGE = 1000


class Stream(Protocol):
    """What a managed session knows of the stream that is attached to it."""

    client_id: str

    def wake(self) -> None:
        """There is something to write."""

    def events_taken(self) -> None:
        """The session has taken events over: there is something to acknowledge, and room for more."""

    def fail(self, error: ProtocolError) -> None:
        """End with this error; the session is not yours any more."""

    def forgotten(self) -> None:
        """The session has ended and nobody will ask for it again: end."""

    def announce_draining(self, grace: float) -> None:
        """Tell the client that the server shuts down in ``grace`` seconds."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the sessions of one server share, so that none has it for itself.

    Attributes:
        config: the settings.
        options: the limits of each session.
        tell: tells the observers.
        around: what tasks run in, see `AbstractSession`; None for nothing.
        expiry: has the timers.
        changed: to be called when a session has ended, or lost its stream.
        forget: lets go of a session that has ended.
    """

    config: Config
    options: SessionOptions
    tell: Observers
    around: Around | None
    expiry: Expiry
    changed: Callable[[], None]
    forget: Callable[[ManagedSession], None]


class ManagedSession:
    """A session with what outlives its streams.

    Attributes:
        session: the conversation itself.
        token: the secret that resumes it; empty for a plain session.
        app: the name it was opened by.
        principal: the name of who opened it.
        resumable: whether losing the stream is detach (True) or the end (False).
        resume_window: seconds that it is kept detached, or ended and undelivered.
        inbox: events on their way to the session.
        outbox: commands on their way to the client, ``closed`` as the last.
        request: what a repeat of its open would be known by.
        link: whether a stream is attached, or nobody will ask for the session any more.
        stream: the one that is attached. It alone may act; this identity is what fences off older ones (A3).
        generation: how many streams there have been.
        command_stalls: how often commands had to wait since the window was full.
        ack_stopwatch: times how long commands take to be acknowledged; None where nobody wants to know.
    """

    __slots__ = (
        "__weakref__",
        "_end_requested",
        "_host",
        "ack_stopwatch",
        "app",
        "command_stalls",
        "generation",
        "inbox",
        "link",
        "outbox",
        "principal",
        "request",
        "resumable",
        "resume_window",
        "session",
        "stream",
        "token",
    )

    def __init__(
        self,
        host: Host,
        target: Callable[[], Any],
        kind: type[AbstractSession],
        *,
        app: str,
        principal: Principal,
        info: SessionInfo,
        params: Mapping[str, Any],
        resumable: bool,
        resume_window: float,
        command_window: Window,
        command_format: Format,
    ) -> None:
        config = host.config
        self._host = host
        self._end_requested = False
        self.token = secrets.token_urlsafe(24) if resumable else ""
        self.app = app
        self.principal = principal.name
        self.resumable = resumable
        self.resume_window = resume_window
        self.request: Request | None = None
        self.link = Link.DETACHED
        self.stream: Stream | None = None
        self.generation = 0
        self.command_stalls = 0
        self.ack_stopwatch: Stopwatch | None = None
        self.inbox: Inbox[dict[str, Any]] = Inbox(config.event_window)
        self.outbox: Outbox[bytes] = Outbox(command_window)
        self.session: AbstractSession = kind(
            target,
            info,
            self._on_task_command,
            self._on_session_close,
            self._on_event_room,
            params=params,
            session_id=secrets.token_hex(8),
            encode=command_encoder(command_format, config.max_message_bytes - MESSAGE_OVERHEAD),
            options=host.options,
            principal=principal,
            around=functools.partial(host.around, self) if host.around is not None else None,
        )
        host.expiry.begin(self)

    # --- attachments --------------------------------------------------------------------------------------------------

    def attach(
        self,
        stream: Stream,
        *,
        received: int,
        command_window: Window,
        resuming: bool = False,
        info: SessionInfo | None = None,
    ) -> None:
        """Bind a stream; an older one is fenced off and ends with `TakenOver` (A3).

        Args:
            stream: what from now on alone may act.
            received: the last command that the client has; what comes after is replayed.
            command_window: what the client grants on this stream.
            resuming: the answer is `resumed`, not `opened`.
            info: what is known of the client now; None for what was known.

        Raises:
            ResumeImpossible: the outbox cannot go on from ``received``; nothing has changed.
            SessionUnknown: the session is forgotten.
        """
        link, act = next_link(self.link, LinkInput.ATTACH)
        self.outbox.resume(received)
        self.link = link
        old, self.stream = self.stream, stream
        if act is LinkAct.TAKE_OVER:
            assert old is not None
            takeover = TakenOver(by_same_client=bool(stream.client_id) and stream.client_id == old.client_id)
            old.fail(takeover)
            self._host.tell.detached(self, takeover)
        self.outbox.window = command_window
        if self.generation:  # what the streams before have left
            if self.ack_stopwatch is not None:
                self.ack_stopwatch.give_up()  # the stream may be lost with it: its time would be that of the outage
            self.inbox.drop_waiting()
            heard = self.inbox.taken if resuming else 0  # `resumed` names it, `opened` names nothing
            self.inbox.restart_acks(heard, told=heard)
            self._end_requested = False
            self._settle()
        self.generation += 1
        if info is not None:
            self.session.info = info
        self._host.tell.attached(self)
        self.session.notify_attach(resumed=self.generation > 1)

    def detach(self, stream: Stream, error: ProtocolError | None = None) -> None:
        """Note that a stream is lost: of a plain session that is the end. An older stream's end changes nothing."""
        current = self.stream is stream
        self.link = next_link(self.link, LinkInput.DETACH if current else LinkInput.DETACH_OLDER).state
        if not current:
            return
        self.stream = None
        self._host.tell.detached(self, error)
        if self.link is Link.FORGOTTEN:  # `forget` does the rest
            return
        self.inbox.drop_waiting()
        self._end_requested = False
        self._settle()
        if not self.session.closed():
            self.session.notify_detach()
        self._host.changed()

    # --- events -------------------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        """Hand the session what it has room for; what it took is acknowledged (D4), the rest waits (D1a)."""
        inbox, send = self.inbox, self.session.send_client_event
        while (head := inbox.head) is not None and send(*head):
            inbox.take()
        if head is None and self._end_requested:
            self.session.end_events()

    def end_events(self) -> None:
        """End the events behind those that still wait to be taken over (E1)."""
        self._end_requested = True
        self.take_over()

    def close_now(self, message: str) -> None:
        """Close the session at once; events that wait to be taken over stay unacknowledged (F6)."""
        self.inbox.drop_waiting()
        self.session.close(reason=CloseReason.CLIENT, message=message)

    # --- commands -----------------------------------------------------------------------------------------------------

    def feed(self) -> None:
        """Move commands from the session to the outbox, as far as that has room, and ``closed`` as the last."""
        session, outbox = self.session, self.outbox
        if outbox.final:
            return
        if session.pending_commands:
            messages, size = outbox.room()
            if messages > 0 and size > 0:
                commands: list[EncodedCommand] = session.get_task_commands(messages, size)
                outbox.extend(commands)
        if session.ended and not session.pending_commands:
            reason = session.close_reason or CloseReason.SERVER
            closed = encode_closed(reason.name, session.close_message[:LONGEST_CLOSE_MESSAGE], outbox.last + 1)
            outbox.append_final(closed, len(closed))

    @property
    def starved(self) -> bool:
        """True when commands wait for room in the window."""
        return self.outbox.waiting or self.session.pending_commands > 0

    def ack(self, sequence: int) -> None:
        """Note that the client has taken every command up to ``sequence``.

        Raises:
            ProtocolViolation: it has not been sent yet (D3).
        """
        if self.outbox.ack(sequence):
            if self.session.ended:
                if self.outbox.final and self.outbox.empty:
                    self.come_about(Trigger.ALL_ACKED)
                else:
                    self._settle(anew=True)  # A7: a resume window has to pass without any progress
            stopwatch = self.ack_stopwatch
            if stopwatch is not None and isinstance(stopwatch.item, int) and sequence >= stopwatch.item:
                stopwatch.stop()

    # --- the end ------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Let go of everything; called by the manager."""
        self.link, act = next_link(self.link, LinkInput.FORGET)
        self._host.expiry.settle(self, {})
        if act is LinkAct.END_STREAM:
            assert self.stream is not None
            self.stream.forgotten()
        # Code of the app that has not unwound may keep the session, which may hold megabytes.
        self.inbox.drop_waiting()
        self.outbox.drop()
        self.session.get_task_commands()

    def come_about(self, trigger: Trigger, message: str = "") -> None:
        """Do what follows from a trigger in the states of now; nothing where they say nothing of it.

        Args:
            trigger: what has come about.
            message: for the client.
        """
        app = App.ENDED if self.session.ended else App.RUNNING
        consequence = consequences(app, self.link, sequenced=self.resumable).get(trigger)
        if consequence is Consequence.EXPIRE:
            if message:
                SessionLogger(logger, self.session.id).info("closed, for %s", message)
            self.session.close(reason=CloseReason.EXPIRED, message=message)
        elif consequence is Consequence.HANG_UP:
            self.session.close(reason=CloseReason.CLIENT)
        elif consequence is Consequence.FORGET:
            if trigger is Trigger.RESUME_WINDOW:
                about = SessionLogger(logger, self.session.id)
                about.info("forgotten with %d commands undelivered", self.undelivered)
            self._host.forget(self)

    def _settle(self, *, anew: bool = False) -> None:
        """Do what the states of now call for at once, and have the timers that they call for."""
        app = App.ENDED if self.session.ended else App.RUNNING
        due = consequences(app, self.link, sequenced=self.resumable)
        self._host.expiry.settle(self, due, anew=anew)
        if Trigger.AT_ONCE in due:
            self.come_about(Trigger.AT_ONCE)

    def _on_task_command(self, _: AbstractSession) -> None:
        if self.stream is not None:
            self.stream.wake()

    def _on_event_room(self, _: AbstractSession) -> None:
        self.take_over()
        if self.stream is not None:
            self.stream.events_taken()

    def _on_session_close(self, _: AbstractSession) -> None:
        self._host.tell.ended(self)
        self._host.changed()
        self._settle(anew=True)
        if self.stream is not None:
            self.stream.wake()

    @property
    def progress(self) -> object:
        """Equal to what it was where neither side has said a thing since."""
        inbox, outbox = self.inbox, self.outbox
        return self.generation, inbox.taken, outbox.last, outbox.acked, self.session.pending_commands

    # --- for observers ------------------------------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        """Where it stands, as people are told."""
        return standing(App.ENDED if self.session.ended else App.RUNNING, self.link)

    @property
    def client_id(self) -> str:
        """What the client of the stream that is attached calls itself; empty where none is."""
        return self.stream.client_id if self.stream is not None else ""

    def time_events(self, stopwatch: Stopwatch) -> None:
        """Have it timed how long events wait for their task."""
        self.session.time_events(stopwatch)

    def time_acks(self, stopwatch: Stopwatch) -> None:
        """Have it timed how long commands wait for their ack."""
        self.ack_stopwatch = stopwatch

    @property
    def undelivered(self) -> int:
        """How many commands the client has not acknowledged; from any thread."""
        return self.outbox.unacked + self.session.pending_commands


Around = Callable[[ManagedSession, Task], AbstractContextManager[object]]
