"""A piece of wire between the kit and the server under test, to be cut."""

from __future__ import annotations

import asyncio

__all__ = ["Wire"]

_CHUNK = 64 * 1024


class Wire:
    """Listens on a port of its own, and forwards to the server until it is cut.

    Attributes:
        address: where it listens.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """End all connections at once; what is under way is lost, and nobody says goodbye."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def stop(self) -> None:
        """Cut, and let go of everything."""
        self.cut()
        if self._pumps:
            await asyncio.wait(self._pumps)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        self._writers.append(writer)
        server_reader, server_writer = await asyncio.open_connection(host.strip("[]"), int(port))
        self._writers.append(server_writer)
        for source, sink in ((reader, server_writer), (server_reader, writer)):
            pump = asyncio.create_task(_pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()
