"""Every error that session-service raises on purpose.

::

    Exception
    └── SessionException
        ├── SessionNotFoundException     no session here: the caller is outside every task
        ├── SessionClosedException       the session (or its events) ended
        ├── CommandBufferFull            a sender on the loop has not drained
        ├── PayloadError                 a value that cannot be carried exactly
        ├── LocalError                   a defect of ours: a state that cannot be
        └── ProtocolError                ends a stream; its status stands in server/statuses.py
            ├── RemoteError              the peer did something that the protocol forbids
            │   ├── ProtocolViolation, SequenceGap, WindowExceeded
            │   └── PayloadInvalid, FirstRequestTimeout
            └── Refusal                  the peer did nothing wrong, and still cannot have it
                ├── AppNotFound, SessionUnknown, RequestIdReused, ResumeImpossible
                ├── Unauthenticated, PrincipalMismatch
                ├── SessionLimit, Draining, TakenOver, HeartbeatLost
                └── EndedUndelivered, InternalFault

The first three names are PyWebIO's. A ``ProtocolError`` carries what it knows as ``details``, text by text; a client
finds them as the metadata of the ``google.rpc.ErrorInfo``.
"""

from __future__ import annotations

__all__ = [
    "AppNotFound",
    "CommandBufferFull",
    "Draining",
    "EndedUndelivered",
    "FirstRequestTimeout",
    "HeartbeatLost",
    "InternalFault",
    "LocalError",
    "PayloadError",
    "PayloadInvalid",
    "PrincipalMismatch",
    "ProtocolError",
    "ProtocolViolation",
    "Refusal",
    "RemoteError",
    "RequestIdReused",
    "ResumeImpossible",
    "SequenceGap",
    "SessionClosedException",
    "SessionException",
    "SessionLimit",
    "SessionNotFoundException",
    "SessionUnknown",
    "TakenOver",
    "Unauthenticated",
    "WindowExceeded",
]


# In characters; the names in it are the sender's.
LONGEST_PATH = 200


class SessionException(Exception):
    """The root of everything that this package raises on purpose."""


class SessionNotFoundException(SessionException):
    """The caller runs outside every task of a session."""


class SessionClosedException(SessionException):
    """The session is closed, or its client will send no more events and all have been taken."""


class CommandBufferFull(SessionException):
    """A sender on the loop's thread is 8 windows ahead of the client; ``await session.drain()`` waits for room."""


class PayloadError(SessionException):
    """A value that its payload format cannot carry exactly, found at the call that sent it.

    Attributes:
        path: where in the value the fault is, such as ``spec.items[3].when``.
    """

    def __init__(self, path: str, fault: str) -> None:
        if len(path) > LONGEST_PATH:
            path = f"{path[: LONGEST_PATH // 2]}...{path[-LONGEST_PATH // 2 :]}"
        super().__init__(f"{path}: {fault}")
        self.path = path


class LocalError(SessionException):
    """Something that cannot happen in the state that it happened in (`session_service.lifecycle`): a defect of ours."""


class ProtocolError(SessionException):
    """Ends one stream.

    Attributes:
        details: what a client library or a person needs to go on; sent as the metadata of the ErrorInfo.
    """

    def __init__(self, message: str, **details: str | int) -> None:
        super().__init__(message)
        self.details = {name: str(value) for name, value in details.items()}


class RemoteError(ProtocolError):
    """The peer did something that the protocol forbids."""


class ProtocolViolation(RemoteError):
    """A request that the protocol does not allow at this point (F1, F2, F6, D3)."""


class SequenceGap(RemoteError):
    """Something between the last element and this one is missing (D2)."""

    def __init__(self, expected: int, first: int) -> None:
        super().__init__(f"expected sequence {expected}, got {first}: send again from {expected}", expected=expected)
        self.expected = expected


class WindowExceeded(RemoteError):
    """More was sent than the granted window allows before an acknowledgement (D5)."""


class PayloadInvalid(RemoteError):
    """A request or a payload that cannot be decoded (F4)."""


class FirstRequestTimeout(RemoteError):
    """The stream did not begin with a request in time (F1)."""


class Refusal(ProtocolError):
    """The peer did nothing wrong, and still cannot have, or keep, what it asked for."""


class AppNotFound(Refusal):
    """No app of this name is served."""


class SessionUnknown(Refusal):
    """Never opened here, forgotten, or another resume token: which of them is not told (A2)."""


class Unauthenticated(Refusal):
    """No credentials, or bad ones."""


class PrincipalMismatch(Refusal):
    """The session was opened by another principal (A2)."""


class RequestIdReused(Refusal):
    """The request id belongs to an open of another app (A6)."""


class ResumeImpossible(Refusal):
    """What the client has received is not what this side can go on from (A5)."""


class SessionLimit(Refusal):
    """The server holds as many sessions as it may."""


class Draining(Refusal):
    """The server is shutting down and opens no session any more (E3)."""


class TakenOver(Refusal):
    """A newer stream holds the session now (A3).

    Attributes:
        by_same_client: both attachments name the same non-empty client id, so that this one may resume.
    """

    def __init__(self, by_same_client: bool) -> None:
        super().__init__("a newer stream has attached to this session")
        self.by_same_client = by_same_client


class HeartbeatLost(Refusal):
    """Three heartbeat intervals passed without a request (F3)."""


class EndedUndelivered(Refusal):
    """The session ended and its last commands were not acknowledged within the resume window (A7)."""


class InternalFault(Refusal):
    """A bug of this server; the log says more under the error id."""

    def __init__(self, error_id: str) -> None:
        super().__init__(f"an internal error, {error_id} in the log of the server", error_id=error_id)
