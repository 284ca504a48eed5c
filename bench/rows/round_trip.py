"""A round trip: an event up and its command down, in 100 resumable sessions at once, as JSON."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ..load import SESSIONS, open_many, start, trips
from ..result import Result, alternate, at_most, figure
from ..server import COROUTINES


async def measure(quick: bool) -> list[Result]:
    """Hold ours against the bare call, and show PyWebIO's."""
    count, rounds = (40, 3) if quick else (100, 11)
    sides = {}
    async with AsyncExitStack() as stack:
        for kind in COROUTINES:
            peer = await start(stack, kind)
            sides[kind] = partial(trips, peer.server, await open_many(peer.client, "echo", SESSIONS), count)
        samples = await alternate(rounds, sides)
    return [
        Result("round trip, JSON: server CPU", "us", figure(samples, "cpu"), {"bare": at_most(1.25)}),
        Result("round trip, JSON: throughput", "1/s", figure(samples, "rate")),
    ]
