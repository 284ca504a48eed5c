"""A client for session-service: it reconnects by itself, and every event and command arrives exactly once, in order."""

from .client import SessionClient
from .conversation import Closed, CloseReason, Command, Position
from .errors import SessionClientError, SessionEnded, SessionLost, SessionRefused, TakenOver
from .retry import RetryPolicy
from .session import Attachment, AttachmentState, ClientSession
from .sync import SyncClientSession, SyncSessionClient

__all__ = [
    "Attachment",
    "AttachmentState",
    "ClientSession",
    "CloseReason",
    "Closed",
    "Command",
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
