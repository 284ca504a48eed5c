"""One connection through the proxy."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, TypeAlias

from .frames import Direction, Frames, Messages

if TYPE_CHECKING:
    from .proxy import Proxy

__all__ = ["Direction", "Link", "reset"]

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

CHUNK = 64 * 1024


class Link:
    """Forwards between a client's connection and the one to the server that was made for it.

    Attributes:
        open: cleared while nothing is forwarded.
        may_end: cleared while the server is not told that the client's end is gone.
    """

    def __init__(self, proxy: Proxy, client: Streams, server: Streams) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._over = False
        self.open, self.may_end = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.may_end.set()

    async def run(self) -> None:
        """Forward until both ends have ended."""
        await asyncio.gather(
            self._pump("up", self._client[0], self._server[1]), self._pump("down", self._server[0], self._client[1])
        )

    def end(self) -> None:
        """Close both ends behind what has passed."""
        self._stop()
        self._client[1].close()
        self._server[1].close()

    def reset(self) -> None:
        """Close both ends at once."""
        self._stop()
        reset(self._client[1])
        reset(self._server[1])

    def reset_client(self) -> None:
        """Close the client's end at once, and keep the server's."""
        self.may_end.clear()
        reset(self._client[1])

    def _stop(self) -> None:
        self._over = True
        self.open.set()
        self.may_end.set()

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one direction, and the end of it."""
        proxy, frames, messages = self._proxy, Frames(direction), Messages()
        watching = proxy.on_messages is not None
        try:
            while not self._over and (data := await reader.read(CHUNK)):
                await asyncio.sleep(proxy.delay + (len(data) / proxy.rate if proxy.rate else 0))
                for piece in frames.split(data) if watching else (data,):
                    complete = messages.complete(piece) if watching else None
                    if complete:
                        proxy.tell(direction, complete, False)
                    await self.open.wait()
                    if self._over:
                        return
                    size, cut = proxy.allow(direction, len(piece))
                    writer.write(piece[:size])
                    if cut:
                        proxy.cut()
                    elif complete:
                        proxy.tell(direction, complete, True)
                    await writer.drain()
        except ConnectionError:
            pass  # the one end or the other is gone
        finally:
            if direction == "up":
                await self.may_end.wait()
            writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that its other end meets an error (RST)."""
    transport = writer.transport
    if not transport.is_closing():
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
