"""The latency of round trips in 100 sessions that send half of what the server and its client can do."""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack
from functools import partial
from statistics import median, quantiles

from ..conversation import Conversation
from ..load import SESSIONS, half_load, open_many, start, trips
from ..result import Result, Sample, alternate, at_most, figure


async def measure(quick: bool) -> list[Result]:
    """Find out what each can do, then load each with half of its own."""
    count, seconds, rounds = (40, 1.0, 3) if quick else (100, 5.0, 5)
    conversations, full = {}, {}
    async with AsyncExitStack() as stack:
        for kind in ("ours", "bare", "PyWebIO"):
            peer = await start(stack, kind)
            conversations[kind] = await open_many(peer.client, "echo", SESSIONS)
            full[kind] = partial(trips, peer.server, conversations[kind], count)
        rates = {kind: median(rates) / 2 for kind, rates in figure(await alternate(3, full), "rate").items()}
        samples = await alternate(
            rounds, {kind: partial(_latencies, conversations[kind], rates[kind], seconds) for kind in full}
        )
    return [
        Result("latency at half load: p50", "ms", figure(samples, "p50")),
        Result("latency at half load: p99", "ms", figure(samples, "p99"), {"bare": at_most(1.5)}),
        Result("latency at half load: the load", "1/s", figure(samples, "rate")),
    ]


async def _latencies(conversations: list[Conversation], rate: float, seconds: float) -> Sample:
    gc.collect()
    gc.freeze()
    latencies = await half_load(conversations, rate, seconds)
    gc.unfreeze()
    cuts = quantiles(latencies, n=100)
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3, "rate": rate}
