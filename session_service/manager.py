"""Opens, finds, resumes, expires, drains and counts sessions.

A session outlives its streams: what it owns stands in `ManagedSession`, what a stream owns dies with it. The manager
knows a stream only as a `Stream`. Everything here runs on the loop's thread, so an attach is one step: it is checked
whole before anything changes.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from .config import Config
from .delivery import Inbox, Outbox
from .errors import (
    AppNotFound,
    Draining,
    PrincipalMismatch,
    ProtocolError,
    ProtocolViolation,
    RequestIdReused,
    SessionLimit,
    SessionUnknown,
    TakenOver,
)
from .host.observers import Observer, Observers
from .host.quota import Quotas, Rate
from .payload import EncodedCommand, Format, command_encoder, encode_closed
from .session import (
    ANONYMOUS,
    AbstractSession,
    CloseReason,
    CoroutineSession,
    Principal,
    SessionInfo,
    SessionOptions,
    ThreadSession,
)
from .session.app import check_app, is_coroutine_function
from .session.context import Task
from .session.stopwatch import Stopwatch
from .window import Window

__all__ = ["App", "Drained", "ManagedSession", "SessionManager", "Stream"]

logger = logging.getLogger(__name__)

App = Callable[[], Any]

# A principal, and the digest of the request id of an open.
Request = tuple[str, bytes]

# Room that a message keeps for its other parts: sequences, acks, a control part.
MESSAGE_OVERHEAD = 1024

# In characters: a client chooses the text, and the server sends it back.
LONGEST_CLOSE_MESSAGE = 1000

# A request id is as good as a token (protocol A6).
LEAST_REQUEST_ID = 16

# How long a request id is remembered after its session: a client repeats an open for 60 s at most (protocol A6).
REQUEST_ID_MEMORY = 120.0

# How often within an idle timeout it is looked whether anything has happened: so a session lives a quarter of it longer
# at most, and an event costs nothing for it.
IDLE_LOOKS = 4

# Of the 20 s that a shutdown may take beyond its grace (protocol E3): for tasks and deferred calls to end, and for
# attached clients to take the rest.
ENDING_TIME = 15.5
DELIVERY_TIME = 3.0


def _kind(name: str, app: App) -> type[AbstractSession]:
    check_app(name, app)
    return CoroutineSession if is_coroutine_function(app) else ThreadSession


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
class Drained:
    """How a drain went.

    Attributes:
        closed: sessions that had to be closed since the grace was over.
        undelivered: sessions whose clients have not had everything.
        commands: how many commands those had not acknowledged.
    """

    closed: int
    undelivered: int
    commands: int


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
        stream: the one that is attached. It alone may act; this identity is what fences off older ones (A3).
        generation: how many streams there have been.
        command_stalls: how often commands had to wait since the window was full.
        ack_stopwatch: times how long commands take to be acknowledged; None where nobody wants to know.
    """

    __slots__ = (
        "__weakref__",
        "_end_requested",
        "_idle",
        "_lifetime",
        "_loop",
        "_manager",
        "_timer",
        "ack_stopwatch",
        "app",
        "command_stalls",
        "generation",
        "inbox",
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
        manager: SessionManager,
        target: App,
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
        config = manager.config
        self._manager = manager
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._lifetime: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._end_requested = False
        self.token = secrets.token_urlsafe(24) if resumable else ""
        self.app = app
        self.principal = principal.name
        self.resumable = resumable
        self.resume_window = resume_window
        self.request: Request | None = None
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
            options=manager.session_options,
            principal=principal,
            around=functools.partial(manager.around, self) if manager.around is not None else None,
        )
        if (lifetime := config.session_lifetime) > 0:
            self._lifetime = self._loop.call_later(
                lifetime, self._expire, f"the session has had its lifetime of {lifetime:g} s"
            )
        if config.idle_timeout > 0:
            self._watch_idle(config.idle_timeout, None, 0)

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
        """
        self.outbox.check_resume(received)
        old, self.stream = self.stream, stream
        if old is not None:
            takeover = TakenOver(by_same_client=bool(stream.client_id) and stream.client_id == old.client_id)
            old.fail(takeover)
            self._manager.tell.detached(self, takeover)
        self.outbox.window = command_window
        self.outbox.resume(received)
        if self.ack_stopwatch is not None:
            self.ack_stopwatch.give_up()  # the stream may be lost with it: its time would be that of the outage
        self.inbox.drop_waiting()
        heard = self.inbox.taken if resuming else 0  # `resumed` names it, `opened` names nothing
        self.inbox.restart_acks(heard, told=heard)
        self._end_requested = False
        if not self.session.ended:
            self._stop_timer()
        self.generation += 1
        if info is not None:
            self.session.info = info
        self._manager.tell.attached(self)
        self.session.notify_attach(resumed=self.generation > 1)

    def detach(self, stream: Stream, error: ProtocolError | None = None) -> None:
        """Note that a stream is lost: of a plain session that is the end. An older stream's end changes nothing."""
        if self.stream is not stream:
            return
        self.stream = None
        self._manager.tell.detached(self, error)
        self.inbox.drop_waiting()
        self._end_requested = False
        if self.session.ended:
            if not self.resumable:
                self._manager.forget(self)
        elif self.resumable:
            self._start_timer()
            self.session.notify_detach()
        else:
            self.session.close(reason=CloseReason.CLIENT)
        self._manager.changed()

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
            if self.session.ended and self.resumable:
                self._progress_after_end()
            stopwatch = self.ack_stopwatch
            if stopwatch is not None and isinstance(stopwatch.item, int) and sequence >= stopwatch.item:
                stopwatch.stop()

    # --- the end ------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Let go of everything; called by the manager."""
        self._stop_timer()
        self._stop_limits()
        if self.stream is not None:
            self.stream.forgotten()
        # Code of the app that has not unwound may keep the session, which may hold megabytes.
        self.inbox.drop_waiting()
        self.outbox.drop()
        self.session.get_task_commands()

    def _progress_after_end(self) -> None:
        # A7: forgotten once everything is acknowledged, or when a resume window has passed without any progress.
        if self.outbox.final and self.outbox.empty:
            self._manager.forget(self)
        else:
            self._start_timer()

    def _on_task_command(self, _: AbstractSession) -> None:
        if self.stream is not None:
            self.stream.wake()

    def _on_event_room(self, _: AbstractSession) -> None:
        self.take_over()
        if self.stream is not None:
            self.stream.events_taken()

    def _on_session_close(self, _: AbstractSession) -> None:
        self._stop_limits()
        self._manager.tell.ended(self)
        self._manager.changed()
        if self.resumable:
            self._start_timer()
        elif self.stream is None:
            self._manager.forget(self)
        if self.stream is not None:
            self.stream.wake()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(self.resume_window, self._on_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        if self.session.ended:
            logger.info("session %s: forgotten with %d commands undelivered", self.session.id, self.undelivered)
            self._manager.forget(self)
        else:
            self.session.close(reason=CloseReason.EXPIRED)

    def _watch_idle(self, timeout: float, seen: object, looks: int) -> None:
        progress = (
            self.generation,
            self.inbox.taken,
            self.outbox.last,
            self.outbox.acked,
            self.session.pending_commands,
        )
        looks = looks + 1 if progress == seen else 0
        if looks == IDLE_LOOKS:
            self._expire(f"the session has been idle for {timeout:g} s")
        else:
            self._idle = self._loop.call_later(timeout / IDLE_LOOKS, self._watch_idle, timeout, progress, looks)

    def _expire(self, message: str) -> None:
        logger.info("session %s: closed, for %s", self.session.id, message)
        self._stop_limits()
        self.session.close(reason=CloseReason.EXPIRED, message=message)

    def _stop_limits(self) -> None:
        for timer in (self._lifetime, self._idle):
            if timer is not None:
                timer.cancel()
        self._lifetime = self._idle = None

    # --- for observers ------------------------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether a stream is attached."""
        return self.stream is not None

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


class SessionManager:
    """All sessions of one server.

    Attributes:
        config: the limits.
        observers: who is told.
        tell: tells them.
        session_options: the limits of each session.
        around: what the tasks of sessions run in, see `AbstractSession`.
    """

    def __init__(
        self,
        apps: Mapping[str, App],
        config: Config | None = None,
        *,
        observers: Iterable[Observer] = (),
        around: Around | None = None,
    ) -> None:
        """Serve apps.

        Args:
            apps: by their names.
            config: the limits; None for the defaults.
            observers: who is told.
            around: what the tasks of sessions run in, see `AbstractSession`.

        Raises:
            TypeError: one of ``apps`` is no app.
        """
        self.config = config or Config()
        self.observers = list(observers)
        self.tell = Observers(self.observers)
        self.around = around
        # What a session buffers is not its client's choice: an app that need not drain yet would fail for it.
        self.session_options = SessionOptions(
            command_window=self.config.command_window,
            event_window=self.config.event_window,
            deferred_timeout=self.config.deferred_timeout,
            max_threads=self.config.max_threads,
            debug=self.config.debug,
        )
        self._apps = {name: (app, _kind(name, app)) for name, app in apps.items()}
        self._sessions: dict[str, ManagedSession] = {}
        # The app and the session's id, which may be gone.
        self._requests: dict[Request, tuple[str, str]] = {}
        # Those whose sessions are gone, with when they are forgotten, in that order: so all have the same time to live.
        self._past_requests: deque[tuple[float, Request]] = deque()
        self._request_memory = max(REQUEST_ID_MEMORY, self.config.resume_window)
        self._quotas = Quotas(self.config, lambda: asyncio.get_running_loop().time())
        self._drained_at: float | None = None
        self._hurried = False
        self._changed = asyncio.Event()  # what `drain` waits for may have come about

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[ManagedSession]:
        """Go through the sessions that there are now; from any thread."""
        return iter(list(self._sessions.values()))

    def get(self, session_id: str) -> ManagedSession | None:
        """Return the session of this id, if there is one; from any thread."""
        return self._sessions.get(session_id)

    @property
    def apps(self) -> list[str]:
        """The names of the apps that are served."""
        return sorted(self._apps)

    def open(
        self,
        app: str,
        *,
        principal: Principal = ANONYMOUS,
        info: SessionInfo,
        params: Mapping[str, Any],
        resumable: bool = False,
        resume_window: float = 0.0,
        request_id: str = "",
        command_window: Window | None = None,
        command_format: Format = Format.VALUE,
    ) -> ManagedSession:
        """Start a session, or find the one that the same request has started (A6).

        Args:
            app: a name among those served.
            principal: who asks.
            info: what is known of the client.
            params: for the app.
            resumable: whether it shall outlive its stream.
            resume_window: seconds; 0, or more than the server allows, for what the server allows.
            request_id: makes the call safe to repeat.
            command_window: what to buffer and send unacknowledged; None for the server's.
            command_format: how JSON values go out.

        Raises:
            ProtocolViolation: a request id that is too short, or without ``resumable``.
            RequestIdReused: the request id started another app.
            SessionUnknown: the request id's session has ended and is forgotten.
            AppNotFound, SessionLimit, Draining: it can't be opened.
        """
        if request_id:
            if not resumable or len(request_id) < LEAST_REQUEST_ID:
                raise ProtocolViolation(
                    f"a request_id is for resumable sessions, of at least {LEAST_REQUEST_ID} characters: use a UUID"
                )
            request = principal.name, hashlib.sha256(request_id.encode()).digest()  # the id itself may be megabytes
            known = self._requests.get(request)
            if known is not None:
                return self._repeated(app, principal, *known)
        served = self._apps.get(app)
        if served is None:
            raise AppNotFound(f"no app {app[:100]!r} here: there are {', '.join(sorted(self._apps)) or 'none'}")
        if self._drained_at is not None:
            raise Draining("the server is shutting down and opens no session: try another, or again later")
        if len(self._sessions) >= self.config.max_sessions:
            raise SessionLimit(f"there are {len(self._sessions)} sessions, and no more are allowed: try again later")
        quota = self._quotas.of(principal.name)
        quota.check_open()
        try:
            managed = ManagedSession(
                self,
                *served,
                app=app,
                principal=principal,
                info=info,
                params=params,
                resumable=resumable,
                resume_window=min(resume_window or self.config.resume_window, self.config.resume_window),
                command_window=command_window or self.config.command_window,
                command_format=command_format,
            )
        except RuntimeError as error:  # no more threads
            raise SessionLimit(f"no thread for the session: {error}: try again later") from error
        quota.sessions += 1
        self._sessions[managed.session.id] = managed
        self.tell.opened(managed)
        if request_id:
            self._requests[request] = app, managed.session.id
            managed.request = request
        return managed

    @property
    def grace_left(self) -> float | None:
        """The seconds that sessions have to end by themselves; None before `drain`."""
        return None if self._drained_at is None else max(0.0, self._drained_at - asyncio.get_running_loop().time())

    @property
    def draining(self) -> bool:
        """True from `drain` on."""
        return self._drained_at is not None

    def event_rate(self, principal: Principal) -> Rate | None:
        """Return what limits the bytes that are read from a principal; None for no limit."""
        return self._quotas.of(principal.name).events if self.config.principal_event_rate else None

    def find(self, session_id: str, token: str, principal: Principal) -> ManagedSession:
        """Return the session that a client wants to resume (A2).

        Raises:
            SessionUnknown: there is none, or the token is another: it is not told which.
            PrincipalMismatch: somebody else opened it.
        """
        managed = self._sessions.get(session_id)
        expected = managed.token if managed is not None else ""
        if not secrets.compare_digest(expected.encode(), token.encode()) or managed is None or not managed.resumable:
            raise SessionUnknown("no session here of this id and token: it has ended, or never was")
        if managed.principal != principal.name:
            raise PrincipalMismatch("another principal opened this session", received=managed.inbox.taken)
        managed.session.principal = principal  # the same, with the claims of today
        return managed

    def forget(self, managed: ManagedSession) -> None:
        """Let go of a session that has ended."""
        if self._sessions.pop(managed.session.id, None) is None:
            return
        self._quotas.of(managed.principal).sessions -= 1
        managed.forget()
        self.tell.forgotten(managed)
        if managed.request is not None:
            if not self._past_requests:
                asyncio.get_running_loop().call_later(self._request_memory, self._forget_requests)
            self._past_requests.append((asyncio.get_running_loop().time() + self._request_memory, managed.request))
        self._changed.set()

    def _forget_requests(self) -> None:
        """Forget those whose time is over: one timer for all, since there may be many."""
        loop = asyncio.get_running_loop()
        while self._past_requests and self._past_requests[0][0] <= loop.time():
            self._requests.pop(self._past_requests.popleft()[1], None)
        if self._past_requests:
            loop.call_at(self._past_requests[0][0], self._forget_requests)

    def refused(self, error: ProtocolError) -> None:
        """Note that a call, or a stream, ends with this error."""
        self.tell.refused(error)

    def changed(self) -> None:
        """Note that a session has ended, or lost its stream; called by the session."""
        self._changed.set()

    async def drain(self, grace: float) -> Drained:
        """Open no session any more, let those there are end, and close the rest after ``grace`` seconds (E3).

        Returns when no session is left, or at the latest 18.5 s after the grace.
        """
        self._announce_drain(grace)
        self._hurried = True
        while self._hurried:  # by `shorten_grace`
            self._hurried = False
            await self._wait(lambda: not self._sessions or self._hurried, self.grace_left or 0)
        rest = [managed for managed in self._sessions.values() if not managed.session.closed()]
        for managed in rest:
            managed.session.close(reason=CloseReason.SHUTDOWN)
        await self._wait(lambda: all(managed.session.ended for managed in self._sessions.values()), ENDING_TIME)
        await self._wait(lambda: all(managed.stream is None for managed in self._sessions.values()), DELIVERY_TIME)
        lost = list(self._sessions.values())
        return Drained(len(rest), len(lost), sum(managed.undelivered for managed in lost))

    def shorten_grace(self, grace: float) -> None:
        """Close what is left after ``grace`` seconds, where a drain that goes on would do so later."""
        left = self.grace_left
        if left is not None and grace < left:
            self._announce_drain(grace)
            self._hurried = True
            self._changed.set()

    def _announce_drain(self, grace: float) -> None:
        self._drained_at = asyncio.get_running_loop().time() + grace
        for managed in self._sessions.values():
            if managed.stream is not None:
                managed.stream.announce_draining(grace)

    async def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not done():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    def _repeated(self, app: str, principal: Principal, opened: str, session_id: str) -> ManagedSession:
        managed = self._sessions.get(session_id)
        received = {} if managed is None else {"received": managed.inbox.taken}
        if opened != app:
            raise RequestIdReused(f"this request_id opened {opened!r}, not {app[:100]!r}: use a new one", **received)
        if managed is None:
            raise SessionUnknown("the session of this request_id has ended")
        managed.session.principal = principal
        return managed
