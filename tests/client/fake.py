"""A server that answers what a test tells it to, right or wrong: one script for each call.

The shape, as tests use it::

    async def first(call: FakeCall) -> None:
        request = await call.read()                     # one AttachRequest; None once there will be no more
        await call.write(opened=pb.Opened(...))         # the fields of one AttachResponse
        await call.write_bytes(b"...")                  # or whatever
        await call.refuse("TAKEN_OVER", "NEVER", grpc.StatusCode.ABORTED)      # a status with an ErrorInfo
        await call.end(grpc.StatusCode.UNAVAILABLE)     # one without; OK where the script just returns

    fake = await fake_server(first, second)             # the fixture; call 3 would be refused for good
    fake.calls                                          # how many there were, and what came: fake.requests
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from session_service.v1 import session_pb2 as pb

__all__ = ["FakeCall", "FakeServer", "Script", "opened", "resumed"]

DOMAIN = "session_service"


class FakeCall:
    """One Attach call, seen from the server.

    Attributes:
        requests: what has been read.
        metadata: what came with the call.
    """

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context
        self.requests: list[pb.AttachRequest] = []
        self.metadata = dict(context.invocation_metadata() or ())

    async def read(self) -> pb.AttachRequest | None:
        """Return the next request; None once there will be no more."""
        data = await self._context.read()
        if not isinstance(data, bytes):
            return None
        self.requests.append(pb.AttachRequest.FromString(data))
        return self.requests[-1]

    async def read_until(self, condition: Callable[[pb.AttachRequest], object]) -> pb.AttachRequest:
        """Return the first request that meets the condition; fail where none does."""
        while (request := await self.read()) is not None:
            if condition(request):
                return request
        raise AssertionError(f"the client has no more to say: {self.requests}")

    async def read_all(self) -> None:
        """Read until the client has ended the call, or its half of it."""
        while await self.read() is not None:
            pass

    async def write(self, **fields: Any) -> None:
        """Write one AttachResponse."""
        await self.write_bytes(pb.AttachResponse(**fields).SerializeToString())

    async def write_bytes(self, data: bytes) -> None:
        """Write these bytes as a response."""
        await self._context.write(data)

    async def refuse(
        self,
        reason: str,
        retry: str | None,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        *,
        domain: str = DOMAIN,
        delay: float | None = None,
        **metadata: str,
    ) -> None:
        """End the call with an ErrorInfo; with a RetryInfo where there is a ``delay``."""
        if retry is not None:
            metadata["retry"] = retry
        details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)]
        if delay is not None:
            wait = duration_pb2.Duration(seconds=int(delay), nanos=round(delay % 1 * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=wait))
        status = status_pb2.Status(code=code.value[0], message=f"the fake says {reason}")
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        await self._context.abort_with_status(rpc_status.to_status(status))

    async def end(self, code: grpc.StatusCode) -> None:
        """End the call with a bare status, as a proxy does."""
        await self._context.abort(code, "says the fake")


Script = Callable[[FakeCall], Awaitable[None]]


class FakeServer:
    """Runs one script for each call.

    Attributes:
        address: where it listens.
        calls: all that there were.
        errors: what went wrong in the scripts.
    """

    def __init__(self, scripts: tuple[Script, ...]) -> None:
        self.address = ""
        self.calls: list[FakeCall] = []
        self.errors: list[BaseException] = []
        self._scripts = scripts
        self._server = grpc.aio.server()

    @property
    def first_requests(self) -> list[str | None]:
        """What each call began with: open or resume."""
        return [call.requests[0].WhichOneof("control") if call.requests else None for call in self.calls]

    async def start(self) -> None:
        """Listen on a free port."""
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(self._attach)
        service = grpc.method_handlers_generic_handler("session_service.v1.SessionService", {"Attach": handler})
        self._server.add_generic_rpc_handlers((service,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        """Stop at once."""
        await self._server.stop(None)

    async def _attach(self, _requests: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        call = FakeCall(context)
        self.calls.append(call)
        if len(self.calls) > len(self._scripts):
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the fake has no script for another call")
        try:
            await self._scripts[len(self.calls) - 1](call)
        except (grpc.aio.AbortError, asyncio.CancelledError, grpc.RpcError):
            raise
        except Exception as error:
            self.errors.append(error)
            raise


def opened(**limits: Any) -> pb.Opened:
    """Return what a decent server answers to open."""
    return pb.Opened(session_id="s-1", resume_token="token", limits=_limits(**limits))


def resumed(received: int = 0, **limits: Any) -> pb.Resumed:
    """Return what a decent server answers to resume."""
    return pb.Resumed(received=received, limits=_limits(**limits))


def _limits(messages: int = 1024, heartbeat: float = 25.0) -> pb.Limits:
    interval = duration_pb2.Duration(seconds=int(heartbeat), nanos=round(heartbeat % 1 * 1e9))
    return pb.Limits(
        event_window=pb.Window(messages=messages, bytes=1 << 20),
        command_window=pb.Window(messages=1024, bytes=1 << 20),
        max_message_bytes=4_000_000,
        heartbeat_interval=interval,
    )
