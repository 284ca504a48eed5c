"""Opens, finds and forgets sessions."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..config import Config
from ..errors import (
    AppNotFound,
    Draining,
    PrincipalMismatch,
    ProtocolError,
    ProtocolViolation,
    RequestIdReused,
    SessionLimit,
    SessionUnknown,
)
from ..payload import Format
from ..session import (
    ANONYMOUS,
    AbstractSession,
    CoroutineSession,
    Principal,
    SessionInfo,
    SessionOptions,
    ThreadSession,
)
from ..session.app import check_app, is_coroutine_function
from ..window import Window
from .drain import Drain, Drained
from .expiry import Expiry
from .hosted import Around, Host, ManagedSession
from .observers import Observer, Observers
from .quota import Quotas, Rate
from .registry import Registry
from .requests import LEAST_REQUEST_ID, Requests, request_of

__all__ = ["App", "SessionManager"]

App = Callable[[], Any]


def _kind(name: str, app: App) -> type[AbstractSession]:
    check_app(name, app)
    return CoroutineSession if is_coroutine_function(app) else ThreadSession


class SessionManager:
    """All sessions of one server.

    Attributes:
        config: the limits.
        observers: who is told what becomes of sessions.
        around: what their tasks run in, see `AbstractSession`; None for nothing.
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
        self.config = config = config or Config()
        self.observers = list(observers)
        self.around = around
        self._apps = {name: (app, _kind(name, app)) for name, app in apps.items()}
        self._sessions = Registry()
        self._requests = Requests(config.resume_window)
        self._quotas = Quotas(config, lambda: asyncio.get_running_loop().time())
        self._drain = Drain(self._sessions)
        # What a session buffers is not its client's choice: an app that need not drain yet would fail for it.
        options = SessionOptions(
            command_window=config.command_window,
            event_window=config.event_window,
            deferred_timeout=config.deferred_timeout,
            max_threads=config.max_threads,
            debug=config.debug,
        )
        self._tell = Observers(self.observers)
        expiry = Expiry(config.session_lifetime, config.idle_timeout)
        self._host = Host(config, options, self._tell, around, expiry, self._drain.changed.set, self.forget)

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[ManagedSession]:
        """Go through the sessions that there are now; from any thread."""
        return iter(self._sessions)

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
            request = request_of(principal, request_id)
            known = self._requests.find(request)
            if known is not None:
                return self._repeated(app, principal, *known)
        served = self._apps.get(app)
        if served is None:
            raise AppNotFound(f"no app {app[:100]!r} here: there are {', '.join(sorted(self._apps)) or 'none'}")
        if self._drain.over_at is not None:
            raise Draining("the server is shutting down and opens no session: try another, or again later")
        if len(self._sessions) >= self.config.max_sessions:
            raise SessionLimit(f"there are {len(self._sessions)} sessions, and no more are allowed: try again later")
        quota = self._quotas.of(principal.name)
        quota.check_open()
        try:
            managed = ManagedSession(
                self._host,
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
        self._sessions.add(managed)
        self._tell.opened(managed)
        if request_id:
            self._requests.add(request, app, managed.session.id)
            managed.request = request
        return managed

    @property
    def grace_left(self) -> float | None:
        """The seconds that sessions have to end by themselves; None before `drain`."""
        return None if self._drain.over_at is None else self._drain.grace_left

    @property
    def draining(self) -> bool:
        """True from `drain` on."""
        return self._drain.over_at is not None

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
        if not self._sessions.remove(managed):
            return
        self._quotas.of(managed.principal).sessions -= 1
        managed.forget()
        self._tell.forgotten(managed)
        if managed.request is not None:
            self._requests.retire(managed.request)
        self._drain.changed.set()

    def refused(self, error: ProtocolError) -> None:
        """Note that a call, or a stream, ends with this error."""
        self._tell.refused(error)

    async def drain(self, grace: float) -> Drained:
        """Open no session any more, let those there are end, and close the rest after ``grace`` seconds (E3).

        Returns when no session is left, or at the latest 18.5 s after the grace.
        """
        return await self._drain.run(grace)

    def shorten_grace(self, grace: float) -> None:
        """Close what is left after ``grace`` seconds, where a drain that goes on would do so later."""
        self._drain.shorten(grace)

    def _repeated(self, app: str, principal: Principal, opened: str, session_id: str) -> ManagedSession:
        managed = self._sessions.get(session_id)
        received = {} if managed is None else {"received": managed.inbox.taken}
        if opened != app:
            raise RequestIdReused(f"this request_id opened {opened!r}, not {app[:100]!r}: use a new one", **received)
        if managed is None:
            raise SessionUnknown("the session of this request_id has ended")
        managed.session.principal = principal
        return managed
