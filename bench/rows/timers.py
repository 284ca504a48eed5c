"""The CPU of a server with 100,000 detached sessions, each with a timer that will end it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from ..load import open_many, start_grpc
from ..result import Result, at_most
from ..server import Server

# Milliseconds a second that count as nothing: a thousandth of a core.
NOTHING = 1.0


async def measure(quick: bool) -> list[Result]:
    """Hold it against one that has no session at all, in the same seconds."""
    count, seconds, rounds = (2_000, 1.0, 3) if quick else (100_000, 5.0, 5)
    samples: dict[str, list[float]] = {"ours": [], "no session": []}
    async with AsyncExitStack() as stack:
        server, client = await start_grpc(stack, "ours", "--max-sessions", "200000", "--resume-window", "3600")
        empty, _ = await start_grpc(stack, "ours")
        for opened in range(0, count, 1_000):
            for conversation in await open_many(client, "echo", min(1_000, count - opened)):
                conversation.abandon()
        await client.close()
        await _settle(server)
        for _ in range(rounds):
            before = server.cpu(), empty.cpu(), time.perf_counter()
            await asyncio.sleep(seconds)
            passed = (time.perf_counter() - before[2]) / 1e3
            samples["ours"].append((server.cpu() - before[0]) / passed)
            samples["no session"].append((empty.cpu() - before[1]) / passed)
    what = f"idle CPU of {count:,} detached sessions"
    return [Result(what, "ms/s", samples, {"no session": at_most(1, plus=NOTHING)})]


async def _settle(server: Server) -> None:
    """Wait until what the detaches gave the server to do is done."""
    used = -1.0
    while (now := server.cpu()) - used > NOTHING * 5e-3:
        used = now
        await asyncio.sleep(1)
