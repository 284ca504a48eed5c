"""Something that waits and can be woken once, from any thread: code on the event loop, or a thread."""

from __future__ import annotations

import asyncio
import threading

__all__ = ["LoopWaiter", "ThreadWaiter", "Waiter"]


class LoopWaiter:
    """Code on the running event loop, which awaits ``future``.

    Attributes:
        future: is done when it may go on.
        owner: the `id` of its asyncio task. Not the task: what leaves a wait that is cancelled is kept by the task, and
            would keep this with it.
    """

    __slots__ = ("_loop", "_thread", "future", "owner")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """``loop`` is the one that runs, which asyncio asks the kernel to find out: whoever knows it saves that."""
        self._loop = loop = loop or asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.future: asyncio.Future[None] = loop.create_future()
        self.owner = id(asyncio.current_task(loop))

    @property
    def cancelled(self) -> bool:
        """True when it has been cancelled, and will not notice that it is woken."""
        return self.future.cancelled()

    def wake(self) -> None:
        """Let it go on; again does nothing."""
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self._set)
        elif not self.future.done():
            self.future.set_result(None)

    def _set(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class ThreadWaiter:
    """The current thread; ``owner`` is the `id` of its `threading.Thread`."""

    __slots__ = ("_lock", "_woken", "owner")
    cancelled = False  # a thread cannot be

    def __init__(self) -> None:
        # What Condition.wait makes, too: the cheapest thing in Python that a thread can wait for.
        self._lock = threading.Lock()
        self._lock.acquire()
        self._woken = False
        self.owner = id(threading.current_thread())

    def wake(self) -> None:
        """Let it go on; again does nothing."""
        if not self._woken:
            self._woken = True
            self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Return True when woken, False when ``timeout`` seconds have passed."""
        return self._lock.acquire(timeout=-1 if timeout is None else max(timeout, 0))


Waiter = LoopWaiter | ThreadWaiter
