"""Code to run when the session ends."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from typing import Any

from ..errors import SessionClosedException
from .app import check_result

__all__ = ["Deferred", "DeferredCalls", "call_in_thread", "call_on_loop"]

Deferred = Callable[[], Any]


class DeferredCalls:
    """A line of calls, each made exactly once, in the order of registration, those registered meanwhile as well.

    Attributes:
        done: the last one has been made, and none can be added any more.
    """

    __slots__ = ("_calls", "_lock", "done")

    def __init__(self, lock: threading.Lock) -> None:
        """``lock`` is the session's; it is held for a moment only."""
        self.done = False
        self._lock = lock
        self._calls: list[Deferred] = []

    def add(self, func: Deferred) -> None:
        """Add a call; from any thread.

        Raises:
            SessionClosedException: it is too late.
        """
        with self._lock:
            if self.done:
                raise SessionClosedException("the session has ended: nothing can be deferred any more")
            self._calls.append(func)

    def pop(self) -> Deferred | None:
        """Return the next call to make, or None, and from then on there is none."""
        with self._lock:
            if self._calls:
                return self._calls.pop(0)
            self.done = True
            return None


async def call_on_loop(func: Deferred, context: contextvars.Context, seconds: float) -> BaseException | None:
    """Call ``func`` in ``context`` and await what it returns.

    Returns:
        What it raised; a TimeoutError if it awaited for longer than ``seconds``, and has been cancelled. It is returned
        since an exception that is raised from a variable keeps its frame, and that keeps the exception.
    """

    async def call() -> BaseException | None:
        try:
            result = func()
            if inspect.isawaitable(result):
                result = await result
            if not isinstance(result, asyncio.Future):  # which runs whoever awaits it
                check_result(result)
        except BaseException as error:  # SystemExit would stop the loop
            return error
        return None

    task = asyncio.get_running_loop().create_task(call(), context=context)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        return TimeoutError(f"it took longer than {seconds:g} s")
    return task.result()


async def call_in_thread(
    func: Deferred, context: contextvars.Context, seconds: float, name: str
) -> BaseException | None:
    """Call ``func`` in ``context`` in a thread of its own.

    Not in the loop's executor: one that hangs would keep a place there from every other session.

    Returns:
        What it raised, or why it could not be called; a TimeoutError if it took longer than ``seconds``, and is left
        alone.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    raised: list[BaseException] = []  # not the future's result: that would stay, and the traceback leads to the future

    def run() -> None:
        try:
            check_result(context.run(func))
        except BaseException as error:
            raised.append(error)
        try:
            loop.call_soon_threadsafe(report)
        except RuntimeError:  # the loop is closed, long after the time was over
            pass

    def report() -> None:
        if over.done():
            raised.clear()
        else:
            over.set_result(None)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # no more threads
        return error
    try:
        async with asyncio.timeout(seconds):
            await over
    except TimeoutError:
        return TimeoutError(f"it took longer than {seconds:g} s")
    return raised.pop() if raised else None
