"""Ordinary asyncio simply works in a coroutine session, where PyWebIO hangs or breaks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from session_service import AbstractSession, CloseReason, SessionClosedException, get_current_task_id
from tests.session.kinds import CoroutineKind, Gate, eventually


async def test_sleep_0_goes_on(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    assert await coroutines.open(app).ended() is CloseReason.COMPLETED


async def test_an_awaited_future_may_have_a_result_fail_or_be_cancelled(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[str]] = [loop.create_future() for _ in range(3)]
        loop.call_soon(futures[0].set_result, "result")
        loop.call_soon(futures[1].set_exception, ValueError("failed"))
        loop.call_soon(futures[2].cancel)
        assert await futures[0] == "result"
        with pytest.raises(ValueError, match="failed"):
            await futures[1]
        with pytest.raises(asyncio.CancelledError):
            await futures[2]

    assert await coroutines.open(app).ended() is CloseReason.COMPLETED


async def test_two_waits_can_be_gathered(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        events = await asyncio.gather(session.next_client_event(), session.next_client_event())
        seen.open([event["data"] for event in events])

    seen = coroutines.gate()
    backend = coroutines.open(app)
    backend.send(1)
    await asyncio.sleep(0)
    backend.send(2)

    assert await seen.opened() == [1, 2]


async def test_a_timeout_ends_a_wait_and_nothing_else(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await session.next_client_event()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.next_client_event(), 0.001)
        late.open()
        async with asyncio.timeout(60):
            seen.open((await session.next_client_event())["data"])

    late, seen = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)
    await late.opened()
    backend.send("in time")

    assert await seen.opened() == "in time"
    assert await backend.ended() is CloseReason.COMPLETED


async def test_wait_for_gives_the_event(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        seen.open(await asyncio.wait_for(session.next_client_event(), 60))

    seen = coroutines.gate()
    coroutines.open(app).send("in time")

    assert (await seen.opened())["data"] == "in time"


async def test_a_task_group_waits_for_events_and_fails_as_groups_do(coroutines: CoroutineKind) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    async def group_that_fails(session: AbstractSession) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(session.next_client_event())
            group.create_task(fail())

    async def app(session: AbstractSession) -> None:
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(session.next_client_event()) for _ in range(2)]
        seen.open([wait.result()["data"] for wait in waits])
        with pytest.raises(ExceptionGroup):
            await group_that_fails(session)
        failed.open()
        session.send_task_command({"command": "got", "spec": (await session.next_client_event())["data"]})

    seen, failed = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)
    backend.send(0)
    backend.send(1)

    assert await seen.opened() == [0, 1]
    await failed.opened()
    backend.send(2)
    assert await backend.specs(1) == [2]


async def test_an_executor_call_that_raises_raises_here(coroutines: CoroutineKind) -> None:
    def fail() -> None:
        raise ValueError("in a thread")

    async def app(session: AbstractSession) -> None:
        with pytest.raises(ValueError, match="in a thread"):
            await asyncio.get_running_loop().run_in_executor(None, fail)
        with pytest.raises(ValueError, match="in a thread"):
            await asyncio.to_thread(fail)

    assert await coroutines.open(app).ended() is CloseReason.COMPLETED


async def test_an_event_during_a_sleep_changes_nothing(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        sleeping = asyncio.create_task(asyncio.sleep(0.02, "slept"))
        asleep.open(sleeping)
        session.send_task_command({"command": "sleep", "spec": await sleeping})
        for _ in range(2):
            session.send_task_command({"command": "got", "spec": (await session.next_client_event())["data"]})

    asleep: Gate = coroutines.gate()
    backend = coroutines.open(app)
    sleeping: asyncio.Task[str] = await asleep.opened()
    backend.send(1)
    backend.send(2)
    await asyncio.sleep(0)
    assert not sleeping.done()

    assert await backend.specs(3) == ["slept", 1, 2]


async def test_locks_queues_and_events_go_between_tasks(coroutines: CoroutineKind) -> None:
    async def produce() -> None:
        for number in range(3):
            async with lock:
                await queue.put(number)
        done.set()

    async def app(session: AbstractSession) -> None:
        session.run_task(produce)
        seen.open([await queue.get() for _ in range(3)])
        await done.wait()

    lock, queue, done = asyncio.Lock(), asyncio.Queue[int](1), asyncio.Event()
    seen = coroutines.gate()
    backend = coroutines.open(app)

    assert await seen.opened() == [0, 1, 2]
    assert await backend.ended() is CloseReason.COMPLETED


async def test_events_can_come_through_an_async_generator(coroutines: CoroutineKind) -> None:
    async def events(session: AbstractSession) -> AsyncIterator[Any]:
        while True:
            yield (await session.next_client_event())["data"]

    async def app(session: AbstractSession) -> None:
        async for data in events(session):
            session.send_task_command({"command": "got", "spec": data})

    backend = coroutines.open(app)
    for number in range(3):
        backend.send(number)
    assert await backend.specs(3) == [0, 1, 2]
    backend.session.end_events()

    assert await backend.ended() is CloseReason.CLIENT


async def test_whichever_comes_first(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        wait = asyncio.create_task(session.next_client_event())
        done, _ = await asyncio.wait({wait, asyncio.create_task(asyncio.sleep(60))}, return_when="FIRST_COMPLETED")
        assert done == {wait}
        seen.open(wait.result()["data"])

    seen = coroutines.gate()
    backend = coroutines.open(app)
    backend.send("first")

    assert await seen.opened() == "first"


async def test_a_bare_task_is_neither_awaited_nor_cancelled_and_meets_the_end_at_its_next_call(
    coroutines: CoroutineKind,
) -> None:
    async def child(session: AbstractSession) -> None:
        await coroutines.at(gate)
        for call in (session.next_client_event, session.drain):
            with pytest.raises(SessionClosedException):
                await call()
        with pytest.raises(SessionClosedException):
            session.send_task_command({"command": "say"})
        met.open(get_current_task_id())

    async def app(session: AbstractSession) -> None:
        children.append(asyncio.create_task(child(session)))
        await asyncio.sleep(0)

    children: list[asyncio.Task[None]] = []
    gate, met = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)

    assert await backend.ended() is CloseReason.COMPLETED
    assert not children[0].done()
    gate.open()
    assert (await met.opened()).startswith("main-")
    await children[0]


async def test_a_bare_task_shares_the_mailbox_of_the_task_that_made_it(coroutines: CoroutineKind) -> None:
    async def child(session: AbstractSession) -> Any:
        return (await session.next_client_event())["data"]

    async def app(session: AbstractSession) -> None:
        seen.open(await asyncio.create_task(child(session)))

    seen = coroutines.gate()
    coroutines.open(app).send("for main")

    assert await seen.opened() == "for main"


async def test_the_loop_goes_on_while_a_plain_call_blocks_in_a_thread(coroutines: CoroutineKind) -> None:
    async def slow(session: AbstractSession) -> None:
        await asyncio.to_thread(gate.block)

    async def quick(session: AbstractSession) -> None:
        gate.open(threading.current_thread())

    gate = coroutines.gate()
    backend = coroutines.open(slow)
    await coroutines.open(quick).ended()

    assert await backend.ended() is CloseReason.COMPLETED


async def test_a_wait_that_nobody_awaits_takes_nothing(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        session.next_client_event().close()
        await eventually(lambda: session.snapshot(most=1).tasks[0].pending)
        seen.open((await session.next_client_event())["data"])

    seen = coroutines.gate()
    coroutines.open(app).send("kept")

    assert await seen.opened() == "kept"
