"""What clients do to a server, and what it costs the server."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from .conversation import DATA, Client, Conversation, GrpcClient, WebSocketClient, request
from .result import Sample
from .server import Server, serve

__all__ = [
    "CONCURRENCY",
    "SESSIONS",
    "Batch",
    "Peer",
    "flood",
    "half_load",
    "measured",
    "one_a_message",
    "open_many",
    "push",
    "receive",
    "round_trips",
    "start",
    "start_grpc",
    "trips",
]

# Sessions that talk at once, and sessions that are opened at once.
SESSIONS = 100
CONCURRENCY = 50


@dataclass(frozen=True, slots=True)
class Peer:
    """A server, and a client of it."""

    server: Server
    client: Client


async def start(stack: AsyncExitStack, kind: str) -> Peer:
    """Run a server, and connect to it; until the stack is left."""
    server = await stack.enter_async_context(serve(kind))
    client: Client = GrpcClient(server.address) if kind in ("ours", "bare") else WebSocketClient(server.address)
    stack.push_async_callback(client.close)
    return Peer(server, client)


async def start_grpc(stack: AsyncExitStack, kind: str, *options: str, value: bool = False) -> tuple[Server, GrpcClient]:
    """Run a server that speaks gRPC, and connect to it; until the stack is left."""
    server = await stack.enter_async_context(serve(kind, *options))
    client = GrpcClient(server.address, value)
    stack.push_async_callback(client.close)
    return server, client


async def open_many(client: Client, app: str, count: int) -> list[Conversation]:
    """Open sessions, some at a time."""
    conversations: list[Conversation] = []
    while (left := count - len(conversations)) > 0:
        conversations += await asyncio.gather(*(client.open(app) for _ in range(min(left, CONCURRENCY))))
    return conversations


async def measured(server: Server, operations: int, work: Awaitable[object]) -> Sample:
    """Wait for some work; return the CPU time of the server for each operation, in us, and operations a second."""
    gc.collect()
    gc.freeze()  # the collector of the client stays out of it, as far as it can
    began, cpu = time.perf_counter(), server.cpu()
    await work
    cpu, seconds = server.cpu() - cpu, time.perf_counter() - began
    gc.unfreeze()
    return {"cpu": cpu / operations * 1e6, "rate": operations / seconds}


async def round_trips(conversations: Sequence[Conversation], count: int) -> None:
    """Have each send an event and wait for its command, ``count`` times."""

    async def converse(conversation: Conversation) -> None:
        for _ in range(count):
            await conversation.send()
            await conversation.receive()

    await asyncio.gather(*map(converse, conversations))


async def trips(server: Server, conversations: Sequence[Conversation], count: int) -> Sample:
    """Return what `round_trips` cost the server."""
    return await measured(server, len(conversations) * count, round_trips(conversations, count))


async def receive(conversation: Conversation, count: int) -> None:
    """Take commands."""
    while count > 0:
        count -= await conversation.receive()
        await conversation.acknowledge()


async def push(server: Server, conversation: Conversation, count: int) -> Sample:
    """Have the app send commands; return what each cost."""

    async def work() -> None:
        await conversation.ask(count)
        await receive(conversation, count)

    return await measured(server, count, work())


@dataclass(frozen=True, slots=True)
class Batch:
    """A request, and how many events it holds."""

    data: bytes
    events: int


def one_a_message(count: int) -> list[Batch]:
    """Return what makes the app ``flood`` take so many events, each in a request of its own."""
    return [Batch(request(1, count), 1), *(Batch(request(number, DATA), 1) for number in range(2, count + 2))]


async def flood(server: Server, client: GrpcClient, batches: Sequence[Batch]) -> Sample:
    """Send the events of a new session of the app ``flood`` as fast as its window allows; return what each cost."""
    conversation = await client.open("flood")
    window = conversation.opened.limits.event_window.messages or math.inf
    room = asyncio.Event()
    acked = 0

    async def read() -> None:
        nonlocal acked
        while not (response := await conversation.read()).commands:
            acked = response.ack
            room.set()

    async def work() -> None:
        reader = asyncio.create_task(read())
        sent = 0
        for batch in batches:
            sent += batch.events
            while sent - acked > window:
                room.clear()
                await room.wait()
            await conversation.call.write(batch.data)
        await reader

    sample = await measured(server, sum(batch.events for batch in batches), work())
    conversation.abandon()
    return sample


async def half_load(conversations: Sequence[Conversation], rate: float, seconds: float) -> list[float]:
    """Have them send ``rate`` events a second between them, however long the answers take; return the latencies.

    A latency counts from when the event was due to be sent, so that one that waits behind a late answer is not
    forgotten.
    """
    loop = asyncio.get_running_loop()
    interval = len(conversations) / rate
    turns = max(1, int(seconds / interval))
    began = loop.time() + 0.01
    latencies: list[float] = []

    async def converse(index: int, conversation: Conversation) -> None:
        due: asyncio.Queue[float] = asyncio.Queue()
        first = began + interval * index / len(conversations)

        def fire(turn: int) -> None:
            due.put_nowait(time.perf_counter())  # not when it should have been: the loop's timers are late by a ms
            if turn + 1 < turns:
                loop.call_at(first + interval * (turn + 1), fire, turn + 1)

        loop.call_at(first, fire, 0)
        for _ in range(turns):
            sent_at = await due.get()
            await conversation.send()
            await conversation.receive()
            latencies.append(time.perf_counter() - sent_at)

    await asyncio.gather(*(converse(*item) for item in enumerate(conversations)))
    return latencies
