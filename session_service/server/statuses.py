"""gRPC's statuses of errors: what a client sees of them (docs/protocol.md, Errors)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from .. import errors

__all__ = ["DOMAIN", "StatusGuard", "as_error", "to_rich_status", "to_status"]

logger = logging.getLogger(__name__)

DOMAIN = "session_service"

# What a client is asked to wait before it opens again.
RETRY_DELAY_SECONDS = 5

# In characters. A status travels in the trailers, twice, and above 8 KiB gRPC's clients refuse some at random. It may
# quote what a client has sent, and take 17 bytes a character.
LONGEST_TEXT = 400


def to_status(error: errors.ProtocolError, *, of_attach: bool = True) -> grpc.Status:
    """Return the status, with its ErrorInfo, that ends a call because of ``error``."""
    return rpc_status.to_status(to_rich_status(error, of_attach=of_attach))


def to_rich_status(error: errors.ProtocolError, *, of_attach: bool = True) -> status_pb2.Status:
    """Return the same as the message that a call carries it in."""
    retry = error.retry
    if isinstance(error, errors.InternalFault) and not of_attach:
        retry = errors.Retry.NEVER  # there is nothing to resume
    metadata = {name: text[:LONGEST_TEXT] for name, text in error.details.items()}
    metadata["retry"] = retry.value
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if isinstance(error, (errors.SessionLimit, errors.Draining)):
        delay = duration_pb2.Duration(seconds=RETRY_DELAY_SECONDS)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=error.code, message=str(error)[:LONGEST_TEXT])
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


class StatusGuard:
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
