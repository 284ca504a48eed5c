"""A client for session-service: it reconnects by itself, and every event and command arrives exactly once, in order."""

from .attachment import Attachment, AttachmentState
from .client import SessionClient
from .conversation import Closed, CloseReason, Command, Position
from .errors import PoisonedEvent, SessionClientError, SessionEnded, SessionLost, SessionRefused, TakenOver
from .retry import RetryPolicy
from .session import ClientSession
from .sync import SyncClientSession, SyncSessionClient

__all__ = [
    "Attachment",
    "AttachmentState",
    "ClientSession",
    "CloseReason",
    "Closed",
    "Command",
    "PoisonedEvent",
    "Position",
    "RetryPolicy",
    "SessionClient",
    "SessionClientError",
    "SessionEnded",
    "SessionLost",
    "SessionRefused",
    "SyncClientSession",
    "SyncSessionClient",
    "TakenOver",
]
