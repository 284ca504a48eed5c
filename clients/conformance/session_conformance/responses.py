"""What a case has the server answer, from literals: responses and statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from session_service.v1 import session_pb2 as pb

from .cases import CaseError
from .matching import Bindings, fill

__all__ = ["make_response", "make_status"]

DOMAIN = "session_service"

_LIMITS = {
    "event_window": {"messages": 1024, "bytes": 1048576},
    "command_window": {"messages": 1024, "bytes": 1048576},
    "max_message_bytes": 4000000,
    "heartbeat_interval": "25s",
    "resume_window": "120s",
}


def make_response(literal: Any, limits: Mapping[str, Any], bindings: Bindings) -> pb.AttachResponse:
    """Return a response; what is left out of `opened` and `resumed` is put in.

    Args:
        literal: as JSON, but that `failed` may be what `make_status` takes.
        limits: those of the case, other than the usual ones.
        bindings: what ``$as`` has kept.

    Raises:
        CaseError: it is none.
    """
    literal, limits = dict(literal or {}), {**_LIMITS, **limits}
    if "opened" in literal:
        opened = {"session_id": "s-1", "resume_token": "token", **(literal["opened"] or {})}
        literal["opened"] = {**opened, "limits": {**limits, **opened.get("limits", {})}}
    elif "resumed" in literal:
        resumed = literal["resumed"] or {}
        literal["resumed"] = {**resumed, "limits": {**limits, **resumed.get("limits", {})}}
    if "status" not in literal.get("failed", {"status": b""}):
        literal["failed"] = {"status": make_status(literal["failed"]).SerializeToString()}
    return fill(pb.AttachResponse(), literal, bindings)


def make_status(literal: Mapping[str, Any]) -> status_pb2.Status:
    """Return a status.

    Args:
        literal: arguments of `_make_status`.

    Raises:
        CaseError: it is none.
    """
    try:
        return _make_status(**literal)
    except (TypeError, KeyError, ValueError) as error:
        raise CaseError(f"no status: {error}") from error


def _make_status(
    code: str,
    reason: str = "",
    retry: str | None = None,
    metadata: Mapping[str, str] | None = None,
    retry_delay: str = "",
    domain: str = DOMAIN,
    message: str = "says the reference server",
) -> status_pb2.Status:
    """Return a status; with an ErrorInfo where there is a ``reason``, with a RetryInfo where there is a delay."""
    status = status_pb2.Status(code=grpc.StatusCode[code].value[0], message=message)
    details: list[Message] = []
    if reason:
        known = dict(metadata or {}) if retry is None else {"retry": retry, **(metadata or {})}
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=known))
    if retry_delay:
        delay = duration_pb2.Duration()
        delay.FromJsonString(retry_delay)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
