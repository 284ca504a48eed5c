"""Bugs in attaching and detaching: A."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import Any

from session_client import session, stream
from session_client.conversation import Conversation

from session_service.delivery import Outbox
from session_service.v1 import session_pb2 as pb

from .planting import bug, change_ends, change_first_requests, patch


@bug
def leaves_streams_open() -> None:
    """Resume without an end to the stream before (A3)."""
    kept: list[_Kept] = []

    def make(original: Any) -> Any:
        def init(self: stream.Stream, call: Any, *rest: Any) -> None:
            kept.append(_Kept(call))
            original(self, kept[-1], *rest)

        return init

    patch(stream.Stream, "__init__", make)


class _Kept:
    """A call that is left, and not cancelled."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._left = asyncio.Event()
        self._reads: set[asyncio.Task[Any]] = set()  # that nobody waits for any more

    async def read(self) -> Any:
        reading, left = asyncio.create_task(self._call.read()), asyncio.create_task(self._left.wait())
        self._reads.add(reading)
        await asyncio.wait({reading, left}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise asyncio.CancelledError
        left.cancel()
        self._reads.discard(reading)
        return reading.result()

    def _cancel(self, _details: str) -> None:
        self._left.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


@bug
def ignores_takeover() -> None:
    """Take the session back from another client (A3)."""
    change_ends(lambda end: replace(end, retry="RESUME") if end.reason == "TAKEN_OVER" else end)


@bug
def gives_up_at_takeover() -> None:
    """Leave the session to a late stream of its own (A3)."""
    change_ends(lambda end: replace(end, retry="NEVER") if end.reason == "TAKEN_OVER" else end)


@bug
def changes_client_id() -> None:
    """Name a new client_id in each resume (A3)."""

    def change(_: Conversation, request: pb.AttachRequest) -> None:
        if request.HasField("resume"):
            request.resume.client_id = str(uuid.uuid4())

    change_first_requests(change)


@bug
def changes_request_id() -> None:
    """Open with a new request_id each time: the app may run twice (A6)."""

    def change(_: Conversation, request: pb.AttachRequest) -> None:
        if request.open.resumable:
            request.open.request_id = str(uuid.uuid4())

    change_first_requests(change)


@bug
def resumes_from_acknowledged() -> None:
    """Resume from what the server has been told, one too low (A5)."""

    def change(_: Conversation, request: pb.AttachRequest) -> None:
        if request.resume.received:
            request.resume.received -= 1

    change_first_requests(change)


@bug
def half_closes_to_close() -> None:
    """Have done writing where `close` is due (A1)."""

    def make(original: Any) -> Any:
        async def write(self: stream.Stream) -> None:
            self._call = _HalfClosing(self._call)  # type: ignore[assignment]
            await original(self)

        return write

    patch(stream.Stream, "_write", make)


class _HalfClosing:
    def __init__(self, call: Any) -> None:
        self._call = call

    async def write(self, data: bytes) -> None:
        if pb.AttachRequest.FromString(data).HasField("close"):
            await self._call.done_writing()
        else:
            await self._call.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


@bug
def detaches_at_once() -> None:
    """Leave before the session has taken over all events (A1)."""
    patch(Outbox, "empty", lambda _: property(lambda self: True))


@bug
def closes_instead_of_detaching() -> None:
    """End a session that should run on (A1)."""

    def make(original: Any) -> Any:
        async def detach(self: session.ClientSession) -> Any:
            self._conversation.close("", True)
            self._wake()
            await asyncio.sleep(0.1)
            return await original(self)

        return detach

    patch(session.ClientSession, "detach", make)


@bug
def leaves_opens_running() -> None:
    """Leave an open that is given up, without a word (A6)."""
    patch(session.ClientSession, "_give_up", lambda _: lambda self: False)


@bug
def closes_given_up_opens_again_and_again() -> None:
    """Repeat an open that is given up more than once (A6)."""

    def make(original: Any) -> Any:
        async def supervise(self: session.ClientSession) -> None:
            await original(self)
            if self._conversation.given_up:
                await original(self)

        return supervise

    patch(session.ClientSession, "_supervise", make)
