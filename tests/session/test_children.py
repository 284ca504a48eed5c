"""Asyncio tasks that code of a session makes by itself: those that outlive their session are named in the log."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from session_service import AbstractSession, CloseReason, CoroutineSession, SessionClosedException, get_current_session
from tests.session.kinds import CoroutineKind, Gate, eventually

Make = Callable[[Coroutine[Any, Any, None]], asyncio.Future[None]]


@pytest.fixture
def outliving(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was said of tasks that go on."""
    return lambda: [record.getMessage() for record in caplog.records if "go on" in record.getMessage()]


class Forever:
    """Starts asyncio tasks that end with the test."""

    def __init__(self, gate: Gate) -> None:
        self.tasks: list[asyncio.Future[None]] = []
        self._gate = gate

    async def run_forever(self) -> None:
        await self._gate.opened()

    def start(self, make: Make = asyncio.ensure_future) -> None:
        self.tasks.append(make(self.run_forever()))

    async def finish(self) -> None:
        self._gate.open()
        await asyncio.gather(*self.tasks)


@pytest.mark.parametrize(
    "make",
    [asyncio.create_task, asyncio.ensure_future, lambda coro: asyncio.get_running_loop().create_task(coro)],
    ids=["create_task", "ensure_future", "loop.create_task"],
)
async def test_an_asyncio_task_that_outlives_its_session_is_named_in_the_log(
    coroutines: CoroutineKind, make: Make, outliving: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        forever.start(make)
        forever.start(make)

    forever = Forever(coroutines.gate())
    backend = coroutines.open(app)
    assert await backend.ended() is CloseReason.COMPLETED
    await eventually(outliving)

    [line] = outliving()
    assert backend.session.id in line
    assert "2 of its asyncio tasks go on: Forever.run_forever;" in line
    assert not any(task.done() for task in forever.tasks), "it may belong to others"
    await forever.finish()


@pytest.mark.parametrize("place", ["task", "callback", "plain callback", "hook", "deferred", "child"])
async def test_it_is_named_wherever_it_was_made(
    coroutines: CoroutineKind, place: str, outliving: Callable[[], list[str]]
) -> None:
    async def makes(*args: object) -> None:
        forever.start()
        made.open()

    def makes_at_once(*args: object) -> None:
        forever.start()
        made.open()

    async def app(session: AbstractSession) -> None:
        if place == "task":
            session.run_task(makes)
        elif place == "child":
            await asyncio.create_task(makes())
        elif place == "hook":
            session.on_attach(makes)
        elif place == "deferred":
            session.defer_call(makes)
        else:
            registered.open(session.register_callback(makes if place == "callback" else makes_at_once))
        if place != "deferred":
            await made.opened()

    forever = Forever(coroutines.gate())
    made, registered = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)
    backend.session.notify_attach(resumed=False)
    if place.endswith("callback"):
        backend.click(await registered.opened())
        await made.opened()
        backend.session.end_events()
    await backend.ended()
    await eventually(outliving)

    assert [backend.session.id in line for line in outliving()] == [True]
    await forever.finish()


async def test_those_that_end_with_their_session_are_not_named(
    coroutines: CoroutineKind, outliving: Callable[[], list[str]]
) -> None:
    async def meets_the_end(session: AbstractSession) -> None:
        try:
            await session.next_client_event()
        finally:
            await asyncio.sleep(0)

    async def awaited(session: AbstractSession) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        with contextlib.suppress(SessionClosedException):
            await asyncio.gather(meets_the_end(session), meets_the_end(session))
        asleep = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        asleep.cancel()

    async def unattended(session: AbstractSession) -> None:
        kept.append(asyncio.create_task(meets_the_end(session)))
        await asyncio.sleep(0)

    async def leaves(session: AbstractSession) -> None:
        forever.start()

    kept: list[asyncio.Task[None]] = []
    forever = Forever(coroutines.gate())
    for backend in [coroutines.open(awaited), coroutines.open(unattended)]:
        backend.session.end_events()
        await backend.ended()
    last = coroutines.open(leaves)  # what is said of it comes after what would be said of them
    await last.ended()
    await eventually(outliving)

    assert [last.session.id in line for line in outliving()] == [True]
    assert isinstance(kept[0].exception(), SessionClosedException)
    await forever.finish()


async def test_a_task_factory_of_the_app_makes_the_tasks_and_they_are_named(
    coroutines: CoroutineKind, outliving: Callable[[], list[str]]
) -> None:
    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **options)

    async def sets(session: AbstractSession) -> None:
        asyncio.get_running_loop().set_task_factory(factory)

    async def app(session: AbstractSession) -> None:
        assert get_current_session() is session
        forever.start(asyncio.create_task)

    made: list[str] = []
    forever = Forever(coroutines.gate())
    await coroutines.open(sets).ended()
    await coroutines.open(app).ended()
    await eventually(outliving)

    assert "Forever.run_forever" in made
    assert len(outliving()) == 1
    await forever.finish()


async def test_a_task_of_nobody_is_nobodys(coroutines: CoroutineKind, outliving: Callable[[], list[str]]) -> None:
    async def app(session: AbstractSession) -> None:
        session.defer_call(made.open)

    async def leaves(session: AbstractSession) -> None:
        own.start()

    made = coroutines.gate()
    others, own = Forever(coroutines.gate()), Forever(coroutines.gate())
    coroutines.open(app)
    others.start()
    await made.opened()
    backend = coroutines.open(leaves)
    await eventually(outliving)

    assert [backend.session.id in line for line in outliving()] == [True]
    assert "has ended, and 1 of its asyncio tasks" in outliving()[0]
    await others.finish()
    await own.finish()


async def test_a_task_that_outlives_its_session_may_make_others(coroutines: CoroutineKind) -> None:
    async def outlives() -> str:
        await gate.opened()
        return await asyncio.create_task(asyncio.sleep(0, "made"))

    async def app() -> None:
        kept.append(asyncio.create_task(outlives()))

    kept: list[asyncio.Task[str]] = []
    gate = coroutines.gate()
    session = weakref.ref(CoroutineSession(app))
    await eventually(lambda: session() is None)
    gate.open()

    assert await kept[0] == "made"
