"""The cost of a round trip in 100 busy sessions beside 10 idle ones, and beside 10,000; all are attached."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from ..conversation import Conversation, GrpcConversation
from ..load import SESSIONS, open_many, start_grpc, trips
from ..result import Result, alternate, at_most, figure

# Of the server, by default.
HEARTBEAT = 25.0


async def measure(quick: bool) -> list[Result]:
    """Hold a server with many against one with few."""
    few, many, count, rounds = (10, 1_000, 40, 3) if quick else (10, 10_000, 100, 11)
    sides = {}
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        for name, idle in (("ours", many), (f"{few} idle", few)):
            # The default, 10,000 sessions, is a limit and costs nothing.
            server, client = await start_grpc(stack, "ours", "--max-sessions", "20000")
            heart = group.create_task(_beat(await open_many(client, "echo", idle)))
            stack.callback(heart.cancel)
            sides[name] = partial(trips, server, await open_many(client, "echo", SESSIONS), count)
        samples = await alternate(rounds, sides)
    what = f"round trip beside {many:,} idle sessions: server CPU"
    return [Result(what, "us", figure(samples, "cpu"), {f"{few} idle": at_most(1.1)})]


async def _beat(conversations: list[Conversation]) -> None:
    """Send the heartbeats of idle sessions, evenly spread."""
    while True:
        for conversation in conversations:
            await asyncio.sleep(HEARTBEAT / len(conversations))
            assert isinstance(conversation, GrpcConversation)
            await conversation.call.write(b"")
