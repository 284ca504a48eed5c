"""A round trip as in `round_trip`, with payloads in the VALUE format."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ..load import SESSIONS, open_many, start_grpc, trips
from ..result import Result, alternate, at_most, figure


async def measure(quick: bool) -> list[Result]:
    """Hold ours against the bare call, which copies the payload and does not look into it."""
    count, rounds = (40, 3) if quick else (100, 11)
    sides = {}
    async with AsyncExitStack() as stack:
        for kind in ("ours", "bare"):
            server, client = await start_grpc(stack, kind, value=True)
            sides[kind] = partial(trips, server, await open_many(client, "echo", SESSIONS), count)
        samples = await alternate(rounds, sides)
    return [Result("round trip, VALUE: server CPU", "us", figure(samples, "cpu"), {"bare": at_most(1.5)})]
