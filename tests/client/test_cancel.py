"""Every call of a session may be cancelled at any await: the session is then usable, or closed, and never stuck.

Each test cancels a call after so many turns of the loop, from none to more than it needs, so that every await is met.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from session_client import ClientSession, SessionClient, SessionClientError

from session_service import Window
from tests.session.kinds import eventually

from .served import QUICK, RelayTo, Serve, client_tasks, echo

# Loop turns before the cancellation.
TURNS = [*range(16), 18, 20, 23, 26, 30, 35, 40, 50, 60]

# Seconds after which a call counts as stuck.
STUCK = 5.0

pytestmark = pytest.mark.parametrize("turns", TURNS)
either_kind = pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])


async def cancelled_after(turns: int, call: Coroutine[Any, Any, Any]) -> Any:
    """Start a call, cancel it after so many turns, and return its result; None where it was cancelled."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(STUCK):
        await asyncio.wait({task})
    return None if task.cancelled() else task.result()


async def still_talks(session: ClientSession, waiting: int = 0) -> None:
    """Say something and hear it, behind so many commands that wait."""
    async with asyncio.timeout(STUCK):
        await session.send_event("say", "still here")
        heard = [(await anext(session)).spec for _ in range(waiting + 1)]
    assert heard[-1] == "still here"


@asynccontextmanager
async def entered(serve: Serve, resumable: bool, **settings: Any) -> AsyncIterator[ClientSession]:
    served = await serve({"echo": echo}, **settings)
    async with SessionClient(served.address, retry=QUICK) as client:
        async with client.open("echo", resumable=resumable) as session:
            yield session
        async with asyncio.timeout(STUCK):
            await eventually(lambda: not served.sessions)
        assert client_tasks() == []


@either_kind
async def test_entering(serve: Serve, resumable: bool, turns: int) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address, retry=QUICK) as client:
        session = client.open("echo", resumable=resumable)
        if await cancelled_after(turns, session.__aenter__()) is None:
            async with asyncio.timeout(STUCK):
                for call in (session.send_event("say"), anext(session, "the end"), session.close()):
                    with pytest.raises((SessionClientError, RuntimeError)):
                        await call
        else:
            await still_talks(session)
            await session.__aexit__(None, None, None)
        async with client.open("echo", resumable=resumable) as session:
            await still_talks(session)
    assert client_tasks() == []  # what closes an open that was given up has done so (A6)
    async with asyncio.timeout(STUCK):
        await eventually(lambda: not served.running)


@either_kind
async def test_waiting_for_a_command(serve: Serve, resumable: bool, turns: int) -> None:
    async with entered(serve, resumable) as session:
        await session.send_event("say", 1)
        got = await cancelled_after(turns, anext(session))
        heard = [] if got is None else [got.spec]
        await session.send_event("say", 2)
        while len(heard) < 2:
            heard.append((await anext(session)).spec)
        assert heard == [1, 2]


@either_kind
async def test_sending_into_a_full_window(serve: Serve, resumable: bool, turns: int) -> None:
    async with entered(serve, resumable, event_window=Window(16, 1 << 16)) as session:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for number in range(60):
                await session.send_event("say", number)
                sent += 1

        await cancelled_after(turns, send())
        await session.send_event("say", "end")
        assert session.position.sent == sent + 1
        heard = [(await anext(session)).spec for _ in range(sent + 1)]
        assert heard == [*range(sent), "end"]


@either_kind
async def test_closing(serve: Serve, resumable: bool, turns: int) -> None:
    async with entered(serve, resumable) as session:
        await session.send_event("say", 1)
        closed = await cancelled_after(turns, session.close())
        if not session._conversation.closing:  # it had not begun
            await still_talks(session, waiting=1)
        else:
            async with asyncio.timeout(STUCK):
                assert await session.close() == session.closed
                assert [command.spec async for command in session] == [1]
        assert closed in (None, session.closed)


@either_kind
async def test_closing_now(serve: Serve, resumable: bool, turns: int) -> None:
    async with entered(serve, resumable) as session:
        await cancelled_after(turns, session.close(now=True))
        async with asyncio.timeout(STUCK):
            await session.close()
            assert [command async for command in session] == []


@pytest.mark.parametrize("sent", [0, 1])
async def test_detaching(serve: Serve, turns: int, sent: int) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address, retry=QUICK) as client:
        async with client.open("echo") as session:
            for number in range(sent):
                await session.send_event("say", number)
            position = await cancelled_after(turns, session.detach())
            if session._detached:
                async with asyncio.timeout(STUCK):
                    assert await anext(session, None) is None
                    assert await session.detach() == (position or session.position)
                async with client.resume(session.position) as again:
                    await still_talks(again, waiting=sent)
            else:
                await still_talks(session, waiting=sent)
        assert client_tasks() == []


@either_kind
@pytest.mark.parametrize("fails", [False, True], ids=["well", "with an exception"])
async def test_leaving(serve: Serve, resumable: bool, turns: int, fails: bool) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address, retry=QUICK) as client:
        session = await client.open("echo", resumable=resumable).__aenter__()
        await session.send_event("say", 1)
        error = ZeroDivisionError() if fails else None
        await cancelled_after(turns, session.__aexit__(type(error) if error else None, error, None))
        if not turns:  # it had not begun
            await session.__aexit__(None, None, None)
        assert client_tasks() == []
        async with asyncio.timeout(STUCK):
            with pytest.raises(SessionClientError):
                await session.send_event("say", 2)
            for call in (anext(session, None), session.close()):
                try:
                    await call
                except SessionClientError:
                    pass


@either_kind
async def test_the_task_that_holds_the_session(serve: Serve, resumable: bool, turns: int) -> None:
    served = await serve({"echo": echo})

    async def hold() -> None:
        async with client.open("echo", resumable=resumable) as session:
            await session.send_event("say", 1)
            async for _ in session:
                await session.send_event("say", 1)

    async with SessionClient(served.address, retry=QUICK) as client:
        await cancelled_after(turns, hold())
    assert client_tasks() == []
    async with asyncio.timeout(STUCK):
        await eventually(lambda: not served.running)


async def test_waiting_while_the_connection_is_cut(serve: Serve, relay_to: RelayTo, turns: int) -> None:
    served = await serve({"echo": echo})
    relay = await relay_to(served.address)
    async with SessionClient(relay.address, retry=QUICK) as client, client.open("echo") as session:
        await session.send_event("say", 1)
        relay.cut()
        got = await cancelled_after(turns, anext(session))
        await still_talks(session, waiting=0 if got else 1)


async def test_leaving_while_the_connection_is_cut(serve: Serve, relay_to: RelayTo, turns: int) -> None:
    served = await serve({"echo": echo})
    relay = await relay_to(served.address)
    async with SessionClient(relay.address, retry=QUICK) as client:
        session = await client.open("echo").__aenter__()
        await session.send_event("say", 1)
        relay.cut()
        await cancelled_after(turns + 1, session.__aexit__(None, None, None))
        assert client_tasks() == []
