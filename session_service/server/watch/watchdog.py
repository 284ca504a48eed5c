"""Sees from outside the event loop what the loop cannot say itself, and logs it.

A blocked loop: code of an app that neither ends nor awaits holds up every session. File descriptors that are used up:
gRPC then leaves new connections waiting, without a word.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import sys
import threading
import time
import traceback
from contextvars import Context

from ...errors import SessionNotFoundException
from ...session.current import current_task

__all__ = ["Watchdog"]

logger = logging.getLogger(__name__)

# How often within its threshold the loop is asked. Time that passes in one such part counts as that part only: then it
# was the whole process that stood still, stopped or starved, and no app is to blame.
PARTS = 5

# Seconds between two looks at the file descriptors.
DESCRIPTORS_INTERVAL = 1.0

# Seconds within which descriptors that run out again are not logged again: gRPC tries once a second, and so they come
# and go.
QUIET = 60.0

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class Watchdog:
    """Watches the running loop, in a thread.

    Attributes:
        blocks: how often the loop was blocked.
    """

    def __init__(self, threshold: float) -> None:
        """Start; ``threshold`` is how many seconds one step on the loop may take."""
        self.blocks = 0
        self._threshold = threshold
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._answered = threading.Event()
        self._stopped = threading.Event()
        self._exhausted = False
        self._look_at, self._quiet_until = 0.0, 0.0
        threading.Thread(target=self._watch, name="session-service watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop soon."""
        self._stopped.set()
        self._answered.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._threshold / PARTS):
            self._look_at_descriptors()
            self._answered.clear()
            asked_at = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:  # the loop is closed
                return
            if any(self._answered.wait(self._threshold / PARTS) for _ in range(PARTS)):
                continue
            if self._stopped.is_set() or not self._loop.is_running():
                return
            self.blocks += 1
            self._report(time.monotonic() - asked_at)
            self._answered.wait()
            if not self._stopped.is_set():
                logger.warning("the event loop goes on, after %.1f s", time.monotonic() - asked_at)

    def _report(self, seconds: float) -> None:
        # At once, since whatever runs may be over the next moment.
        frame, running = sys._current_frames().get(self._loop_thread), asyncio.current_task(self._loop)
        stack = "Stack (most recent call last):\n" + "".join(traceback.format_stack(frame)).rstrip("\n")
        task = _context_of(running).get(current_task) if running is not None else None
        message: str
        args: tuple[object, ...]
        about: dict[str, object] = {}
        if task is not None:
            message = "session %s: has blocked the event loop, and so all sessions, for %.1f s, in task %s"
            try:
                session_id = task.session.id
            except SessionNotFoundException:  # it is gone, and this code outlives it
                session_id = task.session_id
            args = session_id, seconds, task.id
            about["about_session"] = session_id
        else:
            message = "the event loop has been blocked, and so all sessions, for %.1f s, by %s"
            args = seconds, running.get_name() if running is not None else "a callback of asyncio"
        record = logger.makeRecord(
            logger.name, logging.WARNING, __file__, 0, message, args, None, extra=about, sinfo=stack
        )
        logger.handle(record)

    def _look_at_descriptors(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + DESCRIPTORS_INTERVAL
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS and not self._exhausted:
                self._exhausted = True
                if now >= self._quiet_until:
                    self._quiet_until = now + QUIET
                    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                    logger.error(
                        "no file descriptor is free, of %d: new connections wait, sessions go on: %s", limit, error
                    )
        else:
            if self._exhausted:
                self._exhausted = False
                logger.info("file descriptors are free again")


def _context_of(task: asyncio.Task[object]) -> Context:
    if sys.version_info >= (3, 12):
        return task.get_context()
    # Python 3.11 has no other way to ask.
    return next((held for held in gc.get_referents(task) if isinstance(held, Context)), Context())
