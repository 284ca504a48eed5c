"""How code that runs when the session ends is called."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from typing import Any

from .app import check_result

__all__ = ["call_in_thread", "call_on_loop"]


async def call_on_loop(func: Callable[[], Any], context: contextvars.Context, seconds: float) -> BaseException | None:
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
    func: Callable[[], Any], context: contextvars.Context, seconds: float, name: str
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
