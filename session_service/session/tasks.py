"""The tasks of a session: what runs, and what has failed."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import threading
import weakref
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import SessionClosedException, SessionNotFoundException
from ..lifecycle import AppMachine
from .children import Children
from .current import current_task
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .callbacks import Callback
    from .contract import AbstractSession
    from .refusals import Refusals

__all__ = ["Owner", "Task", "TaskHandle", "TaskKind", "Tasks", "name_of"]

# A context lives as long as anything that was made in it, such as a connection of a pool, and would keep the session.
Owner = weakref.ref["AbstractSession"]

# Most sessions share it.
NO_FAILURES: Mapping[str, int] = MappingProxyType({})


class TaskKind(enum.Enum):
    """What a task runs; the value is what its id begins with, and what a failure is counted under."""

    MAIN = "main"
    TASK = "task"
    CALLBACK = "callback"
    HOOK = "hook"


class Task:
    """One running piece of user code.

    Attributes:
        id: unique in the session, short, safe to log.
        kind: what it runs.
        owner: the session that it belongs to, weakly.
        session_id: that of the session.
        mailbox: the events that wait for it.
        callback: whose run it is, if it is one.
        handle: the `asyncio.Task` or `threading.Thread` that runs it; its runner's.
        done: it has ended, or is waited for no more.
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
        "kind",
        "mailbox",
        "met_close",
        "name",
        "owner",
        "refusals",
        "session_id",
    )

    def __init__(self, kind: TaskKind, task_id: str, owner: Owner, session_id: str, mailbox: Mailbox) -> None:
        self.kind = kind
        self.id = task_id
        self.owner = owner
        self.session_id = session_id
        self.mailbox = mailbox
        self.callback: Callback | None = None
        self.handle: Any = None  # the runner knows what it is
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

    def end_of_events(self) -> BaseException:
        """Return what it gets where it waits for an event, and none will come."""
        if self.cancelled:
            return asyncio.CancelledError()
        session = self.owner()
        if session is None or session.closed():
            return SessionClosedException("the session is closed")
        return SessionClosedException(f"no more events will come for task {self.id}")


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
            session.work.ending.cancel(self._task)


class Tasks:
    """What runs in one session, and what has failed.

    Attributes:
        owner: the session, weakly.
        session_id: its id.
        running: by id, in the order of their starts.
        main: the first.
        children: the asyncio tasks that code of the session makes by asyncio itself; None where there is none.
        failures: how often code of the app has failed, by where: ``main``, ``task``, ``callback``, ``hook``,
            ``deferred``.
        context: what the main task runs in, and what runs of callbacks have a copy of.
        lock: guards ``running`` and ``failures``, and what else all threads of a session share: its state, what is
            registered, what is deferred. Held for moments; no other code runs under it.
    """

    __slots__ = (
        "_app",
        "_errors",
        "_numbers",
        "children",
        "context",
        "failures",
        "lock",
        "main",
        "owner",
        "running",
        "session_id",
    )

    main: Task

    def __init__(self, owner: Owner, session_id: str, app: AppMachine) -> None:
        self.owner = owner
        self.session_id = session_id
        self.running: dict[str, Task] = {}
        self.failures: Mapping[str, int] = NO_FAILURES
        self.context = contextvars.copy_context()
        self.lock = threading.Lock()
        self._app = app
        self._numbers = self._errors = 0
        self.children: Children | None = None  # most sessions have none

    def next_callback_id(self) -> str:
        """Return an id for a callback."""
        with self.lock:
            self._numbers += 1
            return f"{TaskKind.CALLBACK.value}-{self._numbers}"

    def next_error_id(self) -> str:
        """Return an id for a failure."""
        with self.lock:
            self._errors += 1
            return f"{self.session_id}-e{self._errors}"

    def add(
        self, kind: TaskKind, func: Callable[..., Any], context: contextvars.Context, task_id: str | None = None
    ) -> Task:
        """Note a task that is about to run ``func`` in ``context``; from then on events can come for it.

        Its id is ``task_id`` where that is given, else the next.
        """
        with self.lock:
            if task_id is None:
                self._numbers += 1
                task_id = f"{kind.value}-{self._numbers}"
            mailbox = Mailbox(ended=self._app.state.last_event)
            task = self.running[task_id] = Task(kind, task_id, self.owner, self.session_id, mailbox)
        task.name = name_of(func)
        context.run(current_task.set, task)
        return task

    def remove(self, task: Task) -> None:
        """Note that it runs no more."""
        with self.lock:
            del self.running[task.id]

    def all(self) -> list[Task]:
        """Return what runs now; from any thread."""
        with self.lock:
            return list(self.running.values())

    def count_failure(self, where: str) -> None:
        """Count one; from any thread."""
        with self.lock:
            self.failures = {**self.failures, where: self.failures.get(where, 0) + 1}

    def adopt(self, child: asyncio.Future[Any]) -> None:
        """Note an asyncio task that was made in a context of this session; on the loop's thread."""
        if self.children is None:
            self.children = Children()
        self.children.add(child)


def name_of(func: Callable[..., Any]) -> str:
    """Return the name of a function of the app, for people."""
    return str(getattr(func, "__qualname__", None) or type(func).__qualname__)
