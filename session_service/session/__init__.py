"""Sessions: the contract, its two kinds, and what tasks see of them. Nothing here knows gRPC."""

from ..lifecycle import CloseReason
from .base import AbstractSession
from .context import TaskHandle, get_current_session, get_current_task_id
from .coroutine import CoroutineSession
from .info import SessionInfo, get_session_info_from_headers
from .mailbox import ClientEvent
from .options import SessionOptions
from .principal import ANONYMOUS, Principal
from .thread import ThreadSession

__all__ = [
    "ANONYMOUS",
    "AbstractSession",
    "ClientEvent",
    "CloseReason",
    "CoroutineSession",
    "Principal",
    "SessionInfo",
    "SessionOptions",
    "TaskHandle",
    "ThreadSession",
    "get_current_session",
    "get_current_task_id",
    "get_session_info_from_headers",
]
