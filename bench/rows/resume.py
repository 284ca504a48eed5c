"""A client that comes back: how long until it has the one command that it had missed, and until it has 1,000."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial

from session_service.v1 import session_pb2 as pb

from ..conversation import GrpcClient, GrpcConversation
from ..load import receive, round_trips, start_grpc
from ..result import Result, Sample, alternate, at_most

# Less than the window, so that all of them wait for their acknowledgement.
MANY = 1_000

# Seconds before each, so that a cancellation is dealt with, and all begin equally cold.
PAUSE = 0.05


async def measure(quick: bool) -> list[Result]:
    """Hold it against a round trip on the same connection, and show a bare call, there and on a new connection."""
    rounds = 11 if quick else 31
    async with AsyncExitStack() as stack:
        server, client = await start_grpc(stack, "ours")
        bare, bare_client = await start_grpc(stack, "bare")
        echo = await client.open("echo")
        samples = await alternate(
            rounds,
            {
                "round trip": partial(_round_trip, echo),
                "one": partial(_resume, client, client, 1),
                "many": partial(_resume, client, client, MANY),
                "new": partial(_resume_on_new_connection, client, server.address),
                "bare call": partial(_call, bare_client),
                "new bare": partial(_call_on_new_connection, bare.address),
            },
        )
    times = {side: [sample["ms"] for sample in runs] for side, runs in samples.items()}
    others = {side: times[side] for side in ("round trip", "bare call")}
    return [
        Result("resume, to the only command", "ms", {"ours": times["one"], **others}, {"round trip": at_most(2)}),
        Result(
            "resume, to the last of 1,000 commands",
            "ms",
            {"ours": times["many"], **others},
            {"round trip": at_most(2, plus=3)},
        ),
        Result(
            "resume on a new connection, to the only command",
            "ms",
            {"ours": times["new"], "bare call": times["new bare"]},
        ),
    ]


async def _resume(client: GrpcClient, later: GrpcClient, commands: int) -> Sample:
    """Leave a session with commands that nobody has acknowledged, and take it up again."""
    left = await client.open("push")
    await left.ask(commands)
    while left.received < 1 + commands:
        await left.receive()
    left.abandon()
    await asyncio.sleep(PAUSE)
    resume = pb.Resume(session_id=left.opened.session_id, resume_token=left.opened.resume_token, received=1)
    began = time.perf_counter()
    resumed = GrpcConversation(await later.begin(pb.AttachRequest(resume=resume)), value=False)
    await receive(resumed, commands)
    milliseconds = (time.perf_counter() - began) * 1e3
    resumed.opened = left.opened
    await resumed.call.write(pb.AttachRequest(ack=1 + commands, close=pb.Close(now=True)).SerializeToString())
    await resumed.wait_end()
    return {"ms": milliseconds}


async def _resume_on_new_connection(client: GrpcClient, address: str) -> Sample:
    later = GrpcClient(address)
    sample = await _resume(client, later, 1)
    await later.close()
    return sample


async def _round_trip(echo: GrpcConversation) -> Sample:
    await asyncio.sleep(PAUSE)
    began = time.perf_counter()
    await round_trips([echo], 1)
    return {"ms": (time.perf_counter() - began) * 1e3}


async def _call(client: GrpcClient) -> Sample:
    await asyncio.sleep(PAUSE)
    began = time.perf_counter()
    conversation = await client.open("hello")
    milliseconds = (time.perf_counter() - began) * 1e3
    await conversation.wait_end()
    return {"ms": milliseconds}


async def _call_on_new_connection(address: str) -> Sample:
    client = GrpcClient(address)
    sample = await _call(client)
    await client.close()
    return sample
