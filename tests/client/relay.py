"""A TCP relay between a client and its server, and what happens to networks.

The shape, as tests use it::

    relay = await relay_to(server.address)      # the fixture: a client connects to relay.address
    relay.cut()                                 # every connection is reset, at both ends
    await relay.refuse()                        # as cut, and nobody listens any more
    await relay.accept()                        # listens again, on the same port
    relay.black_hole()                          # connections stay, and nothing comes through, either way
    relay.restore()                             # what was held up goes on
    await relay.passed(4096)                    # so many bytes more have come from the server

Or it is a path with a will of its own, over and over::

    relay.most = 100_000                        # resets a connection on which the client has sent more bytes
    relay.offence = b"DROP TABLE"               # resets one on which the client has sent this
    relay.lifetime = 0.05                       # resets each connection so many seconds after its beginning
"""

from __future__ import annotations

import asyncio

__all__ = ["Relay"]


class Relay:
    """Forwards bytes, until told otherwise.

    Attributes:
        address: where it listens.
        connections: how many it has accepted.
        most: bytes that it lets a client send on one connection; None for any number.
        offence: what it lets no client say.
        lifetime: seconds after which it resets a connection; None for never.
    """

    def __init__(self, target: str) -> None:
        self.address = ""
        self.connections = 0
        self.most: int | None = None
        self.offence: bytes | None = None
        self.lifetime: float | None = None
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.Transport] = set()
        self._holds = False
        self._from_server = 0
        self._progress = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a free port."""
        await self._listen(0)

    async def refuse(self) -> None:
        """Reset every connection, and take no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def accept(self) -> None:
        """Take connections again."""
        await self._listen(int(self.address.rpartition(":")[2]))

    def cut(self) -> None:
        """Reset every connection, at both ends."""
        for transport in list(self._transports):
            transport.abort()

    def black_hole(self) -> None:
        """Hold everything up: nobody is told."""
        self._holds = True
        for transport in self._transports:
            transport.pause_reading()

    def restore(self) -> None:
        """Let everything through again."""
        self._holds = False
        for transport in self._transports:
            if not transport.is_closing():
                transport.resume_reading()

    async def passed(self, count: int) -> None:
        """Wait until so many bytes more have come from the server."""
        goal = self._from_server + count
        async with self._progress:
            await self._progress.wait_for(lambda: self._from_server >= goal)

    async def close(self) -> None:
        """End everything."""
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Inward(self), "127.0.0.1", port)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    def run(self, inward: _Inward) -> None:
        """Connect to the server for a connection that was accepted."""
        self.connections += 1
        self._keep(asyncio.get_running_loop().create_task(self._connect(inward)))

    def joined(self, transport: asyncio.Transport) -> None:
        """Count a connection, of either side."""
        self._transports.add(transport)
        if self._holds:
            transport.pause_reading()

    def left(self, transport: asyncio.Transport | None) -> None:
        """Forget a connection."""
        if transport is not None:
            self._transports.discard(transport)

    def came(self, count: int) -> None:
        """Count bytes from the server."""
        self._from_server += count
        self._keep(asyncio.get_running_loop().create_task(self._tell()))

    async def _connect(self, inward: _Inward) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Outward(self, inward), *self._target)
        except OSError:
            inward.end()

    async def _tell(self) -> None:
        async with self._progress:
            self._progress.notify_all()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _End(asyncio.Protocol):
    """One end of a connection through the relay; what it reads, the other end writes."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.relay.joined(transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.relay.left(self.transport)
        if self.other is not None:
            self.other.end()

    def end(self) -> None:
        """Reset this end."""
        if self.transport is not None:
            self.transport.abort()


class _Inward(_End):
    """The client's."""

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay)
        self._said = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.relay.lifetime is not None:
            asyncio.get_running_loop().call_later(self.relay.lifetime, self.end)
        self.relay.run(self)

    def data_received(self, data: bytes) -> None:
        most, offence = self.relay.most, self.relay.offence
        if most is not None or offence is not None:
            self._said += data
            if (most is not None and len(self._said) > most) or (offence is not None and offence in self._said):
                self.end()
                return
        super().data_received(data)


class _Outward(_End):
    """The server's."""

    def __init__(self, relay: Relay, inward: _Inward) -> None:
        super().__init__(relay)
        self.other = inward

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.other is not None
        assert self.transport is not None
        self.other.other = self
        if self.other.transport is None or self.other.transport.is_closing():
            self.end()
        for data in self.other.early:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.relay.came(len(data))
