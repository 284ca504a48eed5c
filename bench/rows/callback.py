"""A click on a callback and the command that its run sends, in 100 sessions at once."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ..load import SESSIONS, open_many, start, trips
from ..result import Result, alternate, at_most, figure


async def measure(quick: bool) -> list[Result]:
    """Hold it against the round trip of a task that waits for its event."""
    count, rounds = (30, 3) if quick else (100, 11)
    async with AsyncExitStack() as stack:
        peer = await start(stack, "ours")
        sides = {
            "ours": partial(trips, peer.server, await open_many(peer.client, "click", SESSIONS), count),
            "round trip": partial(trips, peer.server, await open_many(peer.client, "echo", SESSIONS), count),
        }
        samples = await alternate(rounds, sides)
    return [
        Result("callback click to its command: server CPU", "us", figure(samples, "cpu"), {"round trip": at_most(1.3)})
    ]
