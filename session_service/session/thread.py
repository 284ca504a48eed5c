"""Runs plain functions, each in a thread of its own; its calls block the thread that makes them, never the loop."""

from __future__ import annotations

import contextvars
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import SessionException
from .app import check_result, is_coroutine_function
from .current import current_task
from .deferred import call_in_thread, call_on_loop
from .mailbox import ClientEvent
from .runner import Deferred, drain_in_thread, next_event_in_thread
from .tasks import Task, TaskKind

if TYPE_CHECKING:
    from .work import Work

__all__ = ["ThreadRunner"]


class ThreadRunner:
    """Tasks are plain functions."""

    callback_runs = 64

    def check(self, func: Callable[..., Any], *, sync: bool = False, coroutine: bool = False) -> None:
        """See `Runner`."""
        if not callable(func) or (is_coroutine_function(func) and not coroutine):
            raise TypeError(f"a thread session runs plain functions, not {func!r}: a CoroutineSession runs `async def`")

    def start(
        self,
        work: Work,
        task: Task,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        context: contextvars.Context,
        session: object,
    ) -> None:
        """See `Runner`."""
        most = work.options.max_threads
        if most and threading.active_count() >= most:
            raise RuntimeError(f"the process has its {most} threads")  # as Thread.start() does when it has no more
        task.handle = threading.Thread(
            target=context.run,
            args=(self._run, work, task, func, args, session),
            name=f"{task.session_id}/{task.id}",
            daemon=True,
        )
        task.handle.start()

    def _run(self, work: Work, task: Task, func: Callable[..., Any], args: tuple[Any, ...], session: object) -> None:
        try:
            with work.backend.around(task):
                try:
                    check_result(func(*args), of_app=task.kind is TaskKind.MAIN)
                except BaseException as error:  # nobody is above to catch it
                    work.failed(task, error)
        finally:
            work.home.call(work.ending.finish, task, session)

    def interrupt(self, task: Task) -> None:
        """Do nothing: a thread meets the exception at its next call of the session."""

    def awaited(self, task: Task) -> object:
        """See `Runner`."""
        return None

    def where(self, task: Task) -> str:
        """See `Runner`."""
        frame = sys._current_frames().get(task.handle.ident)
        return "".join(traceback.format_stack(frame)) if frame is not None else "it ends just now"

    def next_event(self, work: Work, task: Task, timeout: float | None) -> ClientEvent:
        """See `Runner`."""
        _check_may_block(work, "next_client_event")
        return next_event_in_thread(work, task, timeout)

    def refuse(self, work: Work, error: SessionException) -> NoReturn:
        """See `Runner`."""
        raise error

    def drain(self, work: Work) -> None:
        """See `Runner`."""
        _check_may_block(work, "drain")
        drain_in_thread(work, current_task.get())

    async def defer(self, work: Work, func: Deferred, context: contextvars.Context) -> BaseException | None:
        """See `Runner`."""
        if is_coroutine_function(func):
            return await call_on_loop(func, context, work.options.deferred_timeout)
        else:
            return await call_in_thread(
                func, context, work.options.deferred_timeout, f"{work.tasks.session_id}/deferred"
            )


def _check_may_block(work: Work, name: str) -> None:
    if work.home.inside:
        raise RuntimeError(f"{name} of a thread session would block the event loop: call it in a thread")
