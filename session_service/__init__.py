"""Interactive sessions over gRPC: write a conversation as straight-line Python, drive it from any generated client."""

from .errors import (
    CommandBufferFull,
    PayloadError,
    SessionClosedException,
    SessionException,
    SessionNotFoundException,
)
from .session import (
    AbstractSession,
    ClientEvent,
    CloseReason,
    CoroutineSession,
    Principal,
    SessionInfo,
    SessionOptions,
    TaskHandle,
    ThreadSession,
    get_current_session,
    get_current_task_id,
    get_session_info_from_headers,
)
from .window import Window

__version__ = "0.1.0"

__all__ = [
    "AbstractSession",
    "ClientEvent",
    "CloseReason",
    "CommandBufferFull",
    "CoroutineSession",
    "PayloadError",
    "Principal",
    "SessionClosedException",
    "SessionException",
    "SessionInfo",
    "SessionNotFoundException",
    "SessionOptions",
    "TaskHandle",
    "ThreadSession",
    "Window",
    "get_current_session",
    "get_current_task_id",
    "get_session_info_from_headers",
]
