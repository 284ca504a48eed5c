"""Every error that session-service raises on purpose.

::

    Exception
    └── SessionException
        ├── SessionNotFoundException     no session here: the caller is outside every task
        ├── SessionClosedException       the session (or its events) ended
        ├── CommandBufferFull            a sender on the loop has not drained
        ├── PayloadError                 a value that cannot be carried exactly
        ├── LocalError                   a defect of ours: a state that cannot be
        └── ProtocolError                ends a stream; each has the status that a client sees
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

import enum
from typing import ClassVar

__all__ = [
    "PROTOCOL_ERRORS",
    "AppNotFound",
    "Code",
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
    "Retry",
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


class Code(enum.IntEnum):
    """The numbers of ``google.rpc.Code``, those that are used here."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    OUT_OF_RANGE = 11
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Retry(enum.Enum):
    """What a client library does next: go on, begin anew, or give up."""

    RESUME = "RESUME"
    REOPEN = "REOPEN"
    NEVER = "NEVER"


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
        code: that of the status.
        reason: what happened, for programs; sent in the ErrorInfo.
        retry: what a client library does next; sent as its metadata, beside the details.
        details: what a client library or a person needs to go on; sent as the metadata of the ErrorInfo.
    """

    code: ClassVar[Code]
    reason: ClassVar[str]
    retry: Retry

    def __init__(self, message: str, **details: str | int) -> None:
        super().__init__(message)
        self.details = {name: str(value) for name, value in details.items()}


class RemoteError(ProtocolError):
    """The peer did something that the protocol forbids."""


class ProtocolViolation(RemoteError):
    """A request that the protocol does not allow at this point (F1, F2, F6, D3)."""

    code, reason, retry = Code.INVALID_ARGUMENT, "PROTOCOL_VIOLATION", Retry.NEVER


class SequenceGap(RemoteError):
    """Something between the last element and this one is missing (D2)."""

    code, reason, retry = Code.OUT_OF_RANGE, "SEQUENCE_GAP", Retry.RESUME

    def __init__(self, expected: int, first: int) -> None:
        super().__init__(f"expected sequence {expected}, got {first}: send again from {expected}", expected=expected)
        self.expected = expected


class WindowExceeded(RemoteError):
    """More was sent than the granted window allows before an acknowledgement (D5)."""

    code, reason, retry = Code.RESOURCE_EXHAUSTED, "WINDOW_EXCEEDED", Retry.NEVER


class PayloadInvalid(RemoteError):
    """A request or a payload that cannot be decoded (F4)."""

    code, reason, retry = Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", Retry.NEVER


class FirstRequestTimeout(RemoteError):
    """The stream did not begin with a request in time (F1)."""

    code, reason, retry = Code.DEADLINE_EXCEEDED, "FIRST_REQUEST_TIMEOUT", Retry.RESUME


class Refusal(ProtocolError):
    """The peer did nothing wrong, and still cannot have, or keep, what it asked for."""


class AppNotFound(Refusal):
    """No app of this name is served."""

    code, reason, retry = Code.NOT_FOUND, "APP_NOT_FOUND", Retry.NEVER


class SessionUnknown(Refusal):
    """Never opened here, forgotten, or another resume token: which of them is not told (A2)."""

    code, reason, retry = Code.NOT_FOUND, "SESSION_NOT_FOUND", Retry.REOPEN


class Unauthenticated(Refusal):
    """No credentials, or bad ones."""

    code, reason, retry = Code.UNAUTHENTICATED, "UNAUTHENTICATED", Retry.RESUME


class PrincipalMismatch(Refusal):
    """The session was opened by another principal (A2)."""

    code, reason, retry = Code.PERMISSION_DENIED, "PRINCIPAL_MISMATCH", Retry.NEVER


class RequestIdReused(Refusal):
    """The request id belongs to an open of another app (A6)."""

    code, reason, retry = Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", Retry.NEVER


class ResumeImpossible(Refusal):
    """What the client has received is not what this side can go on from (A5)."""

    code, reason, retry = Code.OUT_OF_RANGE, "RESUME_IMPOSSIBLE", Retry.REOPEN


class SessionLimit(Refusal):
    """The server holds as many sessions as it may."""

    code, reason, retry = Code.RESOURCE_EXHAUSTED, "SESSION_LIMIT", Retry.REOPEN


class Draining(Refusal):
    """The server is shutting down and opens no session any more (E3)."""

    code, reason, retry = Code.UNAVAILABLE, "DRAINING", Retry.REOPEN


class TakenOver(Refusal):
    """A newer stream holds the session now (A3).

    Attributes:
        by_same_client: both attachments name the same non-empty client id, so that this one may resume.
    """

    code, reason, retry = Code.ABORTED, "TAKEN_OVER", Retry.NEVER

    def __init__(self, by_same_client: bool) -> None:
        super().__init__("a newer stream has attached to this session")
        self.by_same_client = by_same_client
        if by_same_client:
            self.retry = Retry.RESUME


class HeartbeatLost(Refusal):
    """Three heartbeat intervals passed without a request (F3)."""

    code, reason, retry = Code.UNAVAILABLE, "HEARTBEAT_LOST", Retry.RESUME


class EndedUndelivered(Refusal):
    """The session ended and its last commands were not acknowledged within the resume window (A7)."""

    code, reason, retry = Code.ABORTED, "ENDED_UNDELIVERED", Retry.NEVER


class InternalFault(Refusal):
    """A bug of this server; the log says more under the error id."""

    code, reason, retry = Code.INTERNAL, "INTERNAL", Retry.RESUME

    def __init__(self, error_id: str) -> None:
        super().__init__(f"an internal error, {error_id} in the log of the server", error_id=error_id)


# All that a client may meet.
PROTOCOL_ERRORS = (*RemoteError.__subclasses__(), *Refusal.__subclasses__())
