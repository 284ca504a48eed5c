"""Which task of which session the running code belongs to."""

from __future__ import annotations

import os
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..errors import SessionNotFoundException

if TYPE_CHECKING:
    from .base import AbstractSession
    from .callbacks import Callback
    from .mailbox import Mailbox
    from .refusals import Refusals

__all__ = ["Task", "TaskHandle", "current_task", "get_current_session", "get_current_task_id"]


class Task:
    """One running piece of user code: the main task, a callback's run, or what `run_task` started.

    Attributes:
        id: unique in the session, short, safe to log.
        owner: the session that it belongs to, weakly: a context lives as long as anything that was made in it, such as
            a connection of a pool, and would keep the session.
        session_id: that of the session.
        mailbox: the events that wait for it.
        callback: whose run it is, if it is one.
        handle: the `asyncio.Task` or `threading.Thread` that runs it.
        done: it has ended.
        cancelled: its `TaskHandle.cancel` was called.
        failed: an exception left it.
        error_id: names its failure in the log; None while there is none.
        met_close: its end was that its events had ended.
        name: the function that it runs, for people.
        refusals: what it was refused and asked for again; None while there is nothing.
    """

    __slots__ = (
        "callback",
        "cancelled",
        "done",
        "error_id",
        "failed",
        "handle",
        "id",
        "mailbox",
        "met_close",
        "name",
        "owner",
        "refusals",
        "session_id",
    )

    def __init__(self, task_id: str, owner: weakref.ref[AbstractSession], session_id: str, mailbox: Mailbox) -> None:
        self.id = task_id
        self.owner = owner
        self.session_id = session_id
        self.mailbox = mailbox
        self.callback: Callback | None = None
        self.handle: Any = None  # the kind of session knows which
        self.done = False
        self.cancelled = False
        self.failed = False
        self.error_id: str | None = None
        self.met_close = False
        self.name = ""
        self.refusals: Refusals | None = None

    @property
    def session(self) -> AbstractSession:
        """Where it belongs.

        Raises:
            SessionNotFoundException: the session has ended, and nobody has kept it.
        """
        session = self.owner()
        if session is None:
            raise SessionNotFoundException(f"session {self.session_id} has ended and is gone; this code outlives it")
        return session


class TaskHandle:
    """What `AbstractSession.run_task` returns: a task to look at and to cancel, from any thread."""

    __slots__ = ("_task",)

    def __init__(self, task: Task) -> None:
        self._task = task

    @property
    def id(self) -> str:
        """The task's id, for events that are for it."""
        return self._task.id

    def done(self) -> bool:
        """Tell whether it has ended."""
        return self._task.done

    def cancel(self) -> None:
        """Have `asyncio.CancelledError` raised in it: in a coroutine where it is, in a thread at its next call here."""
        if (session := self._task.owner()) is not None:
            session._cancel(self._task)


current_task: ContextVar[Task | None] = ContextVar("session_service_task", default=None)


def _leave_behind() -> None:
    task = current_task.get()
    if task is not None and (session := task.owner()) is not None:
        session.left_behind()  # its server may not know it yet, while it is opened
    current_task.set(None)


# A process that code of a session forks is outside: whatever it sent would be lost.
os.register_at_fork(after_in_child=_leave_behind)


def get_current_task() -> Task:
    task = current_task.get()
    if task is None:
        raise SessionNotFoundException(
            "no session here: this code runs outside every task of a session; a bare run_in_executor or"
            " threading.Thread copies no context, asyncio.to_thread and session.run_task do; another process has none"
        )
    return task


def get_current_session() -> AbstractSession:
    """Return the session that the running code belongs to.

    It holds in every asyncio task that a session's task makes, in `asyncio.to_thread`, in callbacks, deferred calls
    and whatever `run_task` started.

    Raises:
        SessionNotFoundException: the caller runs outside every task of a session, or has outlived its session.
    """
    return get_current_task().session


def get_current_task_id() -> str:
    """Return the id of the session's task that the running code belongs to.

    Raises:
        SessionNotFoundException: the caller runs outside every task of a session.
    """
    return get_current_task().id
