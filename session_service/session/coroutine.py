"""Runs `async def` functions on the event loop; each task is an ordinary `asyncio.Task`, all of asyncio works in it."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import SessionException
from .app import check_result, is_coroutine_function
from .current import current_task
from .deferred import call_on_loop
from .mailbox import ClientEvent
from .runner import Deferred, drain_in_thread, next_event_in_thread
from .tasks import Task, TaskKind
from .waiter import LoopWaiter

if TYPE_CHECKING:
    from .work import Work

__all__ = ["CoroutineRunner"]


class CoroutineRunner:
    """Tasks are coroutines, callbacks may be plain functions."""

    callback_runs = 1024

    def check(self, func: Callable[..., Any], *, sync: bool = False, coroutine: bool = False) -> None:
        """See `Runner`."""
        if not callable(func) or not (sync or is_coroutine_function(func)):
            raise TypeError(f"a coroutine session runs `async def`, not {func!r}: a ThreadSession runs plain functions")

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
        loop = work.home.loop

        def start() -> None:
            # Past any task factory: it is no child, and must not begin before its handle is known.
            task.handle = asyncio.Task(self._run(work, task, func, args), loop=loop, name=task.id, context=context)
            # Not at the end of `_run`: a task that is cancelled before its first step never gets there.
            task.handle.add_done_callback(ended)
            if task.cancelled or work.app.state.closed:
                task.handle.cancel()

        def ended(_: object) -> None:
            task.handle = None  # which holds the context, which holds the task
            work.ending.finish(task, session)

        work.home.call(start)

    async def _run(self, work: Work, task: Task, func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        with work.backend.around(task):
            try:
                result = func(*args)
                if inspect.isawaitable(result):
                    result = await result
                if not isinstance(result, asyncio.Future):  # which runs whoever awaits it
                    check_result(result, of_app=task.kind is TaskKind.MAIN)
            # All of it ends here. SystemExit would stop the loop, and with it every other session. Of a cancellation
            # the asyncio.Task would keep the frames, and those may hold the asyncio.Task: a TaskGroup does.
            except BaseException as error:
                work.failed(task, error)

    def interrupt(self, task: Task) -> None:
        """See `Runner`."""
        if task.handle is not None:
            task.handle.cancel()

    def awaited(self, task: Task) -> object:
        """See `Runner`."""
        inner = task.handle.get_coro()
        while (awaited := getattr(inner, "cr_await", None)) is not None:
            inner = awaited
        return inner

    def where(self, task: Task) -> str:
        """See `Runner`."""
        # Not Task.print_stack: of a coroutine that is suspended it knows the outermost frame only.
        frames = []
        inner = task.handle.get_coro()
        while (frame := getattr(inner, "cr_frame", None)) is not None:
            frames.append((frame, frame.f_lineno))
            inner = inner.cr_await
        return "".join(traceback.StackSummary.extract(iter(frames)).format())

    # No type says what it returns: a coroutine on the loop, an event in a thread.
    def next_event(self, work: Work, task: Task, timeout: float | None) -> Any:
        """See `Runner`."""
        if threading.get_ident() != work.home.thread:
            return next_event_in_thread(work, task, timeout)
        if timeout is not None:
            return self._next_event_within(work, task, timeout)
        if task.mailbox.ended and task.mailbox.over:
            return self._next_event(work, task)
        # Straight to the mailroom: each coroutine between costs a step at each event, and a frame while it waits.
        return work.mailroom.next_on_loop(task.mailbox, task)

    async def _next_event(self, work: Work, task: Task) -> ClientEvent | None:
        if task.mailbox.ended and task.mailbox.over:
            await asyncio.sleep(work.gate.refuse(task))
        return await work.mailroom.next_on_loop(task.mailbox, task)

    async def _next_event_within(self, work: Work, task: Task, timeout: float) -> ClientEvent | None:
        try:
            async with asyncio.timeout(None if task.mailbox.over else timeout):  # of 0 it would hide the end
                return await self._next_event(work, task)
        except TimeoutError:
            raise TimeoutError(f"no event within {timeout} s") from None
        except TypeError:  # the timeout is no number
            await asyncio.sleep(0)
            raise

    def refuse(self, work: Work, error: SessionException) -> Any:
        """See `Runner`; on the loop it is raised after a turn, for whoever catches it may come at once again."""
        if threading.get_ident() != work.home.thread:
            raise error
        return _raise_after_a_turn(error)

    def drain(self, work: Work) -> Any:
        """See `Runner`."""
        if threading.get_ident() == work.home.thread:
            return self._drain(work)
        return drain_in_thread(work, current_task.get())

    async def _drain(self, work: Work) -> None:
        gate, commands, closed = work.gate, work.commands, work.app.state.closed
        if not (commands.full or closed):
            return
        task = current_task.get()
        if closed:
            await asyncio.sleep(gate.refuse(task))
        gate.check_open(task)
        while (waiter := commands.wait_room(LoopWaiter)) is not None:
            try:
                await waiter.future
            finally:
                commands.leave(waiter)
            gate.check_open(task)

    async def defer(self, work: Work, func: Deferred, context: contextvars.Context) -> BaseException | None:
        """See `Runner`."""
        return await call_on_loop(func, context, work.options.deferred_timeout)


async def _raise_after_a_turn(error: SessionException) -> NoReturn:
    await asyncio.sleep(0)
    raise error
