"""Watches a session: what failed in it, where its tasks are, and whether they wait for the client."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..session import AbstractSession
from ..session.app import is_coroutine_function
from ..session.kinds import THREADS, Kind, kind_of
from ..session.mailbox import ClientEvent, Mailbox
from ..session.runner import Deferred, Runner, next_event_in_thread
from ..session.tasks import Task
from ..session.work import Work

__all__ = ["Watch"]

# More than any app that is tested has.
ALL = 1_000_000


class Watch:
    """Sees what one session does: as its runner, which has that of its kind do the work, and as its extension.

    Threads wait for events on the loop, where it is known at any moment who waits, and where time is virtual.

    Attributes:
        kind: what the session is to be made as.
        callback_runs: see `Runner`.
    """

    def __init__(self, app: Callable[[], Any]) -> None:
        kind = kind_of(app)
        self.kind = Kind(kind.home, self, lambda: self)
        self._runner: Runner = kind.runner
        self._in_threads = kind is THREADS
        self._errors: list[tuple[BaseException, TracebackType | None]] = []
        self._threads_waiting = 0  # for an event
        self._threads_deferred = 0  # in a deferred call
        self.callback_runs = self._runner.callback_runs
        self.check = self._runner.check
        self.start = self._runner.start
        self.interrupt = self._runner.interrupt
        self.awaited = self._runner.awaited
        self.where = self._runner.where
        self.refuse = self._runner.refuse
        self.drain = self._runner.drain

    # --- for the test -------------------------------------------------------------------------------------------------

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions that left tasks, callbacks and deferred calls, each with its traceback."""
        return [error.with_traceback(traceback) for error, traceback in self._errors]

    def threads(self, session: AbstractSession) -> int:
        """Return how many threads are at work, less those in executors that wait for an event."""
        tasks = session.snapshot(most=0).task_count if self._in_threads else 0
        return tasks + self._threads_deferred - self._threads_waiting

    def waits_for_client(self, session: AbstractSession) -> bool:
        """Tell whether a task waits for an event, or a click would be taken."""
        seen = session.snapshot(most=ALL)
        return bool(seen.callback_count) or any(task.waiting for task in seen.tasks)

    def whereabouts(self, session: AbstractSession) -> str:
        """Say where each task is now; from any thread."""
        tasks = [task for task in session.snapshot(most=ALL, stacks=True).tasks if task.stack]
        return "".join(f"\n{task.id} is here:\n{task.stack}" for task in tasks) or "no task is left"

    # --- for the session ----------------------------------------------------------------------------------------------

    def failed(self, session: AbstractSession, error: BaseException) -> None:
        """Keep the exception, and its traceback, which a session drops."""
        self._errors.append((error, error.__traceback__))

    def next_event(self, work: Work, task: Task, timeout: float | None) -> Any:
        """Have threads wait on the loop."""
        if work.home.inside:
            return self._runner.next_event(work, task, timeout)

        async def wait(mailbox: Mailbox) -> ClientEvent | None:
            self._threads_waiting += 1
            try:
                async with asyncio.timeout(timeout):
                    return await work.mailroom.next_on_loop(mailbox)
            finally:
                self._threads_waiting -= 1

        def wait_on_loop(mailbox: Mailbox, _: float | None) -> ClientEvent | None:
            return asyncio.run_coroutine_threadsafe(wait(mailbox), work.home.loop).result()

        return next_event_in_thread(work, task, timeout, wait_on_loop)

    async def defer(self, work: Work, func: Deferred, context: contextvars.Context) -> BaseException | None:
        """Keep what a deferred call raises."""
        in_thread = self._in_threads and not is_coroutine_function(func)
        self._threads_deferred += in_thread
        try:
            error = await self._runner.defer(work, func, context)
        finally:
            self._threads_deferred -= in_thread
        if error is not None:
            self._errors.append((error, error.__traceback__))
        return error
