"""One session that sends 50,000 commands of four fields as fast as it can."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ..load import open_many, push, start
from ..result import Result, alternate, at_least, figure
from ..server import COROUTINES


async def measure(quick: bool) -> list[Result]:
    """Hold ours against PyWebIO's, and against a bare call that batches by hand."""
    count, rounds = (10_000, 3) if quick else (50_000, 5)
    sides = {}
    async with AsyncExitStack() as stack:
        for kind in COROUTINES:
            peer = await start(stack, kind)
            [conversation] = await open_many(peer.client, "push", 1)
            sides[kind] = partial(push, peer.server, conversation, count)
        samples = await alternate(rounds, sides)
    targets = {"bare": at_least(1.0), "PyWebIO": at_least(3.0)}
    return [
        Result("push, coroutine: commands", "1/s", figure(samples, "rate"), targets),
        Result("push, coroutine: server CPU a command", "us", figure(samples, "cpu")),
    ]
