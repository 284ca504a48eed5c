"""More sessions than a server, or a proxy, takes streams on one connection: further connections carry the rest."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from session_client import AttachmentState, SessionClient, SyncSessionClient

from tests.session.kinds import eventually

from .fake import FakeCall, opened
from .served import QUICK, FakeServes, RelayTo, Serve, echo
from .test_reconnect import Seen

STREAMS = 10  # of a connection


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask after 0.2 seconds instead of 1."""
    monkeypatch.setattr("session_client.stream.CROWDED", 0.2)


async def hold(client: SessionClient, number: int, resumable: bool, all_open: asyncio.Barrier) -> Any:
    """Hold a session until all are open."""
    async with client.open("echo", resumable=resumable) as session:
        await all_open.wait()
        await session.send_event("say", number)
        return (await anext(session)).spec


@pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])
async def test_they_are_all_open_at_once(
    serve: Serve, relay_to: RelayTo, resumable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "session_client.connections")
    served, runs = await serve({"echo": echo}, max_connection_streams=STREAMS), 35
    relay, all_open = await relay_to(served.address), asyncio.Barrier(runs)
    async with SessionClient(relay.address) as client:
        heard = await asyncio.gather(*(hold(client, number, resumable, all_open) for number in range(runs)))
    assert heard == list(range(runs))
    assert relay.connections == 4
    assert f"takes {STREAMS} streams on one connection" in caplog.text


async def test_as_few_connections_as_will_do(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo}, max_connection_streams=STREAMS)
    relay = await relay_to(served.address)
    async with SessionClient(relay.address) as client:
        for _ in range(3):
            all_open = asyncio.Barrier(15)
            await asyncio.gather(*(hold(client, number, True, all_open) for number in range(15)))
    assert relay.connections == 2


async def test_those_whose_connections_are_cut_find_others(serve: Serve, relay_to: RelayTo) -> None:
    served, seen = await serve({"echo": echo}, max_connection_streams=STREAMS), Seen()
    relay, all_open = await relay_to(served.address), asyncio.Barrier(26)
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client:
        sessions = [asyncio.create_task(hold(client, number, True, all_open)) for number in range(25)]
        await eventually(lambda: seen.states.count(AttachmentState.ATTACHED) == 25)
        relay.cut()
        await seen.resumed(25)
        await all_open.wait()
        assert await asyncio.gather(*sessions) == list(range(25))


async def test_a_client_of_a_server_that_takes_them_all_has_one_connection(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, all_open = await relay_to(served.address), asyncio.Barrier(50)
    async with SessionClient(relay.address) as client:
        await asyncio.gather(*(hold(client, number, True, all_open) for number in range(50)))
    assert relay.connections == 1


async def test_a_slow_server_gets_no_further_connections(fake_server: FakeServes, relay_to: RelayTo) -> None:
    """It has the call, and answers late."""

    async def quick(call: FakeCall) -> None:
        await call.read()
        await call.write(opened=opened())
        await call.read_all()

    async def slow(call: FakeCall) -> None:
        await asyncio.sleep(0.5)
        await quick(call)

    fake = await fake_server(quick, slow)
    relay = await relay_to(fake.address)
    async with SessionClient(relay.address) as client:
        for _ in range(2):
            await client.open("echo").__aenter__()
    assert relay.connections == 1


async def test_the_sync_client_has_further_connections_too(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo}, max_connection_streams=STREAMS)
    relay = await relay_to(served.address)

    def talk() -> None:
        with SyncSessionClient(relay.address) as client:
            sessions = [client.open("echo") for _ in range(STREAMS + 5)]
            for session in sessions:
                session.__enter__()
            for session in sessions:
                session.close()

    await asyncio.to_thread(talk)
    assert relay.connections == 2
