"""Sessions that are opened, send their first command and end; 50 at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from ..conversation import Client
from ..load import CONCURRENCY, Peer, measured, start
from ..result import Result, Sample, alternate, at_least, figure
from ..server import COROUTINES


async def measure(quick: bool) -> list[Result]:
    """Hold ours against PyWebIO's connections, and against bare calls that do the same."""
    count, rounds = (10, 3) if quick else (40, 7)
    async with AsyncExitStack() as stack:
        peers = {kind: await start(stack, kind) for kind in COROUTINES}
        samples = await alternate(rounds, {kind: partial(_opens, peer, count) for kind, peer in peers.items()})
    targets = {"bare": at_least(0.8), "PyWebIO": at_least(1.0)}
    return [
        Result("opened, first command, closed: sessions", "1/s", figure(samples, "rate"), targets),
        Result("opened, first command, closed: server CPU", "us", figure(samples, "cpu")),
    ]


async def _opens(peer: Peer, count: int) -> Sample:
    work = asyncio.gather(*(_open(peer.client, count) for _ in range(CONCURRENCY)))
    return await measured(peer.server, CONCURRENCY * count, work)


async def _open(client: Client, count: int) -> None:
    for _ in range(count):
        conversation = await client.open("hello")
        await conversation.wait_end()
