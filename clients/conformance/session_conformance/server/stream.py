"""One raw call of Attach: what was written on it, what came, and what no server may do on any stream.

A stream knows no rules of clients: it writes what it is told to. It reads all the time, or if it is *deaf* only the
answer to its first request, and turns what comes into `Item` after `Item`; acks and heartbeats are no items, for they
may come at any time. Whatever breaks a rule that holds on every stream raises `Violation`, by the rule's id, at the
next wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from session_service.v1 import session_pb2 as pb

__all__ = ["ATTACH", "Failure", "Item", "Status", "Stream", "Violation"]

ATTACH = "/session_service.v1.SessionService/Attach"

# Far more than "about 256 KiB" (F7).
LARGEST_BATCH = 512 * 1024

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}

T = TypeVar("T")

Log = Callable[[str, Message | str], None]
"""Notes a line of what passed: whose and which way, and what."""

Call = grpc.aio.StreamStreamCall[bytes, bytes]


class Failure(Exception):
    """A case has failed."""


class Violation(Failure):
    """The server broke a rule that holds whatever the case is about."""


@dataclass(frozen=True)
class Item:
    """A part of a response.

    Attributes:
        kind: ``opened``, ``resumed``, ``command``, ``draining`` or ``closed``.
        message: what it holds.
        sequence: that of a command, as the server numbered it; 0 in plain sessions.
    """

    kind: str
    message: Message
    sequence: int = 0


@dataclass(frozen=True)
class Status:
    """How a call ended: its status, and where it carried an ErrorInfo, what that says."""

    code: str
    message: str
    domain: str = ""
    reason: str = ""
    retry: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    retry_delay: float | None = None

    def __str__(self) -> str:
        what = " ".join(text for text in (self.code, self.reason, self.retry and f"retry {self.retry}") if text)
        return f"{what} ({self.message})" if self.message else what


class Stream:
    """A call, with its reader.

    Attributes:
        name: what the case calls it.
        items: what came and was not yet expected by anybody.
        ack: how far the server has acknowledged on this stream, `Resumed.received` included.
        acks: every ack that came, in order.
        heartbeats: how many empty responses came.
        failed: the error that came as a message, before the status; None while there is none.
        last: the sequence of the last command, or what this stream began after.
        status: how it ended; None while it has not.
    """

    def __init__(self, name: str, call: Call, log: Log, patience: float, *, deaf: bool = False) -> None:
        self.name = name
        self._log = log
        self.items: deque[Item] = deque()
        self.ack = 0
        self.acks: list[int] = []
        self.heartbeats = 0
        self.last = 0
        self.failed: Status | None = None
        self.status: Status | None = None
        self._call = call
        self._patience = patience
        self._resumable = False
        self._most_bytes = 0
        self._sent = 0  # the last event written on this stream
        self._acks_before = 0  # how many acks had come when the last request was written
        self._attached = self._closed = self._half_closed = False
        self._violation: Violation | None = None
        self._changed = asyncio.Event()
        self._writes: asyncio.Task[None] | None = None
        self._deaf = deaf
        self._reader = asyncio.create_task(self._read())

    # --- what goes up -------------------------------------------------------------------------------------------------

    async def send(self, request: pb.AttachRequest) -> None:
        """Write one request."""
        if not await self.try_send(request, self._patience):
            raise Failure("the server does not read on")

    async def try_send(self, request: pb.AttachRequest, seconds: float) -> bool:
        """Write one request; return False when flow control still holds it back after so long. It goes on waiting."""
        control = request.WhichOneof("control")
        if control == "open":
            self._resumable = self._resumable or request.open.resumable
        elif control == "resume":
            self._resumable = True
            self.last = self.last or request.resume.received
        if request.events:
            self._sent = max(self._sent, request.first_sequence + len(request.events) - 1)
        self._log(f"{self.name} >", request)
        return await self._write_next(request.SerializeToString(), seconds)

    async def send_bytes(self, data: bytes) -> None:
        """Write one request, whatever it is."""
        try:
            await self.send(pb.AttachRequest.FromString(data))
        except DecodeError:
            self._log(f"{self.name} >", f"{len(data)} bytes that do not decode")
            await self._write_next(data, self._patience)

    async def _write_next(self, data: bytes, seconds: float) -> bool:
        self._acks_before = len(self.acks)
        self._writes = asyncio.create_task(self._write(data, self._writes))
        done, _ = await asyncio.wait([self._writes], timeout=seconds)
        return bool(done)

    async def _write(self, data: bytes, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        try:
            await self._call.wait_for_connection()
            # Not call.write(): where the server has ended the call meanwhile that makes its status INTERNAL, "Internal
            # error from Core", and what the server said is lost.
            core: Any = self._call
            await core._cython_call.send_serialized_message(data)
        except (grpc.aio.BaseError, grpc.RpcError, asyncio.CancelledError):
            pass  # it has ended: how is for whoever waits for the status

    async def half_close(self) -> None:
        """Say that no more requests will come."""
        if self._half_closed:
            return
        self._half_closed = True
        self._log(f"{self.name} >", "half-close")
        if self._writes is not None:
            await self._writes
        if self.status is None:
            with contextlib.suppress(asyncio.InvalidStateError):  # it has ended meanwhile
                await self._call.done_writing()

    def cancel(self) -> None:
        """Cancel the call."""
        self._log(f"{self.name} >", "cancel")
        self._call.cancel()

    # --- what comes down ----------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Go on reading a deaf stream."""
        if self._deaf:
            self._deaf = False
            self._reader = asyncio.create_task(self._read())

    async def wait(self, what: str, condition: Callable[[], T | None], seconds: float | None = None) -> T:
        """Wait until the condition returns something other than None or False, and return that.

        Raises:
            Failure: it did not, or the stream has ended.
        """
        try:
            async with asyncio.timeout(seconds or self._patience):
                while not (found := condition()):
                    self.check()
                    if self.status is not None:
                        raise Failure(f"the stream ended, {self.status}, without {what}")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            came = f", but {self.items[0].kind}" if self.items else ""
            raise Failure(f"no {what} came{came}") from None
        return found

    async def wait_item(self, what: str, seconds: float | None = None) -> Item:
        """Wait for the next item, and take it."""
        await self.wait(what, lambda: len(self.items), seconds)
        return self.items.popleft()

    async def wait_ended(self, seconds: float | None = None, *, half_close: bool = True) -> Status:
        """Wait until the stream ends; half-close, as clients do, where everything is said (E2)."""
        self.read()
        try:
            async with asyncio.timeout(seconds or self._patience):
                while self.status is None:
                    self.check()
                    if half_close and (self.failed is not None or (self._closed and not self._resumable)):
                        await self.half_close()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Failure("the stream did not end") from None
        self.check()
        return self.status

    async def wait_ack_again(self, seconds: float | None = None) -> None:
        """Wait for an ack since the last request, be it the same as before."""
        await self.wait("new ack", lambda: len(self.acks) > self._acks_before, seconds)

    async def wait_metadata(self) -> None:
        """Wait for the initial metadata."""
        try:
            async with asyncio.timeout(self._patience):
                await self._call.initial_metadata()
        except TimeoutError:
            raise Failure("no initial metadata came") from None

    async def stay_quiet(self, seconds: float) -> None:
        """Let time pass in which nothing but acks and heartbeats may come."""
        try:
            async with asyncio.timeout(seconds):
                while not self.items and self.status is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self.check()
            return
        self.check()
        raise Failure(f"{self.items[0].kind if self.items else f'the end, {self.status},'} came, and nothing should")

    def check(self) -> None:
        """Raise what the reader found."""
        if self._violation is not None:
            raise self._violation

    async def leave(self) -> None:
        """Cancel the call, and wait for the reader."""
        self._call.cancel()
        await asyncio.wait([task for task in (self._reader, self._writes) if task is not None])

    async def _read(self) -> None:
        try:
            while isinstance(data := await self._call.read(), bytes):  # else it is grpc.aio.EOF
                self._on_response(data)
                self._changed.set()
                if self._deaf and self._attached:
                    return
        except Violation as violation:
            self._violation = violation
            self._call.cancel()
        except grpc.aio.AioRpcError:
            pass
        except asyncio.CancelledError:
            # It is grpc.aio's way to say that the call was cancelled, by us; unless it is this task that is.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        try:
            self.status = await _status_of(self._call)
            self._log(f"{self.name} <", str(self.status))
            if self.status.domain == "session_service" and self.status != self.failed:
                raise Violation(f"Errors: the status is {self.status}, and {self.failed or 'nothing'} came as failed")
        except Violation as violation:
            self._violation = violation
        self._changed.set()

    def _on_response(self, data: bytes) -> None:
        try:
            response = pb.AttachResponse.FromString(data)
        except DecodeError:
            raise Violation("F6: a response does not decode") from None
        self._log(f"{self.name} <", response)
        if self.failed is not None:
            raise Violation("E2: a response came after failed")
        if self._closed and response.WhichOneof("control") != "failed":
            raise Violation("E2: a response came after closed")
        if self._most_bytes and len(data) > self._most_bytes:
            raise Violation(f"F7: a response has {len(data)} bytes")
        if len(response.commands) > 1 and len(data) > LARGEST_BATCH:
            raise Violation(f"F7: {len(response.commands)} commands came as one batch of {len(data)} bytes")
        control = response.WhichOneof("control")
        if control in ("opened", "resumed"):
            self._on_attached(response, control)
        elif not self._attached and (control not in (None, "failed") or response.commands or response.ack):
            raise Violation("F6: something came before opened or resumed")
        if not self._resumable and (response.ack or response.first_sequence):
            raise Violation("P1: the plain session has sequences or acks")
        if response.ack:
            self._on_ack(response.ack)
        if response.commands:
            self._on_commands(response)
        if control == "draining":
            self.items.append(Item(control, response.draining))
        elif control == "closed":
            self._on_closed(response.closed)
        elif control == "failed":
            self._on_failed(response.failed)
        elif not control and not response.commands and not response.ack:
            self.heartbeats += 1

    def _on_attached(self, response: pb.AttachResponse, control: str) -> None:
        if self._attached:
            raise Violation(f"F6: {control} came on a stream that is attached")
        self._attached = True
        message: pb.Opened | pb.Resumed = response.opened if control == "opened" else response.resumed
        self._most_bytes = message.limits.max_message_bytes
        if isinstance(message, pb.Resumed):
            self.ack = message.received
        self.items.append(Item(control, message))

    def _on_ack(self, ack: int) -> None:
        if ack > max(self._sent, self.ack):
            raise Violation(f"D8: an ack of {ack} came where no more than {max(self._sent, self.ack)} was written")
        if ack < self.ack:
            raise Violation(f"D3: an ack of {ack} came after {self.ack}")
        self.ack = ack
        self.acks.append(ack)

    def _on_commands(self, response: pb.AttachResponse) -> None:
        if self._resumable and response.first_sequence != self.last + 1:
            raise Violation(f"D1: command {response.first_sequence} came after {self.last}")
        for command in response.commands:
            self.last += 1
            self.items.append(Item("command", command, self.last if self._resumable else 0))

    def _on_closed(self, closed: pb.Closed) -> None:
        if self._resumable and closed.sequence != self.last + 1:
            raise Violation(f"E2: closed has the sequence {closed.sequence} after command {self.last}")
        self._closed = True
        self.items.append(Item("closed", closed, closed.sequence))

    def _on_failed(self, failed: pb.Failed) -> None:
        status = status_pb2.Status()
        try:
            status.MergeFromString(failed.status)
        except DecodeError:
            raise Violation("Errors: the status of failed does not decode") from None
        self.failed = _as_status(_CODES.get(status.code, str(status.code)), status.message, status)


async def _status_of(call: Call) -> Status:
    """Return the status of a call that has ended."""
    code, message = await call.code(), await call.details() or ""
    status = status_pb2.Status()
    for name, value in await call.trailing_metadata() or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                status.MergeFromString(value)
            except DecodeError:
                raise Violation("Errors: the status details do not decode") from None
    return _as_status(code.name, message, status)


def _as_status(code: str, message: str, status: status_pb2.Status) -> Status:
    found: dict[str, Any] = {}
    for detail in status.details:
        info, retry_info = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            metadata = dict(info.metadata)
            found.update(domain=info.domain, reason=info.reason, retry=metadata.pop("retry", ""), metadata=metadata)
        elif detail.Unpack(retry_info):
            found["retry_delay"] = retry_info.retry_delay.ToTimedelta().total_seconds()
    return Status(code, message, **found)
