"""An event loop whose clock jumps to the next timer where nothing else is left to wait for.

As trio's ``MockClock`` does with an autojump threshold of 0, and looptime for asyncio. Where somebody outside the loop
is at work, a thread or the other end of a socket, time goes by as it really does: a jump would let a timeout pass that
the work would have met.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

__all__ = ["VirtualLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Ready = list[tuple[selectors.SelectorKey, int]]

# Timers within it count as due. The default of 1e-9 is lost in the float of a time beyond some months, and then the
# loop spins for ever at the very time of a timer (python/cpython#116342).
RESOLUTION = 1e-6


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at time 0 and runs no faster or slower for it.

    Attributes:
        jobs: what runs in executors, and has not ended, whether or not anybody still waits for it.
        on_idle: called when nothing on the loop is ready, before it waits or jumps; with whether no timer is set. True
            says that something is ready now.
        threads: tells how many threads are at work that the loop does not know of.
        on_stuck: called once when nothing can ever happen again, or the limit is over; it has to make something ready.
    """

    def __init__(self, limit: float) -> None:
        """The clock does not jump beyond ``limit`` seconds."""
        self._now = 0.0
        self._limit = limit
        self._files = _Selector(self._wait)
        super().__init__(self._files)
        self._clock_resolution = RESOLUTION
        self._own_files = len(self._files.get_map())
        self.jobs: set[concurrent.futures.Future[Any]] = set()
        self.on_idle: Callable[[bool], bool] = lambda no_timer: False
        self.threads: Callable[[], int] = lambda: len(self.jobs)
        self.on_stuck: Callable[[str], None] | None = None

    @property
    def has_sockets(self) -> bool:
        """Whether somebody beyond a socket may have something to say."""
        return len(self._files.get_map()) > self._own_files

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def run_in_executor(
        self, executor: concurrent.futures.Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run ``func(*args)`` in a thread, and let time go by as it really does until it returns.

        Unless an executor is given, in a daemon thread of its own: Python would wait for those of the default executor
        when the tests are over, and for ever where one hangs.
        """
        job: concurrent.futures.Future[T]
        if executor is None:
            job = concurrent.futures.Future()
            threading.Thread(target=_work, args=(job, func, args), daemon=True).start()
        else:
            job = executor.submit(func, *args)
        self.jobs.add(job)
        future = asyncio.wrap_future(job, loop=self)
        job.add_done_callback(self._job_ended)  # after wrap_future's own: not idle before the result is there
        return future

    def _job_ended(self, job: concurrent.futures.Future[Any]) -> None:
        try:
            self.call_soon_threadsafe(self.jobs.discard, job)
        except RuntimeError:  # the loop is closed: nobody cares any more
            pass

    def _wait(self, poll: Callable[[float | None], Ready], timeout: float | None) -> Ready:
        """Do what ``select`` of a selector does, but jump instead of waiting, where that is right."""
        ready = poll(0)
        if ready or (timeout is not None and timeout <= 0) or self.on_idle(timeout is None):
            return ready
        if self.threads() > 0 or self.has_sockets:
            started = time.monotonic()
            ready = poll(timeout)
            self._now += time.monotonic() - started
        elif timeout is not None and self._now + timeout <= self._limit:
            self._now += timeout
        else:
            self._stuck("nothing can happen any more" if timeout is None else f"{self._limit:g} virtual seconds passed")
        return ready

    def _stuck(self, why: str) -> None:
        on_stuck, self.on_stuck = self.on_stuck, None
        if on_stuck is None:
            raise RuntimeError(f"{why}, and the event loop still waits")
        self._limit = float("inf")  # there are grace periods to come
        on_stuck(why)


class _Selector(selectors.DefaultSelector):
    """The platform's selector, with the loop's own idea of waiting."""

    def __init__(self, wait: Callable[[Callable[[float | None], Ready], float | None], Ready]) -> None:
        super().__init__()
        self._wait = wait

    def select(self, timeout: float | None = None) -> Ready:
        return self._wait(super().select, timeout)


def _work(job: concurrent.futures.Future[T], func: Callable[..., T], args: tuple[Any, ...]) -> None:
    if job.set_running_or_notify_cancel():
        try:
            result = func(*args)
        except BaseException as error:
            job.set_exception(error)
        else:
            job.set_result(result)
