"""One session that is sent 50,000 events by our Python client, which batches them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial

from session_client import SessionClient
from session_client.connections import Connection
from session_client.stream import Call

from session_service.v1 import session_pb2 as pb

from ..conversation import DATA
from ..load import Batch, flood, measured, one_a_message, start_grpc
from ..result import Result, Sample, alternate, at_least, figure
from ..server import Server


async def measure(quick: bool) -> list[Result]:
    """Record what our client writes, and hold our server against a bare call that reads those very messages."""
    count, rounds = (10_000, 3) if quick else (50_000, 5)
    async with AsyncExitStack() as stack:
        ours, client = await start_grpc(stack, "ours")
        bare, bare_client = await start_grpc(stack, "bare")
        recorder = Recorder(ours.address)
        async with recorder:
            await send(recorder, count)
        batches = recorder.batches()
        our_client = await stack.enter_async_context(SessionClient(ours.address))
        sides = {
            "ours": partial(flood, ours, client, batches),
            "bare": partial(flood, bare, bare_client, batches),
            "bare, one a message": partial(flood, bare, bare_client, one_a_message(count)),
            "our client": partial(measure_client, ours, our_client, count),
        }
        samples = await alternate(rounds, sides)
    targets = {"bare": at_least(0.9), "bare, one a message": at_least(0.9)}
    what = f"flood in, batched by our client, {count / len(batches):.0f} a message"
    return [
        Result(f"{what}: events", "1/s", figure(samples, "rate"), targets),
        Result(f"{what}: server CPU an event", "us", figure(samples, "cpu")),
    ]


class Recorder(SessionClient):
    """Our client, which keeps a copy of what it writes."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._written: list[bytes] = []

    def _attach(self, metadata: Mapping[str, str]) -> tuple[Call, Connection]:
        call, connection = super()._attach(metadata)
        write = call.write

        async def record(request: bytes) -> None:
            self._written.append(request)
            await write(request)

        call.write = record  # type: ignore[method-assign]
        return call, connection

    def batches(self) -> list[Batch]:
        """Return what can be written in another session too."""
        requests = [(data, pb.AttachRequest.FromString(data)) for data in self._written]
        return [Batch(data, len(request.events)) for data, request in requests if request.events]


async def measure_client(server: Server, client: SessionClient, count: int) -> Sample:
    """Return what the events cost where our client sends them as it goes."""
    return await measured(server, 1 + count, send(client, count))


async def send(client: SessionClient, count: int) -> None:
    """Send all events of a new session, and wait for its command."""
    async with client.open("flood") as session:
        await anext(session)
        await session.send_event("say", count)
        for _ in range(count):
            await session.send_event("say", DATA)
        await anext(session)
