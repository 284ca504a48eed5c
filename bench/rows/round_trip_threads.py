"""A round trip as in `round_trip`, with sessions that are threads."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ..load import SESSIONS, open_many, start, trips
from ..result import Result, alternate, at_most, figure


async def measure(quick: bool) -> list[Result]:
    """Hold ours against PyWebIO's."""
    count, rounds = (20, 3) if quick else (100, 11)
    sides = {}
    async with AsyncExitStack() as stack:
        for name, kind in (
            ("ours", "ours"),
            ("PyWebIO", "PyWebIO threads"),
            ("PyWebIO on uvloop", "PyWebIO threads on uvloop"),
        ):
            peer = await start(stack, kind)
            sides[name] = partial(trips, peer.server, await open_many(peer.client, "thread_echo", SESSIONS), count)
        samples = await alternate(rounds, sides)
    return [
        Result("round trip, threads: server CPU", "us", figure(samples, "cpu"), {"PyWebIO": at_most(0.6)}),
        Result("round trip, threads: throughput", "1/s", figure(samples, "rate")),
    ]
