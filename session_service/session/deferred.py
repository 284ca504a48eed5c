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


async def call_on_loop(func: Deferred, context: contextvars.Context, seconds: float) -> None:
    """Call ``func`` in ``context`` and await what it returns; raise what it raises.

    Raises:
        TimeoutError: it awaited for longer than ``seconds``, and has been cancelled.
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
        raise TimeoutError(f"it took longer than {seconds:g} s")
    if (error := task.result()) is not None:
        raise error


async def call_in_thread(func: Deferred, context: contextvars.Context, seconds: float, name: str) -> None:
    """Call ``func`` in ``context`` in a thread of its own; raise what it raises.

    Not in the loop's executor: one that hangs would keep a place there from every other session.

    Raises:
        TimeoutError: it took longer than ``seconds``, and is left alone.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[BaseException | None] = loop.create_future()

    def run() -> None:
        error: BaseException | None = None
        try:
            check_result(context.run(func))
        except BaseException as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(report, error)
        except RuntimeError:  # the loop is closed, long after the time was over
            pass

    def report(error: BaseException | None) -> None:
        if not outcome.done():
            outcome.set_result(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            error = await outcome
    except TimeoutError:
        raise TimeoutError(f"it took longer than {seconds:g} s") from None
    if error is not None:
        raise error
