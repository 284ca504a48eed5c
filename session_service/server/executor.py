"""Threads for what apps do in `asyncio.to_thread` and in the default executor of the event loop."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

__all__ = ["GrowingExecutor"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Seconds that a thread without work waits for more.
IDLE = 10.0

# Seconds between two looks for room while calls wait: threads that are not the executor's end without its notice.
RETRY = 0.5

# Seconds within which it is not said again that it is full.
QUIET = 60.0


class _Call:
    """What a thread is to do, and who waits for it."""

    __slots__ = ("func", "future")

    def __init__(self, func: Callable[[], Any]) -> None:
        self.func = func
        self.future: Future[Any] = Future()

    def run(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                result = self.func()
            except BaseException as error:  # whoever waits gets it, SystemExit as well
                self.future.set_exception(error)
            else:
                self.future.set_result(result)


# What a thread without work waits for; None is the end.
_Inbox = queue.SimpleQueue[_Call | None]


class GrowingExecutor(ThreadPoolExecutor):
    """Has a thread for each call, as long as the process has fewer threads than it may have; then calls wait.

    asyncio's own has 32 threads at most, and 6 on two cores: so many calls that wait for people, and no other call of
    the process goes on. This one has at least one thread, whatever the limit. Threads that have nothing to do end,
    and at once where the process has more than half of what it may have. They are daemons, so that Python does not wait
    for one that hangs. It is a `ThreadPoolExecutor` since asyncio takes no other for its default, and uses nothing of
    it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_threads: int, *, idle: float = IDLE) -> None:
        """Start without a thread.

        Args:
            loop: on which it looks again for room.
            max_threads: of the process; 0 for no limit.
            idle: seconds that a thread without work waits for more.
        """
        super().__init__(1)
        self._loop = loop
        self._max_threads = max_threads
        self._idle = idle
        self._mutex = threading.Lock()
        self._numbers = itertools.count(1)
        self._workers: set[threading.Thread] = set()
        self._resting: list[_Inbox] = []  # the last one is the next to work, so that those beyond need can end
        self._calls: deque[_Call] = deque()  # those that wait for a thread
        self._looking = False
        self._over = False
        self._quiet_until = 0.0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn(*args, **kwargs)`` in a thread.

        Raises:
            RuntimeError: it has been shut down.
        """
        call = _Call(functools.partial(fn, *args, **kwargs))
        with self._mutex:
            if self._over:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._resting:
                self._resting.pop().put(call)
                return call.future
            full = self._start(call)
            if not full:
                return call.future
            self._calls.append(call)
            waiting, look = len(self._calls), not self._looking
            self._looking = True
        if look:
            self._look_later()
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            logger.warning("no thread is free for asyncio.to_thread, and %d calls wait: %s", waiting, full)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; make those that there are, unless they are cancelled, and wait for them."""
        with self._mutex:
            self._over = True
            workers = list(self._workers)
            if cancel_futures or not workers:
                while self._calls:
                    self._calls.popleft().future.cancel()
            while self._resting:
                self._resting.pop().put(None)
        for worker in workers if wait else ():
            worker.join()

    def _start(self, call: _Call) -> str:
        """Start a thread with its first call; return why there is none to be had, or nothing."""
        most = self._max_threads
        if self._workers and most and threading.active_count() >= most:
            return f"the process has its {most} threads (--max-threads)"
        name = f"executor-{next(self._numbers)}"
        worker = threading.Thread(target=self._work, args=([call],), name=name, daemon=True)
        self._workers.add(worker)
        try:
            worker.start()
        except RuntimeError as error:  # the system has no more
            self._workers.discard(worker)
            return str(error)
        return ""

    def _work(self, first: list[_Call]) -> None:
        inbox: _Inbox = queue.SimpleQueue()
        call: _Call | None = first.pop()  # what a call holds is nobody's when it is over
        while call is not None:
            call.run()
            call = None
            call = self._next(inbox)
        with self._mutex:
            self._workers.discard(threading.current_thread())

    def _next(self, inbox: _Inbox) -> _Call | None:
        with self._mutex:
            if self._calls:
                return self._calls.popleft()
            # One that rests counts for nothing but the next call: the other half is for sessions that want threads.
            if self._over or (self._max_threads and threading.active_count() > self._max_threads // 2):
                return None
            self._resting.append(inbox)
        try:
            return inbox.get(timeout=self._idle)
        except queue.Empty:
            with self._mutex:
                if inbox in self._resting:
                    self._resting.remove(inbox)
                    return None
        return inbox.get()  # it came in the same moment

    def _look_later(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._loop.call_later, RETRY, self._look)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    def _look(self) -> None:
        with self._mutex:
            while self._calls and (self._calls[0].future.cancelled() or not self._start(self._calls[0])):
                self._calls.popleft()
            self._looking = bool(self._calls) and not self._over
            if not self._looking:
                return
        self._look_later()
