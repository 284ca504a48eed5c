"""The memory of a server for each session that is attached and idle."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from ..load import open_many, round_trips, start
from ..result import Result, Sample, alternate, at_most, figure


async def measure(quick: bool) -> list[Result]:
    """Hold ours against a bare stream, and show PyWebIO's."""
    few, many, rounds = (200, 1_000, 1) if quick else (1_000, 10_000, 3)
    kinds = ("ours", "bare", "PyWebIO", "websockets")
    samples = await alternate(rounds, {kind: partial(_slope, kind, few, many) for kind in kinds}, warm_up=False)
    what = f"memory of an idle session, {few:,} to {many:,}"
    return [Result(what, "KiB", figure(samples, "slope"), {"bare": at_most(1, plus=8)})]


async def _slope(kind: str, few: int, many: int) -> Sample:
    """Return how the memory of a new server grows with sessions that have all had a round trip."""
    async with AsyncExitStack() as stack:
        peer = await start(stack, kind)
        sizes = []
        conversations = []
        for count in (few, many - few):
            conversations += (opened := await open_many(peer.client, "echo", count))
            await round_trips(opened, 1)
            await asyncio.sleep(1)  # what is freed late is freed
            sizes.append(peer.server.rss())
    return {"slope": (sizes[1] - sizes[0]) / (many - few) / 1024}
