"""Sessions whose tasks are plain functions, each in a thread of its own."""

from __future__ import annotations

import contextvars
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from .app import check_result, is_coroutine_function
from .base import AbstractSession
from .context import Task
from .deferred import Deferred, call_in_thread, call_on_loop
from .mailbox import ClientEvent

__all__ = ["ThreadSession"]


class ThreadSession(AbstractSession):
    """Runs plain functions; its calls block the thread that makes them, never the event loop."""

    _default_callback_runs = 64

    def next_client_event(self, timeout: float | None = None) -> ClientEvent:
        """Wait for the next event of the current task; see `AbstractSession.next_client_event`.

        Raises:
            RuntimeError: called on the event loop's thread, which must not block.
        """
        task = self._own_task()
        self._check_may_block("next_client_event")
        return self._next_event_in_thread(task, timeout)

    def drain(self) -> None:
        """Wait until the command buffer has room; see `AbstractSession.drain`.

        Raises:
            RuntimeError: called on the event loop's thread, which must not block.
        """
        self._check_may_block("drain")
        self._drain_in_thread()

    def _check_may_block(self, name: str) -> None:
        if self._in_loop_thread:
            raise RuntimeError(f"{name} of a thread session would block the event loop: call it in a thread")

    def _check_callable(self, func: Callable[..., Any], *, sync: bool = False, coroutine: bool = False) -> None:
        if not callable(func) or (is_coroutine_function(func) and not coroutine):
            raise TypeError(f"a thread session runs plain functions, not {func!r}: a CoroutineSession runs `async def`")

    def _start(self, task: Task, func: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context) -> None:
        most = self.options.max_threads
        if most and threading.active_count() >= most:
            raise RuntimeError(f"the process has its {most} threads")  # as Thread.start() does when it has no more
        task.handle = threading.Thread(
            target=context.run,
            args=(self._run, task, func, args),
            name=f"{self.id}/{task.id}",
            daemon=True,
        )
        task.handle.start()

    def _run(self, task: Task, func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            with self._around(task):
                try:
                    check_result(func(*args))
                except BaseException as error:  # nobody is above to catch it
                    self._failed(task, error)
        finally:
            self._on_loop(self._task_ended, task)

    def _interrupt(self, task: Task) -> None:
        """Do nothing: a thread meets the exception at its next call of the session."""

    def _awaited(self, task: Task) -> object:
        return None

    def _stack(self, task: Task) -> str:
        frame = sys._current_frames().get(task.handle.ident)
        return "".join(traceback.format_stack(frame)) if frame is not None else "it ends just now"

    async def _call_deferred(self, func: Deferred, context: contextvars.Context) -> BaseException | None:
        if is_coroutine_function(func):
            return await call_on_loop(func, context, self.options.deferred_timeout)
        else:
            return await call_in_thread(func, context, self.options.deferred_timeout, f"{self.id}/deferred")
