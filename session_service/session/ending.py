"""How tasks end, and how a session does: interrupt, grace, deferred calls, report."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import TYPE_CHECKING

from ..errors import SessionClosedException
from ..lifecycle import Act, AppInput, AppMachine, CloseReason
from .backend import Backend
from .callbacks import Callback, Callbacks, ignore
from .children import report_outliving
from .commands import CommandBuffer
from .counts import ACTIVE
from .home import Home
from .hooks import Hooks
from .mailbox import Mailroom
from .options import SessionOptions
from .runner import Deferred, Runner
from .tasks import Task, TaskKind, Tasks

if TYPE_CHECKING:
    from .contract import AbstractSession

__all__ = ["Ending"]

logger = logging.getLogger(__name__)

# How long a task of which only a child waited for events, and a child of which nobody waits, may take to notice the end
# by itself.
CHILD_NOTICE = 0.1


class Ending:
    """Gives the machine of the app its inputs, and does what it says.

    It knows its session weakly, as all parts do. What is called in a turn to come, and may end it, is handed the
    session, only to hold it until then.

    Attributes:
        app: the machine. It is stepped under the lock of ``tasks``.
        home: where the session lives.
        options: its limits.
        runner: what runs its code.
        tasks: what runs.
        abandoned: how many tasks had not unwound when the close grace was over, or were given up.
    """

    __slots__ = (
        "_backend",
        "_callbacks",
        "_commands",
        "_deferred",
        "_hooks",
        "_mailroom",
        "_task",
        "_unwound",
        "abandoned",
        "app",
        "home",
        "options",
        "runner",
        "tasks",
    )

    def __init__(
        self,
        app: AppMachine,
        home: Home,
        options: SessionOptions,
        runner: Runner,
        *,
        tasks: Tasks,
        mailroom: Mailroom,
        commands: CommandBuffer,
        callbacks: Callbacks,
        hooks: Hooks,
        backend: Backend,
    ) -> None:
        self.app = app
        self.abandoned = 0
        self.home = home
        self.options = options
        self.runner = runner
        self.tasks = tasks
        self._mailroom = mailroom
        self._commands = commands
        self._callbacks = callbacks
        self._hooks = hooks
        self._backend = backend
        self._deferred: list[Deferred] = []
        self._unwound: asyncio.Future[None] | None = None  # waits for the last task
        self._task: asyncio.Task[None] | None = None  # unwinds

    # --- what begins it -----------------------------------------------------------------------------------------------

    def close(self, reason: CloseReason, message: str) -> None:
        """End it; from any thread."""
        self._step(AppInput.CLOSE, reason=reason, message=message)

    def end_events(self, session: object, reason: CloseReason, message: str) -> None:
        """Let it end when what is here has been taken; on the loop's thread."""
        with self.tasks.lock:
            act = self.app.step(AppInput.END_EVENTS, reason=reason, message=message)
            tasks = list(self.tasks.running.values()) if act is Act.END_MAILBOXES else []
        for task in tasks:
            self._mailroom.end(task.mailbox)
        self.end_if_quiet(session)

    def end_if_quiet(self, _: object) -> None:
        """End it, or go on with its end, if nothing runs; on the loop's thread."""
        if self.tasks.running or not self._callbacks.idle:
            return
        if self._unwound is not None:
            if not self._unwound.done():
                self._unwound.set_result(None)
        elif not self._callbacks.registered or self.app.state.last_event:
            self._step(AppInput.QUIET, met_end=self.tasks.main.met_close)

    def _step(
        self,
        given: AppInput,
        *,
        reason: CloseReason = CloseReason.SERVER,
        message: str = "",
        met_end: bool = False,
    ) -> None:
        with self.tasks.lock:
            act = self.app.step(given, reason=reason, message=message, met_end=met_end)
        if act is Act.UNWIND:
            self.home.call(self._unwind, self.tasks.owner())

    # --- tasks --------------------------------------------------------------------------------------------------------

    def finish(self, task: Task, session: object) -> None:
        """Note that a task of ``session`` has ended, on the loop's thread; again does nothing."""
        if task.done:  # it was given up
            return
        task.done = True
        self.tasks.remove(task)
        self._mailroom.close(task.mailbox)
        if task.failed and task.kind is TaskKind.MAIN:
            self._step(AppInput.MAIN_FAILED, message=f"the app failed, error {task.error_id}")
        if task.callback is not None:
            self.run_ended(task.callback)
        self.end_if_quiet(session)

    def run_ended(self, callback: Callback) -> None:
        """Let those run that have waited for the end of a run."""
        started = self._callbacks.run_ended(callback)
        self._mailroom.release([click.size for click in started if click.size is not None])

    def cancel(self, task: Task) -> None:
        """Have a task end; from any thread."""
        task.cancelled = True
        self.home.call(self._cancel, task)

    def _cancel(self, task: Task) -> None:
        if not task.done:
            self.runner.interrupt(task)
            self._mailroom.close(task.mailbox)
            self._commands.wake()

    def give_up(self, task: Task) -> None:
        """Wait no more for a task that neither its end nor a cancellation has ended; on the loop's thread."""
        if not task.done:
            logger.info(
                "session %s: task %s does not heed that it was cancelled: it is given up", task.session_id, task.id
            )
            self.abandoned += 1
            task.met_close = True
            self.finish(task, self.tasks.owner())

    # --- deferred calls -----------------------------------------------------------------------------------------------

    def defer(self, func: Deferred) -> None:
        """Have a call made once all tasks have unwound; from any thread.

        Raises:
            SessionClosedException: it is too late.
        """
        with self.tasks.lock:
            if self.app.state.ended:
                raise SessionClosedException("the session has ended: nothing can be deferred any more")
            self._deferred.append(func)

    def _next_deferred(self) -> Deferred | None:
        """Return the next call to make, those registered meanwhile as well; after the last one it has ended."""
        with self.tasks.lock:
            if self._deferred:
                return self._deferred.pop(0)
            self.app.step(AppInput.NO_CALL_LEFT)
            return None

    # --- unwinding ----------------------------------------------------------------------------------------------------

    def _unwind(self, session: AbstractSession | None) -> None:
        assert session is not None
        self._callbacks.stop()
        late: list[tuple[Task, object]] = []
        senders = {waiter.owner for waiter in self._commands.wake() if not waiter.cancelled}
        for task in list(self.tasks.running.values()):
            waiters = {waiter.owner for waiter in task.mailbox.waiters if not waiter.cancelled}
            self._mailroom.close(task.mailbox)
            if id(task.handle) in waiters | senders:
                continue  # it has been woken, and meets SessionClosedException
            if waiters:
                late.append((task, self.runner.awaited(task)))  # most likely it will meet what its child met
            else:
                self.runner.interrupt(task)
        self._task = self.home.loop.create_task(self._end(session, late), context=contextvars.Context())

    async def _end(self, session: AbstractSession, late: list[tuple[Task, object]]) -> None:
        grace = self.options.close_grace
        over = self.home.loop.time() + grace
        if late:
            await self._wait_unwound(min(CHILD_NOTICE, grace))
            for task, awaited in late:
                if not task.done and self.runner.awaited(task) is awaited:
                    self.runner.interrupt(task)
        await self._wait_unwound(over - self.home.loop.time())
        self._step(AppInput.UNWOUND)
        for task in list(self.tasks.running.values()):
            self.abandoned += 1
            where = self.runner.where(task)
            logger.warning("session %s: task %s has not unwound:\n%s", session.id, task.id, where)
            self.runner.interrupt(task)
        while (func := self._next_deferred()) is not None:
            error = await self.runner.defer(session.work, func, self.tasks.context.copy())
            if error is not None:
                logger.error("session %s: deferred call %r failed", session.id, func, exc_info=error)
                self.tasks.count_failure("deferred")
        ACTIVE.add(type(session), -1)
        if self.tasks.children:
            self.home.loop.call_later(CHILD_NOTICE, report_outliving, session.id, self.tasks.children)
        self._backend.session_ended()
        self.let_go()

    async def _wait_unwound(self, seconds: float) -> None:
        if self.tasks.running:
            try:
                async with asyncio.timeout(seconds):
                    self._unwound = self.home.loop.create_future()
                    await self._unwound
            except TimeoutError:
                pass

    def let_go(self) -> None:
        """Drop what leads back to the session: code of the app and of the backend, and what tells this from below.

        So a session is freed with the last reference to it, as soon as it has ended and is forgotten. What it holds may
        be megabytes, and the garbage collector is in no hurry.
        """
        self._backend.drop()
        self._commands.on_first = self._mailroom.on_room = ignore
        self._mailroom.stopwatch = None
        self._callbacks.stop()
        self._callbacks.registered.clear()
        self._hooks.drop()
        self.tasks.context = contextvars.Context()
