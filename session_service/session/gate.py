"""What is over, and what becomes of tasks that go on asking for it.

A loop of an app that catches each exception and asks again must stop nobody else. So a wait suspends before it raises,
as asyncio.StreamWriter.drain does on a closing transport, and a task that goes on is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from ..errors import SessionClosedException
from .current import current_task
from .ending import Ending
from .refusals import Refusals
from .tasks import Task

__all__ = ["Gate"]

logger = logging.getLogger(__name__)


class Gate:
    """Each call of a task comes by here once its session may be over."""

    __slots__ = ("_ending",)

    def __init__(self, ending: Ending) -> None:
        self._ending = ending

    def check_open(self, task: Task | None) -> None:
        """Raise what a task gets whose session is closed, or that was cancelled.

        Raises:
            SessionClosedException: the session is closed.
            asyncio.CancelledError: the task was cancelled.
        """
        ending = self._ending
        closed = ending.app.state.closed
        inside = ending.home.inside
        if task is not None and task.cancelled and task.owner is ending.tasks.owner and (closed or not inside):
            raise asyncio.CancelledError
        if closed:
            raise SessionClosedException("the session is closed")

    def check_call(self, task: Task | None) -> bool:
        """Check like `check_open`, for a call that is no wait: on the loop it cannot suspend.

        Returns:
            Whether the call is to be made; see `hear`.
        """
        if not self.hear(task):
            return False
        self.check_open(task or current_task.get())
        return True

    def hear(self, task: Task | None) -> bool:
        """Note a call that is no wait, and slow a thread down that makes it when all is over.

        Returns:
            Whether the call is to be made. No longer by a task on the loop that was given up: were it raised to, one
            that catches everything would never come to a wait of its own, and hold the loop for good.
        """
        task = task or current_task.get()
        on_loop = self._ending.home.inside
        if self._ending.app.state.closed or (task is not None and task.cancelled and not on_loop):
            # A thread may have reasons to do its work to the end, heard or not.
            pause = self.refuse(task, cancel=on_loop)
            if not on_loop:
                time.sleep(pause)
            elif task is not None and task.refusals is not None and task.refusals.rounds > 1:
                return False
        return True

    def refuse(self, task: Task | None, *, cancel: bool = True) -> float:
        """Note that a task asks for what it could know to be over; return for how many seconds it shall be held.

        One that goes on is reported and cancelled, and given up when it goes on nevertheless.
        """
        if task is None or task.owner is not self._ending.tasks.owner:
            return 0
        refusals = task.refusals = task.refusals or Refusals()
        if refusals.note(self._ending.home.loop.time(), self._ending.options.close_grace):
            if refusals.rounds == 1:
                self._report(task)
            if cancel and not task.cancelled:
                self._ending.cancel(task)
            elif cancel:
                self._ending.home.call(self._ending.give_up, task)
        return refusals.pause

    def _report(self, task: Task) -> None:
        asker = asyncio.current_task() if self._ending.home.inside else threading.current_thread()
        where = ""
        if not task.done and asker is not task.handle:
            where = f"; it is here:\n{self._ending.runner.where(task)}And it asks here:"
        logger.warning(
            "session %s: task %s goes on asking for what is over: let SessionClosedException end it%s",
            *(task.session_id, task.id, where),
            stack_info=True,
        )
