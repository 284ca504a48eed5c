"""Sessions: the contract, its two kinds, and what tasks see of them. Nothing here knows gRPC."""

from ..lifecycle import CloseReason
from .contract import AbstractSession
from .current import get_current_session, get_current_task_id
from .info import SessionInfo, get_session_info_from_headers
from .kinds import CoroutineSession, ThreadSession
from .mailbox import ClientEvent
from .options import SessionOptions
from .principal import ANONYMOUS, Principal
from .tasks import TaskHandle

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
