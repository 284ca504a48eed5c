"""Bugs where a stream breaks: D7 and D7a, but for how long a client tries."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from session_client import SessionLost, session, stream
from session_client.stream import StreamEnd

from session_service.v1 import session_pb2 as pb

from .planting import bug, change_ends, change_responses, patch


@bug
def takes_ok_for_the_end() -> None:
    """Take a stream that ends with OK for the end of the session (D7)."""
    change_ends(lambda end: replace(end, retry="NEVER") if end.code is grpc.StatusCode.OK else end)


@bug
def retries_never() -> None:
    """Come back although the server says NEVER (D7)."""
    change_ends(lambda end: replace(end, retry="RESUME") if end.retry == "NEVER" else end)


@bug
def judges_by_the_status() -> None:
    """Look at the status, and not at what the server says about it (D7)."""
    change_ends(lambda end: replace(end, retry=""))


@bug
def retries_final_statuses() -> None:
    """Come back after whatever status (D7)."""
    session._FINAL.clear()


@bug
def takes_exhaustion_for_final() -> None:
    """Lose a session to a limit of gRPC's own (D7)."""
    session._FINAL.add(grpc.StatusCode.RESOURCE_EXHAUSTED)


@bug
def retries_what_it_rejects() -> None:
    """Try again and again to send what cannot be sent (D7)."""

    def make(original: Any) -> Any:
        async def metadata(self: session.ClientSession) -> Mapping[str, str]:
            while True:
                try:
                    found: Mapping[str, str] = await original(self)
                except SessionLost:
                    await asyncio.sleep(0.1)
                else:
                    return found

        return metadata

    patch(session.ClientSession, "_metadata", make)


@bug
def never_resumes() -> None:
    """Give up when a stream breaks (D7)."""
    change_ends(lambda end: replace(end, retry="NEVER"))


@bug
def reopens_after_opened() -> None:
    """Open again where the session is lost: the app runs twice (D7a)."""

    def make(original: Any) -> Any:
        async def verdict(self: session.ClientSession, end: StreamEnd, exhausted: bool, seconds: float) -> Any:
            if end.retry == "REOPEN":
                self._conversation.id = ""
                return None
            return await original(self, end, exhausted, seconds)

        return verdict

    patch(session.ClientSession, "_verdict", make)


@bug
def ignores_reopen() -> None:
    """Tell the application of a REOPEN before the first `opened` (D7a)."""
    change_ends(lambda end: replace(end, retry="NEVER") if end.retry == "REOPEN" else end)


@bug
def ignores_retry_info() -> None:
    """Come back before the server wants it (D7a)."""
    change_ends(lambda end: replace(end, retry_delay=0.0))


@bug
def retries_unauthenticated() -> None:
    """Try the credentials again and again (D7)."""

    def change(end: StreamEnd) -> StreamEnd:
        unauthenticated = end.code is grpc.StatusCode.UNAUTHENTICATED
        return replace(end, code=grpc.StatusCode.UNAVAILABLE, retry="RESUME") if unauthenticated else end

    change_ends(change)


@bug
def keeps_stale_credentials() -> None:
    """Ask for credentials once (A2)."""

    def make(original: Any) -> Any:
        async def metadata(self: session.ClientSession) -> Mapping[str, str]:
            if not hasattr(self, "stale"):
                self.stale = await original(self)  # type: ignore[attr-defined]
            stale: Mapping[str, str] = self.stale  # type: ignore[attr-defined]
            return stale

        return metadata

    patch(session.ClientSession, "_metadata", make)


@bug
def retries_defects() -> None:
    """Resume again and again where the same response cannot be taken (D7)."""
    patch(
        stream.Stream,
        "run",
        lambda original: lambda self, timeout: _without_defect(original(self, timeout)),
    )


async def _without_defect(run: Any) -> StreamEnd | None:
    end: StreamEnd | None = await run
    return end and replace(end, defect_at=None)


@bug
def ignores_failed() -> None:
    """Look at the status only, which a proxy may have lost (E2)."""
    change_responses(lambda response: response.ClearField("failed"))


@bug
def drops_commands_at_failed() -> None:
    """Forget the commands that come with `failed` (F6)."""

    def change(response: pb.AttachResponse) -> None:
        if response.HasField("failed"):
            response.ClearField("commands")

    change_responses(change)


@bug
def waits_for_the_status() -> None:
    """Wait as long as it takes for the status behind `failed` (E2)."""
    stream.FAREWELL = 1_000_000.0


@bug
def fails_at_what_it_cannot_read() -> None:
    """Take a `failed` that does not decode for the end (F6)."""
    refusal = status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0])
    refusal.details.add().Pack(error_details_pb2.ErrorInfo(domain=stream.DOMAIN, reason="NONE"))

    def change(response: pb.AttachResponse) -> None:
        try:
            known = bool(status_pb2.Status.FromString(response.failed.status).code)
        except DecodeError:
            known = False
        if response.HasField("failed") and not known:
            response.failed.status = refusal.SerializeToString()

    change_responses(change)
