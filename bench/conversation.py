"""The clients: as lean as they can be, since their time is not what is measured.

Messages are serialised before they are needed, and what comes is decoded only as far as it must be to count it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import uuid
from collections import deque
from typing import Any, Protocol, cast

import grpc

from session_service.v1 import session_pb2 as pb

__all__ = ["DATA", "Client", "Conversation", "GrpcClient", "GrpcConversation", "WebSocketClient", "request"]

DATA: dict[str, Any] = {"x": 1, "name": "hello"}


class Conversation(Protocol):
    """One session, as its client sees it. It is open, and its app has sent ``ready``."""

    async def send(self) -> None:
        """Send an event of `DATA`."""

    async def ask(self, data: int) -> None:
        """Send an event of ``data``."""

    async def receive(self) -> int:
        """Wait for commands, and return how many came."""

    async def acknowledge(self) -> None:
        """Acknowledge what has come, where that is needed for more to come."""

    async def wait_end(self) -> None:
        """Wait until the server has ended it."""

    def abandon(self) -> None:
        """Leave it without a word."""


class Client(Protocol):
    """Opens sessions on one server."""

    async def open(self, app: str) -> Conversation:
        """Open a session, and wait for its first command."""

    async def close(self) -> None:
        """Close all connections."""


# --- gRPC -------------------------------------------------------------------------------------------------------------

Call = grpc.aio.StreamStreamCall[bytes, bytes]


@functools.cache
def answer(sequence: int, callback: str, value: bool) -> bytes:
    """Return a request that holds an event of `DATA`, and acknowledges the commands before it.

    Args:
        sequence: of the event. One command has come for each event before it, and ``ready``.
        callback: the callback that it is for; empty for the main task.
        value: as a `Value`; else as JSON.
    """
    event = pb.Event(event="callback" if callback else "say", task_id=callback)
    if value:
        event.data.struct_value.update(DATA)
    else:
        event.json = json.dumps(DATA)
    return pb.AttachRequest(events=[event], first_sequence=sequence, ack=sequence).SerializeToString()


def request(sequence: int, data: object) -> bytes:
    """Return a request that holds an event of ``data``, and acknowledges nothing."""
    event = pb.Event(event="say", json=json.dumps(data))
    return pb.AttachRequest(events=[event], first_sequence=sequence).SerializeToString()


class GrpcConversation:
    """A session of ours, or the bare call that plays one.

    Attributes:
        call: what carries it.
        opened: what the server said; empty where there is no session.
        sent: the last event.
        received: the last command.
        first_spec: what ``ready`` brought.
        closed: the sequence of ``closed``; 0 until it has come.
    """

    def __init__(self, call: Call, value: bool) -> None:
        """``value``: JSON values travel as `Value`."""
        self.call = call
        self.opened = pb.Opened()
        self.sent = 0
        self.received = 0
        self.first_spec = ""
        self.closed = 0
        self._value = value
        self._acknowledged = 0

    async def start(self) -> None:
        """Wait for ``ready``."""
        while not self.received:
            response = await self.read()
            if response.HasField("opened"):
                self.opened = response.opened
            self.closed = response.closed.sequence
            if response.commands:
                self.received = 1
                self.first_spec = json.loads(response.commands[0].json or "null") or ""

    async def read(self) -> pb.AttachResponse:
        """Return the next response; raise where the call has ended."""
        data = await self.call.read()
        if not isinstance(data, bytes):
            raise ConnectionError(f"the call has ended: {await self.call.code()} {await self.call.details()}")
        return pb.AttachResponse.FromString(data)

    async def send(self) -> None:
        """Send an event of `DATA`, which acknowledges all that has come: one command an event."""
        self.sent += 1
        self._acknowledged = self.sent
        await self.call.write(answer(self.sent, self.first_spec, self._value))

    async def ask(self, data: int) -> None:
        """Send an event of ``data``."""
        self.sent += 1
        await self.call.write(request(self.sent, data))

    async def receive(self) -> int:
        """Wait for commands, and return how many came."""
        while not (count := len((await self.read()).commands)):
            pass
        self.received += count
        return count

    async def acknowledge(self) -> None:
        """Acknowledge what has come once it is a quarter of the window."""
        window = self.opened.limits.command_window.messages
        if window and (self.received - self._acknowledged) * 4 >= window:
            self._acknowledged = self.received
            await self.call.write(pb.AttachRequest(ack=self.received).SerializeToString())

    async def wait_end(self) -> None:
        """Wait for ``closed``, acknowledge it, half-close, and wait for the end of the call."""
        if self.opened.session_id:
            while not self.closed:
                self.closed = (await self.read()).closed.sequence
            await self.call.write(pb.AttachRequest(ack=self.closed).SerializeToString())
            await self.call.done_writing()
        while isinstance(await self.call.read(), bytes):
            pass

    def abandon(self) -> None:
        """Cancel the call."""
        self.call.cancel()


class GrpcClient:
    """Opens calls on one connection, with resumable sessions on them where the server has such."""

    def __init__(self, address: str, value: bool = False) -> None:
        """``value``: JSON values travel as `Value`."""
        self._value = value
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._attach: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            "/session_service.v1.SessionService/Attach"
        )

    async def open(self, app: str) -> GrpcConversation:
        """Open a session, and wait for its first command."""
        opening = pb.Open(
            app=app,
            resumable=True,
            request_id=str(uuid.uuid4()),
            command_format=pb.PAYLOAD_FORMAT_VALUE if self._value else pb.PAYLOAD_FORMAT_JSON,
        )
        conversation = GrpcConversation(await self.begin(pb.AttachRequest(open=opening)), self._value)
        await conversation.start()
        return conversation

    async def begin(self, first: pb.AttachRequest) -> Call:
        """Begin a call."""
        call = self._attach()
        await call.write(first.SerializeToString())
        return call

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


# --- WebSocket --------------------------------------------------------------------------------------------------------

_TEXT, _CLOSE = 0x1, 0x8


def frame(opcode: int, data: bytes) -> bytes:
    """Return what a client sends; masked, as it must be, by a mask that changes nothing."""
    if len(data) < 126:
        return bytes((0x80 | opcode, 0x80 | len(data))) + bytes(4) + data
    return bytes((0x80 | opcode, 0x80 | 126)) + len(data).to_bytes(2, "big") + bytes(4) + data


class WebSocketConversation(asyncio.Protocol):
    """A session of PyWebIO on a connection of its own. Each message is one command."""

    def __init__(self, app: str, host: str) -> None:
        """Not called: `WebSocketClient.open` makes it."""
        self._request = (
            f"GET /?app={app}&session=NEW HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "User-Agent: bench\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self._upgraded = False
        self._buffer = b""
        self._messages: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport
        self._task_id = ""
        self._event = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast("asyncio.Transport", transport)  # one in all but name: uvloop's derive from nothing
        self._transport.write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        """Take messages apart."""
        data = self._buffer + data if self._buffer else data
        if not self._upgraded:
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                self._buffer = data
                return
            if b" 101 " not in head.split(b"\r\n")[0]:
                raise ConnectionError(head.decode())
            self._upgraded, data = True, rest
        start = 0
        while (end := self._frame(data, start)) is not None:
            start = end
        self._buffer = data[start:]
        if self._messages and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _frame(self, data: bytes, start: int) -> int | None:
        """Take the frame at ``start``; return where it ends, None where it is not whole yet."""
        body = start + 2
        if len(data) < body:
            return None
        size = data[start + 1]
        if size >= 126:
            width = 2 if size == 126 else 8
            body += width
            if len(data) < body:
                return None
            size = int.from_bytes(data[body - width : body], "big")
        end = body + size
        if len(data) < end:
            return None
        opcode = data[start] & 0xF
        if opcode == _TEXT:
            self._messages.append(data[body:end])
        elif opcode == _CLOSE:
            self._transport.write(frame(_CLOSE, data[body:end]))
        return end

    def connection_lost(self, _: Exception | None) -> None:
        """Wake who waits."""
        self._lost.set_result(None)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionError("the server has closed the connection"))

    async def start(self) -> None:
        """Wait for ``ready``, which says for which task events are."""
        await self._wait()
        self._task_id = json.loads(self._messages.popleft())["task_id"]
        self._event = self._encode(DATA)

    async def send(self) -> None:
        """Send an event of `DATA`."""
        self._transport.write(self._event)

    async def ask(self, data: int) -> None:
        """Send an event of ``data``."""
        self._transport.write(self._encode(data))

    def _encode(self, data: object) -> bytes:
        return frame(_TEXT, json.dumps({"event": "say", "task_id": self._task_id, "data": data}).encode())

    async def receive(self) -> int:
        """Wait for commands, and return how many came."""
        await self._wait()
        count = len(self._messages)
        self._messages.clear()
        return count

    async def _wait(self) -> None:
        if not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def acknowledge(self) -> None:
        """Do nothing: PyWebIO knows no acknowledgements."""

    async def wait_end(self) -> None:
        """Wait until the server has closed the connection."""
        await self._lost

    def abandon(self) -> None:
        """Close the connection."""
        self._transport.abort()


class WebSocketClient:
    """Opens connections, each with a session of PyWebIO."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def open(self, app: str) -> WebSocketConversation:
        """Open a session, and wait for its first command."""
        host, _, port = self._address.partition(":")
        _, conversation = await asyncio.get_running_loop().create_connection(
            lambda: WebSocketConversation(app, self._address), host, int(port)
        )
        await conversation.start()
        return conversation

    async def close(self) -> None:
        """Do nothing: the connections are the sessions' own."""
