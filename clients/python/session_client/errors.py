"""What can go wrong for a client.

::

    SessionClientError
    ├── SessionRefused       the server said no, and says why
    │   └── TakenOver        another client has the session now
    ├── SessionLost          it cannot be resumed: gone, or not reached in time
    │   └── PoisonedEvent    an event never gets through
    └── SessionEnded         a call on a session that is closed, or detached
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

__all__ = ["PoisonedEvent", "SessionClientError", "SessionEnded", "SessionLost", "SessionRefused", "TakenOver"]


class SessionClientError(Exception):
    """The root of everything that this package raises on purpose, but for `PayloadError`."""


class SessionRefused(SessionClientError):
    """The server refused, or ended, the stream, and trying again would not help.

    Attributes:
        code: the status.
        reason: that of the ErrorInfo, such as ``APP_NOT_FOUND``; empty where the server, or a proxy, sent none.
        details: the ErrorInfo's metadata.
        taken_over: the last event known to have been taken over by the session; later ones are of unknown outcome.
    """

    def __init__(
        self, message: str, code: grpc.StatusCode, reason: str, details: Mapping[str, str], taken_over: int
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code = code
        self.reason = reason
        self.details = dict(details)
        self.taken_over = taken_over


class TakenOver(SessionRefused):
    """Another client has resumed the session; its events must come from there now (protocol A3)."""


class SessionLost(SessionClientError):
    """The session cannot be resumed. Opening again would run the app a second time, so that is the caller's choice.

    Attributes:
        taken_over: the last event known to have been taken over by the session; later ones are of unknown outcome.
    """

    def __init__(self, message: str, taken_over: int) -> None:
        known = f"; events up to {taken_over} are known to have been taken over" if taken_over else ""
        super().__init__(message + known)
        self.taken_over = taken_over


class PoisonedEvent(SessionLost):
    """An event breaks every stream on which it is written: the path does not let it through (protocol D7).

    A proxy may have a limit that is lower than the server's, or a filter that takes offence at the event.

    Attributes:
        sequence: that of the event.
        size: its encoded size, in bytes.
    """

    def __init__(self, sequence: int, size: int, why: str, taken_over: int) -> None:
        super().__init__(
            f"event {sequence}, of {size} bytes, broke each stream on which it was written, the last with {why}: look"
            " for a limit on the size of bodies, or a filter, between here and the server, or send it in smaller parts",
            taken_over,
        )
        self.sequence = sequence
        self.size = size


class SessionEnded(SessionClientError):
    """The session has ended, or this client has closed or detached it: nothing can be sent any more."""
