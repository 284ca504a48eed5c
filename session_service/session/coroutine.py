"""Sessions whose tasks are `async def` functions on the server's event loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import traceback
from collections.abc import Callable
from typing import Any

from .app import check_result, is_coroutine_function
from .base import AbstractSession
from .context import Task, current_task
from .deferred import Deferred, call_on_loop
from .mailbox import ClientEvent

__all__ = ["CoroutineSession"]


class CoroutineSession(AbstractSession):
    """Runs ``async def`` apps; each task is an ordinary `asyncio.Task`, and all of asyncio works in it."""

    _default_callback_runs = 1024

    # No type says what it returns: a coroutine on the loop, an event in a thread.
    def next_client_event(self, timeout: float | None = None) -> Any:
        """Wait for the next event of the current task; see `AbstractSession.next_client_event`."""
        task = current_task.get()
        if task is None or task.owner is not self._ref:
            task = self._own_task()
        if threading.get_ident() == self._thread:
            return self._next_event_on_loop(task) if timeout is None else self._next_event_within(task, timeout)
        return self._next_event_in_thread(task, timeout)

    async def _next_event_within(self, task: Task, timeout: float) -> ClientEvent:
        try:
            async with asyncio.timeout(None if task.mailbox.over else timeout):  # of 0 it would hide the end
                return await self._next_event_on_loop(task)
        except TimeoutError:
            raise TimeoutError(f"no event within {timeout} s") from None

    def drain(self) -> Any:
        """Wait until the command buffer has room; see `AbstractSession.drain`."""
        return self._drain_on_loop() if threading.get_ident() == self._thread else self._drain_in_thread()

    def _check_callable(self, func: Callable[..., Any], *, sync: bool = False, coroutine: bool = False) -> None:
        if not callable(func) or not (sync or is_coroutine_function(func)):
            raise TypeError(f"a coroutine session runs `async def`, not {func!r}: a ThreadSession runs plain functions")

    def _start(self, task: Task, func: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context) -> None:
        def start() -> None:
            # Past any task factory: it is no child, and must not begin before its handle is known.
            task.handle = asyncio.Task(self._run(task, func, args), loop=self._loop, name=task.id, context=context)
            # Not at the end of `_run`: a task that is cancelled before its first step never gets there.
            task.handle.add_done_callback(ended)
            if task.cancelled or self._closed:
                task.handle.cancel()

        def ended(_: object) -> None:
            task.handle = None  # which holds the context, which holds the task
            self._task_ended(task)

        self._on_loop(start)

    async def _run(self, task: Task, func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        with self._around(task):
            try:
                result = func(*args)
                if inspect.isawaitable(result):
                    result = await result
                if not isinstance(result, asyncio.Future):  # which runs whoever awaits it
                    check_result(result)
            # All of it ends here. SystemExit would stop the loop, and with it every other session. Of a cancellation
            # the asyncio.Task would keep the frames, and those may hold the asyncio.Task: a TaskGroup does.
            except BaseException as error:
                self._failed(task, error)

    def _interrupt(self, task: Task) -> None:
        if task.handle is not None:
            task.handle.cancel()

    def _awaited(self, task: Task) -> object:
        inner = task.handle.get_coro()
        while (awaited := getattr(inner, "cr_await", None)) is not None:
            inner = awaited
        return inner

    def _stack(self, task: Task) -> str:
        # Not Task.print_stack: of a coroutine that is suspended it knows the outermost frame only.
        frames = []
        inner = task.handle.get_coro()
        while (frame := getattr(inner, "cr_frame", None)) is not None:
            frames.append((frame, frame.f_lineno))
            inner = inner.cr_await
        return "".join(traceback.StackSummary.extract(iter(frames)).format())

    async def _call_deferred(self, func: Deferred, context: contextvars.Context) -> BaseException | None:
        return await call_on_loop(func, context, self.options.deferred_timeout)
