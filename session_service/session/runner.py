"""How a session runs code of the app; `CoroutineRunner` and `ThreadRunner` are the two ways that there are."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import SessionException
from .mailbox import ClientEvent, Mailbox
from .tasks import Task
from .waiter import ThreadWaiter

if TYPE_CHECKING:
    from .work import Work

__all__ = ["Deferred", "Runner", "drain_in_thread", "next_event_in_thread"]

Deferred = Callable[[], Any]


class Runner(Protocol):
    """A way of running code. It holds nothing of a session: one object serves all.

    Attributes:
        callback_runs: how many runs of callbacks there may be at once, where the options do not say.
    """

    callback_runs: int

    def check(self, func: Callable[..., Any], *, sync: bool = False, coroutine: bool = False) -> None:
        """Raise TypeError where it cannot run ``func``; ``sync`` and ``coroutine`` allow the other form, too."""

    def start(
        self,
        work: Work,
        task: Task,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        context: contextvars.Context,
        session: object,
    ) -> None:
        """Run a task in ``context``, within ``work.backend.around``; set its handle.

        `Work.failed` is called in the task with what leaves it, and `Ending.finish` on the loop once it has ended.
        ``session`` is held until then: code that runs keeps its session, of which the parts know nothing but that.

        Raises:
            RuntimeError: it cannot be started, for there are no more threads.
        """

    def interrupt(self, task: Task) -> None:
        """Make a task notice that it shall end; on the loop's thread."""

    def awaited(self, task: Task) -> object:
        """Return something that changes whenever the task moves on."""

    def where(self, task: Task) -> str:
        """Return where the task is now, for people."""

    def next_event(self, work: Work, task: Task, timeout: float | None) -> Any:
        """Wait for the next event of a task: what `AbstractSession.next_client_event` returns."""

    def refuse(self, work: Work, error: SessionException) -> Any:
        """Raise ``error``, as a wait does."""

    def drain(self, work: Work) -> Any:
        """Wait for room: what `AbstractSession.drain` returns."""

    async def defer(self, work: Work, func: Deferred, context: contextvars.Context) -> BaseException | None:
        """Make a deferred call; return what it raised, a TimeoutError when its time is over."""


def next_event_in_thread(
    work: Work,
    task: Task,
    timeout: float | None,
    wait: Callable[[Mailbox, float | None], ClientEvent | None] | None = None,
) -> ClientEvent:
    """Block for the next event of a task; ``wait`` in place of `Mailroom.next_in_thread`."""
    mailbox, gate = task.mailbox, work.gate
    if mailbox.ended and mailbox.over:
        time.sleep(gate.refuse(task))
    event = (wait or work.mailroom.next_in_thread)(mailbox, timeout)
    if event is None:
        raise task.end_of_events()
    return event


def drain_in_thread(work: Work, task: Task | None) -> None:
    """Block until there is room for commands."""
    gate, commands = work.gate, work.commands
    if work.app.state.closed or (task is not None and task.cancelled):
        time.sleep(gate.refuse(task))
    gate.check_open(task)
    while (waiter := commands.wait_room(ThreadWaiter)) is not None:
        gate.check_open(task)
        waiter.wait()
        gate.check_open(task)
