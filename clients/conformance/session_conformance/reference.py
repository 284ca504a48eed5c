"""The reference server: it does what a case says, right or wrong, one stream after the other.

It takes and sends bytes, so that it can send what no server may.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from session_service.v1 import session_pb2 as pb

from .observer import Observer, Stream

__all__ = ["ReferenceServer", "ReferenceStream", "attach_handler"]

# Seconds in which gRPC tells that a call without more to read is cancelled.
CANCEL_TIME = 0.1

# Seconds that a good server lets a call stand when everything is said, until the client has half-closed (E2).
FAREWELL = 1.0

# Seconds after which it has certainly told, however busy the machine is.
CERTAIN_TIME = 1.0

Context = grpc.aio.ServicerContext[bytes, bytes]


class ReferenceStream:
    """One call of Attach at the reference server.

    Attributes:
        seen: what the observer knows of it.
        changed: set when something has come.
    """

    def __init__(self, context: Context, observer: Observer) -> None:
        self._context = context
        self._observer = observer
        self._end: asyncio.Future[status_pb2.Status | None] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self.changed = asyncio.Event()
        self.seen: Stream = observer.begin(
            {name: text for name, text in context.invocation_metadata() or () if isinstance(text, str)},
            context.time_remaining() is not None,
        )

    async def run(self, arrived: asyncio.Queue[ReferenceStream]) -> None:
        """Read what comes, until the case or the client ends the call."""
        reader: asyncio.Task[None] | None = None
        try:
            await self._context.send_initial_metadata(())  # F0; the case must not write at the same time
            arrived.put_nowait(self)
            reader = asyncio.create_task(self._read())
            status = await self._end
            self._observer.confirm_half_close(self.seen)
        except asyncio.CancelledError:
            self._observer.on_cancel(self.seen)
            raise
        finally:
            if reader is not None:
                reader.cancel()
            self._over.set()
            self.changed.set()
        self._observer.on_end(self.seen, "< OK" if status is None else f"< {_show_status(status)}")
        if status is not None:
            await self._context.abort_with_status(rpc_status.to_status(status))

    async def _read(self) -> None:
        while isinstance(data := await self._context.read(), bytes):
            try:
                self._observer.on_request(self.seen, pb.AttachRequest.FromString(data))
            except DecodeError:
                self._observer.violations.append(f"F4: a request that does not decode (stream {self.seen.number})")
            self.changed.set()
        if not await is_over(self._over):
            self._observer.on_half_close(self.seen)
            self.changed.set()
            if not await is_over(self._over, CERTAIN_TIME):
                self._observer.confirm_half_close(self.seen)
                self.changed.set()

    async def send(self, response: pb.AttachResponse) -> None:
        """Send a response."""
        self._observer.on_response(self.seen, response)
        await self._write(response.SerializeToString())

    async def send_bytes(self, data: bytes) -> None:
        """Send what may be no response at all."""
        self._observer.on_other(self.seen, f"< {data!r}")
        await self._write(data)

    async def _write(self, data: bytes) -> None:
        try:
            await self._context.write(data)
        except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            if not await is_over(self._over):  # else the client has left: what it should have seen the case will tell
                raise

    async def wait_half_closed(self) -> None:
        """Wait until the client has half-closed or left, as long as a good server does."""
        try:
            async with asyncio.timeout(FAREWELL):
                while not self.seen.half_closed and not self._over.is_set():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pass  # the rules leave the client more time than the server does

    async def end(self, status: status_pb2.Status | None = None) -> None:
        """End the call, with OK where there is no status."""
        if not self._end.done():
            self._end.set_result(status)
        await self._over.wait()


class ReferenceServer:
    """Listens on a port of its own; whoever plays a case takes the streams as they come.

    Attributes:
        address: where it listens.
        arrived: the streams that no case has taken yet.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
        self.arrived: asyncio.Queue[ReferenceStream] = asyncio.Queue()
        self.address = ""

    async def __aenter__(self) -> ReferenceServer:
        self._server.add_generic_rpc_handlers((attach_handler(self._attach),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.stop(None)

    async def _attach(self, _requests: Any, context: Context) -> None:
        await ReferenceStream(context, self._observer).run(self.arrived)


async def is_over(over: asyncio.Event, seconds: float = CANCEL_TIME) -> bool:
    """Tell, where there is nothing more to read, whether the call is over, or the client has only half-closed it.

    gRPC says first that there is nothing more, and then why.
    """
    try:
        async with asyncio.timeout(seconds):
            await over.wait()
    except TimeoutError:
        pass
    return over.is_set()


def attach_handler(attach: Any) -> grpc.GenericRpcHandler:
    """Return a handler that serves Attach with bytes."""
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(attach)
    return grpc.method_handlers_generic_handler("session_service.v1.SessionService", {"Attach": handler})


def _show_status(status: status_pb2.Status) -> str:
    code = next(code.name for code in grpc.StatusCode if code.value[0] == status.code)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return f"{code} {info.reason} {dict(info.metadata)}"
    return code
