"""Passes Attach on to a server, message by message, and lets the observer see them."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

import grpc

from session_service.v1 import session_pb2 as pb

from .observer import Observer, Stream
from .reference import CERTAIN_TIME, Context, attach_handler, is_over

__all__ = ["Relay"]


class Relay:
    """Listens on a port of its own.

    Attributes:
        address: where it listens.
    """

    def __init__(self, target: str, observer: Observer) -> None:
        self._observer = observer
        self._channel = grpc.aio.insecure_channel(target)
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.address = ""

    async def __aenter__(self) -> Relay:
        self._server.add_generic_rpc_handlers((attach_handler(self._attach),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.stop(None)
        await self._channel.close()

    async def _attach(self, _requests: Any, context: Context) -> None:
        metadata = [(name, text) for name, text in context.invocation_metadata() or () if _is_ours(name)]
        stream = self._observer.begin({name: text for name, text in metadata if isinstance(text, str)})
        attach: Any = self._channel.stream_stream("/session_service.v1.SessionService/Attach")
        call = attach(metadata=metadata)
        over = asyncio.Event()
        up = asyncio.create_task(self._pass_up(stream, context, call, over))
        try:
            await context.send_initial_metadata(())
            while isinstance(data := await call.read(), bytes):
                self._observer.on_response(stream, pb.AttachResponse.FromString(data))
                await context.write(data)
            code, details = await call.code(), await call.details()
            self._observer.on_end(stream, f"< {code.name} {details}")
        except asyncio.CancelledError:
            self._observer.on_cancel(stream)
            raise
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            self._observer.on_end(stream, f"< {code.name} {details}")
        finally:
            over.set()
            call.cancel()
            up.cancel()
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details or "", tuple(await call.trailing_metadata()))

    async def _pass_up(self, stream: Stream, context: Context, call: Any, over: asyncio.Event) -> None:
        try:
            while isinstance(data := await context.read(), bytes):
                self._observer.on_request(stream, pb.AttachRequest.FromString(data))
                await call.write(data)
            if not await is_over(over):
                self._observer.on_half_close(stream)
                await call.done_writing()
                if not await is_over(over, CERTAIN_TIME):
                    self._observer.confirm_half_close(stream)
        except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            pass  # the call has ended, and its status is passed down


def _is_ours(name: str) -> bool:
    return not name.startswith("grpc-") and name not in ("user-agent", "te", "content-type")
