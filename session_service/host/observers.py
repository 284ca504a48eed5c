"""Who is told what becomes of sessions, and what they may read of one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, Protocol

from ..delivery import Inbox, Outbox
from ..errors import ProtocolError
from ..lifecycle import CloseReason, Standing
from ..session import SessionInfo
from ..session.snapshot import SessionSnapshot
from ..session.stopwatch import Stopwatch

__all__ = ["AppView", "Observer", "Observers", "SessionView"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")


class AppView(Protocol):
    """What an observer may read of an app's conversation. Attributes may be read from any thread."""

    # They are read only: a property, so that whoever has them may have them as plain attributes.
    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def info(self) -> SessionInfo: ...  # noqa: D102
    @property
    def ended(self) -> bool: ...  # noqa: D102
    @property
    def close_reason(self) -> CloseReason | None: ...  # noqa: D102
    @property
    def close_message(self) -> str: ...  # noqa: D102
    @property
    def failures(self) -> Mapping[str, int]: ...  # noqa: D102
    @property
    def dropped(self) -> int: ...  # noqa: D102
    @property
    def event_stalls(self) -> int: ...  # noqa: D102
    @property
    def abandoned(self) -> int: ...  # noqa: D102

    def closed(self) -> bool:
        """Tell whether its end has begun."""

    def snapshot(self, *, most: int, stacks: bool = False) -> SessionSnapshot:
        """Describe what it does; on the loop's thread."""


class SessionView(Protocol):
    """What an observer may read of a session. Attributes may be read from any thread; of `inbox` and `outbox`, those.

    Attributes:
        session: the conversation itself.
        app: the name it was opened by.
        principal: the name of who opened it.
        resumable: whether it outlives its stream.
        resume_window: seconds that it is kept detached, or ended and undelivered.
        generation: how many streams there have been.
        standing: where it stands, as people are told.
        client_id: what the client of the stream that is attached calls itself; empty where none is.
        inbox: events on their way to the session.
        outbox: commands on their way to the client.
        undelivered: how many commands the client has not acknowledged.
        command_stalls: how often commands had to wait since the window was full.
    """

    @property
    def session(self) -> AppView: ...  # noqa: D102
    @property
    def app(self) -> str: ...  # noqa: D102
    @property
    def principal(self) -> str: ...  # noqa: D102
    @property
    def resumable(self) -> bool: ...  # noqa: D102
    @property
    def resume_window(self) -> float: ...  # noqa: D102
    @property
    def generation(self) -> int: ...  # noqa: D102
    @property
    def standing(self) -> Standing: ...  # noqa: D102
    @property
    def client_id(self) -> str: ...  # noqa: D102
    @property
    def inbox(self) -> Inbox[dict[str, Any]]: ...  # noqa: D102
    @property
    def outbox(self) -> Outbox[bytes]: ...  # noqa: D102
    @property
    def undelivered(self) -> int: ...  # noqa: D102
    @property
    def command_stalls(self) -> int: ...  # noqa: D102

    def time_events(self, stopwatch: Stopwatch) -> None:
        """Have it timed how long events wait for their task."""

    def time_acks(self, stopwatch: Stopwatch) -> None:
        """Have it timed how long commands wait for their ack."""


class Observer:
    """Is told what becomes of sessions: metrics, traces and the admin service are observers.

    Called on the loop's thread, in the order of things; must not block. What happens for each event and each command is
    counted where it happens, and looked up when somebody wants to know.
    """

    def opened(self, managed: SessionView) -> None:
        """A session has started."""

    def attached(self, managed: SessionView) -> None:
        """A stream is bound to it; its ``generation`` says which."""

    def detached(self, managed: SessionView, error: ProtocolError | None) -> None:
        """The stream is gone, by an error such as `TakenOver`; None if it broke, its client left, or all was said."""

    def ended(self, managed: SessionView) -> None:
        """Everything of it has run; the client may still have to hear of it."""

    def forgotten(self, managed: SessionView) -> None:
        """Nothing is left of it."""

    def refused(self, error: ProtocolError) -> None:
        """A call, or a stream, ended with this error."""


class _News(Generic[P]):
    """One kind of what observers are told. One of them that raises is logged and hurts nobody, as hooks are."""

    __slots__ = ("_methods",)

    def __init__(self, methods: list[Callable[P, None]]) -> None:
        self._methods = methods

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        for method in self._methods:
            try:
                method(*args, **kwargs)
            except Exception:
                logger.exception("%r failed", method)


class Observers:
    """All observers of a server, to be told as one; the attributes are `Observer`'s methods."""

    __slots__ = ("attached", "detached", "ended", "forgotten", "opened", "refused")

    def __init__(self, observers: Iterable[Observer]) -> None:
        told = list(observers)
        self.opened = _News([each.opened for each in told])
        self.attached = _News([each.attached for each in told])
        self.detached = _News([each.detached for each in told])
        self.ended = _News([each.ended for each in told])
        self.forgotten = _News([each.forgotten for each in told])
        self.refused = _News([each.refused for each in told])
