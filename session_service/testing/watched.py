"""Sessions that can be watched: what failed in them, where their tasks are, and whether they wait for the client."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from collections.abc import Coroutine
from typing import Any

from ..session import AbstractSession, CoroutineSession, ThreadSession
from ..session.app import is_coroutine_function
from ..session.context import Task
from ..session.deferred import Deferred
from ..session.mailbox import ClientEvent

__all__ = ["WatchedCoroutineSession", "WatchedSession", "WatchedThreadSession"]


class WatchedSession(AbstractSession):
    """What both kinds have.

    Threads wait for events on the loop, where it is known at any moment who waits, and where time is virtual.

    Attributes:
        errors: the exceptions that left tasks, callbacks and deferred calls.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.errors: list[BaseException] = []
        self._threads_waiting = 0  # for an event
        self._threads_deferred = 0  # in a deferred call
        super().__init__(*args, **options)

    @property
    def threads(self) -> int:
        """How many threads are at work, less those in executors that wait for an event."""
        tasks = len(self._tasks) if isinstance(self, ThreadSession) else 0
        return tasks + self._threads_deferred - self._threads_waiting

    @property
    def waits_for_client(self) -> bool:
        """Whether a task waits for an event, or a click would be taken."""
        return bool(self._registered) or any(task.mailbox.waiters for task in list(self._tasks.values()))

    def whereabouts(self) -> str:
        """Say where each task is now; from any thread."""
        tasks = [task for task in list(self._tasks.values()) if task.handle is not None]
        return "".join(f"\n{task.id} is here:\n{self._stack(task)}" for task in tasks) or "no task is left"

    def on_task_exception(self) -> None:
        """Keep the exception, too."""
        error = sys.exc_info()[1]
        assert error is not None
        self.errors.append(error)
        super().on_task_exception()

    def _drop_traceback(self, error: BaseException) -> None:
        """Do nothing: a test that fails by it shows it."""

    def _next_event_in_thread(self, task: Task, timeout: float | None = None) -> ClientEvent:
        async def wait() -> ClientEvent | None:
            self._threads_waiting += 1
            try:
                async with asyncio.timeout(timeout):
                    return await self._mailroom.next_on_loop(task.mailbox)
            finally:
                self._threads_waiting -= 1

        if task.mailbox.over:
            time.sleep(self._refuse(task))
        return self._taken(task, asyncio.run_coroutine_threadsafe(wait(), self._loop).result())

    async def _watch(self, deferred: Coroutine[Any, Any, BaseException | None]) -> BaseException | None:
        error = await deferred
        if error is not None:
            self.errors.append(error)
        return error


class WatchedCoroutineSession(WatchedSession, CoroutineSession):
    """A `CoroutineSession` that can be watched."""

    async def _call_deferred(self, func: Deferred, context: contextvars.Context) -> BaseException | None:
        return await self._watch(CoroutineSession._call_deferred(self, func, context))


class WatchedThreadSession(WatchedSession, ThreadSession):
    """A `ThreadSession` that can be watched."""

    async def _call_deferred(self, func: Deferred, context: contextvars.Context) -> BaseException | None:
        in_thread = not is_coroutine_function(func)
        self._threads_deferred += in_thread
        try:
            return await self._watch(ThreadSession._call_deferred(self, func, context))
        finally:
            self._threads_deferred -= in_thread
