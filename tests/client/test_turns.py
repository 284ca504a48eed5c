"""A careless loop that goes on calling after the end freezes nobody: each call suspends before it raises or ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from session_client import ClientSession, SessionClient

from .fake import FakeCall
from .served import QUICK, FakeServes, Serve, echo

CALLS: dict[str, Callable[[ClientSession], Awaitable[Any]]] = {
    "send_event": lambda session: session.send_event("say", 1),
    "anext": lambda session: anext(session),
    "close": lambda session: session.close(),
    "detach": lambda session: session.detach(),
    "entering": lambda session: session.__aenter__(),
    "what cannot be carried": lambda session: session.send_event("say", {1}),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


async def others_ran(call: Callable[[], Awaitable[Any]], rounds: int) -> int:
    """Call in a careless loop; return how often another task ran meanwhile."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    for _ in range(rounds):
        try:
            await call()
        except Exception:  # noqa: S110 - as careless loops do
            pass
    task.cancel()
    return turns


@pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])
@each_call
async def test_after_the_end(serve: Serve, call: Callable[[ClientSession], Awaitable[Any]], resumable: bool) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client:
        async with client.open("echo", resumable=resumable) as session:
            pass
        assert await others_ran(lambda: call(session), 1000) >= 999


@each_call
async def test_after_a_detach(serve: Serve, call: Callable[[ClientSession], Awaitable[Any]]) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client:
        async with client.open("echo") as session:
            await session.detach()
        assert await others_ran(lambda: call(session), 1000) >= 999


@each_call
async def test_after_an_error(fake_server: FakeServes, call: Callable[[ClientSession], Awaitable[Any]]) -> None:
    async def refuse(fake_call: FakeCall) -> None:
        await fake_call.read()
        await fake_call.refuse("WHATEVER", "NEVER")

    fake = await fake_server(refuse)
    async with SessionClient(fake.address, retry=QUICK) as client:
        session = client.open("app")
        with pytest.raises(Exception, match="WHATEVER"):
            await session.__aenter__()
        assert await others_ran(lambda: call(session), 1000) >= 999


@each_call
async def test_before_the_session_is_entered(call: Callable[[ClientSession], Awaitable[Any]]) -> None:
    client = SessionClient("127.0.0.1:1")
    await client.close()
    session = client.open("app")
    assert await others_ran(lambda: call(session), 1000) >= 999


async def test_while_another_task_waits_for_the_next_command(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client, client.open("echo") as session:
        reading = asyncio.ensure_future(anext(session))
        await asyncio.sleep(0)
        assert await others_ran(lambda: anext(session), 1000) >= 999
        await session.send_event("say", 1)
        assert (await reading).spec == 1
