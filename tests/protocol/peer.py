"""A raw client for conformance tests: the generated stub, and nothing that knows the rules.

The shape, as tests use it::

    async def test_D3_...(serve: Serve) -> None:
        async def app() -> None: ...                       # apps are defined inside the test

        service = await serve({"app": app}, heartbeat_interval=0.1)    # a real server, a real socket
        peer = await service.open("app", resumable=True)   # one Attach call, `opened` received: peer.opened
        await peer.send(events=[event("say", 1)], first_sequence=1, ack=2)   # the fields of one AttachRequest
        response = await peer.receive()                    # one AttachResponse, as it came
        commands = await peer.receive_commands(3)          # skips heartbeats and acks; exactly 3, else it fails
        responses = await peer.receive_until(lambda response: response.ack == 2)    # all up to that one
        responses = await peer.receive_all()               # all until the stream ends, however it ends
        status = await peer.status()                       # reads to the end: code, message, reason, domain, retry,
                                                           # metadata, retry_delay
        await peer.half_close()
        peer.cancel()
        peer = await service.resume(peer, received=3)      # a new call; `resumed` received: peer.resumed
        peer = service.attach()                            # a new call on which nothing was sent
        peer = service.attach(raw=True)                    # one whose requests are bytes: peer.send_bytes(...)

Like every client it half-closes when everything is said (E2): at `closed` of a plain session, behind the ack of the
`closed` of a resumable one, and at `failed`. It keeps `failed` for `status`, which checks that both say the same, and
returns it from no `receive`.

Every wait is bounded by `PATIENCE` and fails the test; nothing is ever tried again. A `send` on a stream that has ended
returns False: what happened to it is what `status` says, unless the send itself found out: then grpc.aio makes it
INTERNAL, "Internal error from Core", and the server's status is lost. Whatever is open when the test ends is closed by
the fixture.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from session_service.host import App
from session_service.server import Server
from session_service.v1 import session_pb2 as pb
from session_service.v1 import session_pb2_grpc

__all__ = ["PATIENCE", "Peer", "Serve", "Service", "Status", "event", "value"]

# Seconds that anything may take before its test fails: far more than anything does take.
PATIENCE = 5.0

ATTACH = "/session_service.v1.SessionService/Attach"

Metadata = Sequence[tuple[str, str]]


class Serve(Protocol):
    """The fixture: starts a server with these apps, and with the fields of `Config` that are given."""

    async def __call__(self, apps: dict[str, App], **settings: Any) -> Service: ...


@dataclass(frozen=True)
class Status:
    """How a stream ended; the fields after `message` are empty where it carried no ErrorInfo.

    Attributes:
        retry_delay: seconds, from RetryInfo; None without one.
        metadata: that of the ErrorInfo, without `retry`.
    """

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    retry: str
    metadata: dict[str, str]
    retry_delay: float | None


class Peer:
    """One raw Attach call.

    Attributes:
        call: the call itself, for whatever is missing here.
        opened: what the server answered to `Service.open`.
        resumed: what it answered to `Service.resume`.
        failed: the error that it wrote before the status; None where none has come.
        lingers: do not half-close when everything is said.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, pb.AttachResponse]) -> None:
        self.call = call
        self.opened = pb.Opened()
        self.resumed = pb.Resumed()
        self.failed: status_pb2.Status | None = None
        self.lingers = False
        self._is_plain = False
        self._closed: pb.Closed | None = None

    async def send(self, **fields: Any) -> bool:
        """Send one AttachRequest of these fields; return False where the stream has ended."""
        written = await self._write(pb.AttachRequest(**fields))
        if self._closed is not None and fields.get("ack") == self._closed.sequence:
            await self._all_is_said()
        return written

    async def send_bytes(self, data: bytes) -> bool:
        """Send these bytes as one request, on a call that was made `raw`."""
        return await self._write(data)

    async def receive(self) -> pb.AttachResponse:
        """Return the next response; fail where the stream ends instead."""
        response = await self._read()
        if response is None:
            raise AssertionError(f"the stream ended: {await self.status()}")
        return response

    async def receive_until(self, condition: Callable[[pb.AttachResponse], object]) -> list[pb.AttachResponse]:
        """Return all responses up to the first that meets the condition."""
        responses: list[pb.AttachResponse] = []
        async with asyncio.timeout(PATIENCE):
            while not responses or not condition(responses[-1]):
                responses.append(await self.receive())
        return responses

    async def receive_commands(self, count: int) -> list[pb.Command]:
        """Return the next commands; fail where more come with the last of them, or `draining` between them."""
        commands: list[pb.Command] = []
        async with asyncio.timeout(PATIENCE):
            while len(commands) < count:
                response = await self.receive()
                assert not response.HasField("draining"), response
                commands += response.commands
        assert len(commands) == count, commands
        return commands

    async def receive_all(self) -> list[pb.AttachResponse]:
        """Return all responses until the stream ends."""
        responses: list[pb.AttachResponse] = []
        async with asyncio.timeout(PATIENCE):
            while (response := await self._read()) is not None:
                responses.append(response)
        return responses

    async def status(self) -> Status:
        """Read until the stream ends, and return how it did."""
        await self.receive_all()
        async with asyncio.timeout(PATIENCE):
            code, message = await self.call.code(), await self.call.details() or ""
            rich = await rpc_status.aio.from_call(self.call)
        assert rich == self.failed, "an error of the server's own is written as `failed` too, and no other"
        info, delay = error_details_pb2.ErrorInfo(), None
        for detail in rich.details if rich is not None else ():
            if not detail.Unpack(info):
                retry_info = error_details_pb2.RetryInfo()
                assert detail.Unpack(retry_info), detail
                delay = retry_info.retry_delay.ToTimedelta().total_seconds()
        metadata = dict(info.metadata)
        return Status(code, message, info.reason, info.domain, metadata.pop("retry", ""), metadata, delay)

    async def half_close(self) -> None:
        """Say that no more requests will come."""
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # the stream has ended
            await self.call.done_writing()

    def cancel(self) -> None:
        """Break the stream."""
        self.call.cancel()

    async def _write(self, message: Any) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                await self.call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True

    async def _all_is_said(self) -> None:
        if not self.lingers:
            await self.half_close()

    async def _read(self, patience: float | None = PATIENCE) -> pb.AttachResponse | None:
        try:
            async with asyncio.timeout(patience):
                response = await self.call.read()
        except grpc.aio.AioRpcError:
            return None
        except asyncio.CancelledError:
            # It is grpc.aio's way to say that the call was cancelled, by us; unless it is this task that is.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None
        if response is None:
            raise AssertionError("the response cannot be decoded, says grpc.aio's read()")
        if not isinstance(response, pb.AttachResponse):
            return None  # it is grpc.aio.EOF
        assert self.failed is None, f"after `failed` came {response}"
        if response.HasField("opened"):
            self._is_plain = not response.opened.resume_token
        elif response.HasField("closed"):
            self._closed = response.closed
            if self._is_plain:
                await self._all_is_said()
        elif response.HasField("failed"):
            self.failed = status_pb2.Status.FromString(response.failed.status)
            await self._all_is_said()
            return await self._read(patience)
        return response


