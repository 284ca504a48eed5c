"""A session's code at work: how tasks, runs of callbacks and hooks begin, and what their failures mean."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import CommandBufferFull, PayloadError, SessionClosedException
from ..lifecycle import AppMachine
from .backend import Backend
from .callbacks import Callback, Callbacks, Click
from .children import watch_children
from .commands import CommandBuffer
from .counts import ACTIVE
from .current import current_task
from .ending import Ending
from .gate import Gate
from .home import Home
from .hooks import Hooks
from .mailbox import Mailroom
from .options import SessionOptions
from .tasks import Owner, Task, TaskKind, Tasks

if TYPE_CHECKING:
    from .contract import AbstractSession
    from .kinds import Kind

__all__ = ["Extension", "Work"]

logger = logging.getLogger(__name__)

_CALLBACK_OPTIONS = frozenset(("serial_mode", "mutex_mode"))


class Extension(Protocol):
    """What a kind adds to each of its sessions."""

    def failed(self, session: AbstractSession, error: BaseException) -> None:
        """Hear of what has left a task, in the task, before it is reported."""


class Work:
    """The parts of a session, as its runner needs them.

    They know each other downwards only: `Session`, `Work`, `Gate`, `Ending`, and then the parts that hold something.

    Attributes:
        app: its state.
        home: where it lives.
        options: its limits.
        runner: what runs its code.
        tasks: what runs.
        mailroom: the events that wait.
        commands: the commands that wait.
        callbacks: what is registered.
        hooks: what hears of the client's coming and going.
        backend: who hands events in.
        ending: how it ends.
        gate: what it refuses.
        extension: what its kind adds.
    """

    __slots__ = (
        "app",
        "backend",
        "callbacks",
        "commands",
        "ending",
        "extension",
        "gate",
        "home",
        "hooks",
        "mailroom",
        "options",
        "runner",
        "tasks",
    )

    def __init__(
        self, owner: Owner, session_id: str, options: SessionOptions, home: Home, kind: Kind, backend: Backend
    ) -> None:
        self.app = app = AppMachine()
        self.home = home
        self.options = options
        self.runner = runner = kind.runner
        self.extension = kind.extension() if kind.extension is not None else None
        self.backend = backend
        self.commands = CommandBuffer(options.command_window, backend.commands_wait)
        self.mailroom = Mailroom(options.event_window, backend.room_is_free)
        self.tasks = Tasks(owner, session_id, app)
        self.callbacks = Callbacks(options.callback_runs or runner.callback_runs, self._start_run)
        self.hooks = Hooks(self.callbacks)
        self.ending = Ending(
            app,
            home,
            options,
            runner,
            tasks=self.tasks,
            mailroom=self.mailroom,
            commands=self.commands,
            callbacks=self.callbacks,
            hooks=self.hooks,
            backend=backend,
        )
        self.gate = Gate(self.ending)

    def begin(self, session: AbstractSession, target: Callable[[], Any]) -> None:
        """Start the main task, in the context of the session; from then on the session counts."""
        tasks = self.tasks
        watch_children(self.home.loop)
        ACTIVE.add(type(session), 1)
        try:
            # It is known as the main task before it runs in a thread.
            tasks.main = tasks.add(TaskKind.MAIN, target, tasks.context)
            self._start(tasks.main, target, (), tasks.context)
        except BaseException:
            ACTIVE.add(type(session), -1)
            self.ending.let_go()
            raise

    def start(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Task:
        """Start a task in a copy of the caller's context; from any thread."""
        context = contextvars.copy_context()
        task = self.tasks.add(TaskKind.TASK, func, context)
        self._start(task, func, args, context)
        return task

    def register(self, func: Callable[..., Any], options: Mapping[str, bool]) -> str:
        """Register code for an event; return its id. See `AbstractSession.register_callback`."""
        unknown = options.keys() - _CALLBACK_OPTIONS
        if unknown:
            raise TypeError(f"register_callback has no option {', '.join(sorted(unknown))}")
        self.runner.check(func, sync=True)
        if not self.gate.check_call(None):
            return self.tasks.next_callback_id()  # that of nothing
        serial, mutex = options.get("serial_mode", False), options.get("mutex_mode", False)
        entry = Callback(self.tasks.next_callback_id(), func, serial, mutex)
        with self.tasks.lock:
            self.gate.check_open(None)
            self.callbacks.registered[entry.id] = entry
        return entry.id

    def unregister(self, callback_id: str) -> None:
        """Forget it; KeyError where there is none of this id."""
        with self.tasks.lock:
            del self.callbacks.registered[callback_id]

    def drop(self, event: object, why: str) -> bool:
        """Drop an event that cannot be taken; it has been taken over nevertheless."""
        self.mailroom.dropped += 1
        name = event.get("task_id") if isinstance(event, Mapping) else type(event)
        logger.debug("session %s: dropped an event for %.80r, which %s", self.tasks.session_id, name, why)
        return True

    def click(self, click: Click, size: int) -> bool:
        """Take an event for a callback; return False where it would wait and the event window is full."""
        mailroom, callback = self.mailroom, click.callback
        if self.callbacks.needs_room(callback) and not mailroom.hold(size):
            return False
        stopwatch = mailroom.stopwatch
        if stopwatch is not None and stopwatch.item is None and not (callback.mutex and callback.active):
            stopwatch.start(click)
        self.callbacks.click(click)
        return True

    def failed(self, task: Task, error: BaseException) -> None:
        """Judge what left a task; called in the task, while the exception is being handled."""
        closed = self.app.state.closed
        if self._means_the_end(error) or (task.cancelled and isinstance(error, asyncio.CancelledError)):
            task.met_close = True
        elif not isinstance(error, asyncio.CancelledError) or (task.kind is TaskKind.MAIN and not closed):
            task.failed = True
            self.tasks.count_failure(task.kind.value)
            session = task.session
            if self.extension is not None:
                self.extension.failed(session, error)
            session.on_task_exception()
        # It parts from its frames, which may hold it: those of a TaskGroup did until Python 3.13.
        error.__traceback__ = None

    def report(self, session: AbstractSession) -> None:
        """Log the exception that is being handled, and tell the client; see `AbstractSession.on_task_exception`."""
        task = current_task.get() or self.tasks.main
        task.error_id = self.tasks.next_error_id()
        logger.exception(
            "session %s: task %s failed, error %s",
            *(session.id, task.id, task.error_id),
            extra={"error_id": task.error_id},
        )
        spec = {"id": task.error_id, "message": "the app failed; the log of the server says more under this id"}
        if self.options.debug:
            spec["traceback"] = traceback.format_exc()
        try:
            session.send_task_command({"command": "task_exception", "spec": spec})
        except (SessionClosedException, CommandBufferFull, PayloadError, asyncio.CancelledError) as error:
            logger.warning("session %s: error %s could not be told to the client: %s", session.id, task.error_id, error)

    def _start_run(self, click: Click) -> None:
        callback, stopwatch = click.callback, self.mailroom.stopwatch
        if stopwatch is not None and stopwatch.item is click:
            stopwatch.stop()
        context = self.tasks.context.copy()
        task = self.tasks.add(callback.kind, callback.func, context, f"{callback.id}-{callback.runs}")
        task.callback = callback
        try:
            self._start(task, callback.func, click.args, context)
        except RuntimeError:  # no more threads
            logger.exception("session %s: a run of %s could not start", task.session_id, callback.id)
            self.tasks.count_failure(callback.kind.value)
            self.home.loop.call_soon(self._run_failed, callback, task.session)

    def _run_failed(self, callback: Callback, session: object) -> None:
        self.ending.run_ended(callback)
        self.ending.end_if_quiet(session)

    def _start(self, task: Task, func: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context) -> None:
        try:
            self.runner.start(self, task, func, args, context, self.tasks.owner())
        except BaseException:
            self.tasks.remove(task)
            raise

    def _means_the_end(self, error: BaseException) -> bool:
        if not self.app.state.last_event:
            return False
        if isinstance(error, BaseExceptionGroup):
            _, rest = error.split((SessionClosedException, asyncio.CancelledError))
            return rest is None
        return isinstance(error, SessionClosedException)
