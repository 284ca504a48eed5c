"""The watchdog over the loop of the test, which the test blocks until that is logged."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from session_service.server.watch.watchdog import Watchdog
from session_service.session.current import current_task

from ..cli.program import PATIENCE

THRESHOLD = 0.1


class Records(logging.Handler):
    """What the watchdog has logged.

    Attributes:
        blocked: a block has been logged; not so until `block` is called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.stacks: list[str] = []
        self.blocked = threading.Event()
        self.gone_on = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        if record.stack_info:
            self.stacks.append(record.stack_info)
            self.blocked.set()
        else:
            self._loop.call_soon_threadsafe(self.gone_on.set)

    def block(self) -> None:
        """Hold the loop until that is logged."""
        self.blocked.clear()
        assert self.blocked.wait(PATIENCE)

    async def wait_gone_on(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.gone_on.wait()
        self.gone_on.clear()


@pytest.fixture
async def records() -> Records:
    return Records()


@pytest.fixture
def watch(records: Records) -> Iterator[Callable[[], Watchdog]]:
    logger = logging.getLogger("session_service.server.watch.watchdog")
    logger.addHandler(records)
    started: list[Watchdog] = []

    def watch() -> Watchdog:
        started.append(Watchdog(THRESHOLD))
        return started[-1]

    yield watch
    for watchdog in started:
        watchdog.stop()
    logger.removeHandler(records)


async def test_a_block_is_logged_once_with_its_stack_and_its_end(
    records: Records, watch: Callable[[], Watchdog]
) -> None:
    watchdog = watch()
    for count in (1, 2):
        records.block()
        await records.wait_gone_on()
        assert watchdog.blocks == count
        assert len(records.texts) == 2 * count
        assert "the event loop goes on, after " in records.texts[-1]
        assert "in block\n    assert self.blocked.wait(PATIENCE)" in records.stacks[-1]


async def test_the_session_is_known_in_the_asyncio_tasks_that_its_code_has_made(
    records: Records, watch: Callable[[], Watchdog]
) -> None:
    async def child() -> None:
        records.block()

    async def task() -> None:
        await asyncio.create_task(child())

    watch()
    context = contextvars.copy_context()
    context.run(current_task.set, SimpleNamespace(id="task-1", session=SimpleNamespace(id="s-1")))  # type: ignore[arg-type]  # what is read of it
    await asyncio.create_task(task(), context=context)
    assert records.texts[0].startswith("session s-1: has blocked the event loop")
    assert records.texts[0].endswith("in task task-1")


async def test_without_a_session_the_asyncio_task_is_named(records: Records, watch: Callable[[], Watchdog]) -> None:
    async def work() -> None:
        records.block()

    watch()
    await asyncio.create_task(work(), name="some work")
    assert records.texts[0].endswith("by some work")


async def test_a_callback_of_asyncio_has_no_name(records: Records, watch: Callable[[], Watchdog]) -> None:
    watch()
    asyncio.get_running_loop().call_soon(records.block)
    await records.wait_gone_on()
    assert records.texts[0].endswith("by a callback of asyncio")


async def test_it_ends_when_it_is_told_to(watch: Callable[[], Watchdog]) -> None:
    before = set(threading.enumerate())
    watchdog = watch()
    (thread,) = set(threading.enumerate()) - before
    watchdog.stop()
    await asyncio.to_thread(thread.join, PATIENCE)
    assert not thread.is_alive()
