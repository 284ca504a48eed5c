"""One session that is sent 50,000 events, each in a message of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ..load import flood, one_a_message, start_grpc
from ..result import Result, alternate, at_least, figure


async def measure(quick: bool) -> list[Result]:
    """Hold ours against a bare call that reads the same messages."""
    count, rounds = (5_000, 3) if quick else (50_000, 5)
    batches = one_a_message(count)
    sides = {}
    async with AsyncExitStack() as stack:
        for kind in ("ours", "bare"):
            server, client = await start_grpc(stack, kind)
            sides[kind] = partial(flood, server, client, batches)
        samples = await alternate(rounds, sides)
    return [
        Result("flood in, one event a message: events", "1/s", figure(samples, "rate"), {"bare": at_least(0.9)}),
        Result("flood in, one event a message: server CPU an event", "us", figure(samples, "cpu")),
    ]
