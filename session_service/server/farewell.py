"""How a call of `Attach` ends, when everything is said: in its own time, for some proxies (protocol E2)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc

from ..errors import ProtocolError
from ..v1 import session_pb2 as pb
from .statuses import to_rich_status, to_status

if TYPE_CHECKING:
    from ..host import SessionManager
    from .attachment import Context

__all__ = ["LINGER", "Farewell"]

logger = logging.getLogger(__name__)

# Seconds that a call stands at most, when everything is said, until its client half-closes. That takes one round trip:
# a second will do over mobile networks too, and is no long time for a client that never does it, such as grpcurl at a
# terminal.
LINGER = 1.0


class Farewell:
    """Ends the calls of one server. By then they have no session: nothing waits for them but `Server.stop`."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        self._standing: set[asyncio.Future[None]] = set()
        self._hurried = False

    async def say(self, context: Context, reader: asyncio.Task[None], error: ProtocolError | None) -> None:
        """Write the error, if there is one, wait for the client's half-close, and end the call.

        Args:
            context: the call; nobody else writes on it any more.
            reader: ends when the client half-closes, or the call is over.
            error: what the call ends with; None for OK.

        Raises:
            grpc.aio.AbortError: the call has ended with the error.
        """
        if error is not None:
            self._manager.refused(error)
            failed = pb.AttachResponse(failed=pb.Failed(status=to_rich_status(error).SerializeToString()))
            try:
                # Where the client does not read this blocks in gRPC, as the status would; no session waits for it (A3).
                await context.write(failed.SerializeToString())
            except grpc.aio.BaseError:
                logger.debug("a stream broke before its error was written", exc_info=True)
                return
        await self._wait(reader)
        if error is not None:
            await context.abort_with_status(to_status(error))

    def hurry(self) -> None:
        """Let no call stand any longer: the server stops."""
        self._hurried = True
        for standing in self._standing:
            if not standing.done():
                standing.set_result(None)

    async def _wait(self, reader: asyncio.Task[None]) -> None:
        if self._hurried:
            return
        standing = asyncio.get_running_loop().create_future()
        self._standing.add(standing)
        try:
            await asyncio.wait((reader, standing), timeout=LINGER, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._standing.discard(standing)
