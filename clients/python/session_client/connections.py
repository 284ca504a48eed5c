"""The connections to one server: one, and further ones where that takes no more streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc

__all__ = ["Connection", "Connections"]

logger = logging.getLogger(__name__)


class Connection:
    """A channel, which has one HTTP/2 connection, and the streams on it.

    Attributes:
        channel: it.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._chosen = 0
        self._streams = 0  # of those chosen, the ones that it has taken
        self._most: int | None = None  # streams that it takes, as far as is known

    @property
    def has_room(self) -> bool:
        """False where another stream would wait."""
        return self._most is None or self._chosen < self._most

    def choose(self) -> None:
        """Count a stream that is to run over it."""
        self._chosen += 1

    def begin(self) -> None:
        """Count one of them as begun: its headers are out."""
        self._streams += 1

    def leave(self, begun: bool) -> None:
        """Forget one of them."""
        self._chosen -= 1
        self._streams -= begun
        if not self._streams:
            self._most = None  # the next may be another connection, to another server

    def check_full(self) -> bool:
        """Return whether the peer takes no more streams, asked where one has waited for a while to begin.

        A peer says how many streams it takes (SETTINGS_MAX_CONCURRENT_STREAMS): nginx 128, HAProxy 100. gRPC lets all
        beyond that wait, without a word.
        """
        if not self._streams or self.channel.get_state() is not grpc.ChannelConnectivity.READY:
            return False
        if self._most is None or self._streams < self._most:
            self._most = self._streams
            logger.info("the server, or a proxy, takes %d streams on one connection: opening another", self._most)
        return True


class Connections:
    """Gives each stream a connection."""

    def __init__(self, make: Callable[[], grpc.aio.Channel]) -> None:
        """``make`` returns a channel that shares its connection with no other."""
        self._make = make
        self._connections: list[Connection] = []

    def find(self) -> Connection:
        """Return a connection with room for one more stream."""
        for connection in self._connections:
            if connection.has_room:
                return connection
        self._connections.append(Connection(self._make()))
        return self._connections[-1]

    async def close(self) -> None:
        """Close all of them."""
        connections, self._connections = self._connections, []
        await asyncio.gather(*(connection.channel.close() for connection in connections))
