"""Which status ends a stream: the one table from exceptions to what a client sees (docs/protocol.md, Errors)."""

from __future__ import annotations

import enum
import logging
import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from .. import errors

__all__ = ["DOMAIN", "Retry", "as_error", "statuses", "to_rich_status", "to_status"]

logger = logging.getLogger(__name__)

DOMAIN = "session_service"

# What a client is asked to wait before it opens again.
RETRY_DELAY_SECONDS = 5

# In characters. A status travels in the trailers, twice, and above 8 KiB gRPC's clients refuse some at random. It may
# quote what a client has sent, and take 17 bytes a character.
LONGEST_TEXT = 400


class Retry(enum.Enum):
    """What a client library does next: go on, begin anew, or give up."""

    RESUME = "RESUME"
    REOPEN = "REOPEN"
    NEVER = "NEVER"


class Row(NamedTuple):
    """One row of the table."""

    code: grpc.StatusCode
    reason: str
    retry: Retry


_C = grpc.StatusCode
TABLE: dict[type[errors.ProtocolError], Row] = {
    errors.ProtocolViolation: Row(_C.INVALID_ARGUMENT, "PROTOCOL_VIOLATION", Retry.NEVER),
    errors.FirstRequestTimeout: Row(_C.DEADLINE_EXCEEDED, "FIRST_REQUEST_TIMEOUT", Retry.RESUME),
    errors.PayloadInvalid: Row(_C.INVALID_ARGUMENT, "PAYLOAD_INVALID", Retry.NEVER),
    errors.SequenceGap: Row(_C.OUT_OF_RANGE, "SEQUENCE_GAP", Retry.RESUME),
    errors.WindowExceeded: Row(_C.RESOURCE_EXHAUSTED, "WINDOW_EXCEEDED", Retry.NEVER),
    errors.AppNotFound: Row(_C.NOT_FOUND, "APP_NOT_FOUND", Retry.NEVER),
    errors.SessionUnknown: Row(_C.NOT_FOUND, "SESSION_NOT_FOUND", Retry.REOPEN),
    errors.RequestIdReused: Row(_C.INVALID_ARGUMENT, "REQUEST_ID_REUSED", Retry.NEVER),
    errors.ResumeImpossible: Row(_C.OUT_OF_RANGE, "RESUME_IMPOSSIBLE", Retry.REOPEN),
    errors.Unauthenticated: Row(_C.UNAUTHENTICATED, "UNAUTHENTICATED", Retry.RESUME),
    errors.PrincipalMismatch: Row(_C.PERMISSION_DENIED, "PRINCIPAL_MISMATCH", Retry.NEVER),
    errors.SessionLimit: Row(_C.RESOURCE_EXHAUSTED, "SESSION_LIMIT", Retry.REOPEN),
    errors.Draining: Row(_C.UNAVAILABLE, "DRAINING", Retry.REOPEN),
    errors.TakenOver: Row(_C.ABORTED, "TAKEN_OVER", Retry.NEVER),  # by the same client: RESUME
    errors.HeartbeatLost: Row(_C.UNAVAILABLE, "HEARTBEAT_LOST", Retry.RESUME),
    errors.EndedUndelivered: Row(_C.ABORTED, "ENDED_UNDELIVERED", Retry.NEVER),
    errors.InternalFault: Row(_C.INTERNAL, "INTERNAL", Retry.RESUME),
}


def to_status(error: errors.ProtocolError, *, of_attach: bool = True) -> grpc.Status:
    """Return the status, with its ErrorInfo, that ends a call because of ``error``."""
    return rpc_status.to_status(to_rich_status(error, of_attach=of_attach))


def to_rich_status(error: errors.ProtocolError, *, of_attach: bool = True) -> status_pb2.Status:
    """Return the same as the message that a call carries it in."""
    code, reason, retry = TABLE[type(error)]
    if isinstance(error, errors.TakenOver) and error.by_same_client:
        retry = Retry.RESUME
    if isinstance(error, errors.InternalFault) and not of_attach:
        retry = Retry.NEVER  # there is nothing to resume
    metadata = {name: text[:LONGEST_TEXT] for name, text in error.details.items()}
    metadata["retry"] = retry.value
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)]
    if isinstance(error, (errors.SessionLimit, errors.Draining)):
        delay = duration_pb2.Duration(seconds=RETRY_DELAY_SECONDS)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=str(error)[:LONGEST_TEXT])
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def as_error(error: Exception) -> errors.ProtocolError:
    """Return what a client is told of ``error``. Of a bug of ours, which is logged whole, that is an id to ask for."""
    if isinstance(error, errors.ProtocolError):
        return error
    fault = errors.InternalFault(secrets.token_hex(8))
    logger.error("%s", fault, exc_info=error, extra=fault.details)
    return fault


class statuses:
    """Ends a call that is no Attach with the status that belongs to what leaves the block, and tells ``refused``.

    A class, for a generator would keep three objects more while a stream is idle.
    """

    __slots__ = ("_context", "_refused")

    def __init__(
        self, context: grpc.aio.ServicerContext[Any, Any], refused: Callable[[errors.ProtocolError], object]
    ) -> None:
        self._context = context
        self._refused = refused

    async def __aenter__(self) -> None:
        """Do nothing."""

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Judge what has left the block; raise `grpc.aio.AbortError` where it has ended the call."""
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.BaseError):
            return  # all is well, or the call is cancelled, or over
        told = as_error(error)
        self._refused(told)
        await self._context.abort_with_status(to_status(told, of_attach=False))
