"""Which task of which session the running code belongs to."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ..errors import SessionNotFoundException

if TYPE_CHECKING:
    from .contract import AbstractSession
    from .tasks import Owner, Task

__all__ = ["current_task", "get_current_session", "get_current_task", "get_current_task_id", "get_own_task"]

current_task: ContextVar[Task | None] = ContextVar("session_service_task", default=None)


def _leave_behind() -> None:
    task = current_task.get()
    if task is not None and (session := task.owner()) is not None:
        session.left_behind()  # its server may not know it yet, while it is opened
    current_task.set(None)


# A process that code of a session forks is outside: whatever it sent would be lost.
os.register_at_fork(after_in_child=_leave_behind)


def get_current_task() -> Task:
    """Return the task that the running code belongs to.

    Raises:
        SessionNotFoundException: the caller runs outside every task of a session.
    """
    task = current_task.get()
    if task is None:
        raise SessionNotFoundException(
            "no session here: this code runs outside every task of a session; a bare run_in_executor or"
            " threading.Thread copies no context, asyncio.to_thread and session.run_task do; another process has none"
        )
    return task


def get_own_task(owner: Owner, session_id: str) -> Task:
    """Return the task that the running code belongs to, where that is one of this session.

    Raises:
        SessionNotFoundException: it is not.
    """
    task = get_current_task()
    if task.owner is not owner:
        raise SessionNotFoundException(f"task {task.id} belongs to session {task.session_id}, not to {session_id}")
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