class Service:
    """A server that runs, and a channel to it.

    Attributes:
        server: the server, in this process and on this loop.
        channel: one connection to it.
        stub: the generated stub on that.
    """

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.stub = session_pb2_grpc.SessionServiceStub(channel)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Service]:
        """Connect once more, over a socket of its own."""
        async with connect(self.server.address) as channel:
            yield Service(self.server, channel)

    def attach(self, metadata: Metadata = (), *, raw: bool = False) -> Peer:
        """Make a call, and send nothing."""
        if raw:
            return Peer(self.channel.stream_stream(ATTACH, response_deserializer=pb.AttachResponse.FromString)())
        return Peer(self.stub.Attach(metadata=tuple(metadata)))

    async def open(self, app: str, *, metadata: Metadata = (), **fields: Any) -> Peer:
        """Open a session: the fields are those of `Open`."""
        peer = self.attach(metadata)
        await peer.send(open=pb.Open(app=app, **fields))
        response = await peer.receive()
        assert response.HasField("opened"), response
        peer.opened = response.opened
        return peer

    async def resume(self, peer: Peer, *, received: int = 0, metadata: Metadata = (), **fields: Any) -> Peer:
        """Resume the session of a peer on a new call: the fields are those of `Resume`."""
        resumed = self.attach(metadata)
        await resumed.send(resume=resume_of(peer, received=received, **fields))
        response = await resumed.receive()
        assert response.HasField("resumed"), response
        resumed.opened, resumed.resumed = peer.opened, response.resumed
        return resumed


def connect(address: str) -> grpc.aio.Channel:
    """Return a channel that shares its connection with no other channel of this process, and takes any size."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    return grpc.aio.insecure_channel(address, options)


def resume_of(peer: Peer, **fields: Any) -> pb.Resume:
    """Return the resume of a peer's session."""
    fields = {"session_id": peer.opened.session_id, "resume_token": peer.opened.resume_token, **fields}
    return pb.Resume(**fields)


def event(name: str = "event", data: Any = None, *, task_id: str = "") -> pb.Event:
    """Return an event whose payload is JSON text."""
    return pb.Event(task_id=task_id, event=name, json=json.dumps(data))


def value(command: pb.Command) -> Any:
    """Return the value that a command of the format JSON carries."""
    assert command.WhichOneof("payload") == "json", command
    return json.loads(command.json)
