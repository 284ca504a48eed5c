"""The contract of a session, and everything that its two kinds share.

Theory of operation. A session is the bridge between a *backend*, which hands events in and takes commands out, and the
*tasks* that run the app's code. It lives on one event loop:

- All bookkeeping of tasks, callbacks and the session's end happens on the loop's thread; other threads get there by
  `_on_loop`.
- What tasks in threads touch themselves has a lock of its own: the `CommandBuffer`, the `Mailroom`, and here what is
  registered and whether the session is closed. No user code and no hook is ever called under a lock.
- Every end is `close`, whether a task, the client, a time limit or the last task's return brings it about; the first
  one decides the reason. `_begin_close` interrupts the tasks, and `_end` waits for them, makes the deferred calls and
  reports.
"""

from __future__ import annotations

import abc
import asyncio
import contextvars
import itertools
import logging
import secrets
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from .. import payload
from ..errors import CommandBufferFull, PayloadError, SessionClosedException, SessionNotFoundException
from ..lifecycle import CloseReason
from .callbacks import Callback, Callbacks, Click, ignore
from .children import Children, report_outliving, watch_children
from .commands import CommandBuffer
from .context import Task, TaskHandle, current_task, get_current_session, get_current_task, get_current_task_id
from .deferred import Deferred, DeferredCalls
from .hooks import HOOKS_ID, Hooks
from .info import SessionInfo
from .mailbox import ClientEvent, Mail, Mailbox, Mailroom
from .options import SessionOptions
from .principal import ANONYMOUS, Principal
from .refusals import Refusals
from .snapshot import CallbackSnapshot, SessionSnapshot, TaskSnapshot
from .stopwatch import Stopwatch
from .waiter import LoopWaiter, ThreadWaiter

__all__ = ["AbstractSession", "Encode", "SessionHook"]

logger = logging.getLogger(__name__)

Encode = Callable[[str, str, Any], tuple[Any, int]]
SessionHook = Callable[["AbstractSession"], object]
F = TypeVar("F", bound=Callable[..., Any])

_COMMAND_KEYS = frozenset(("command", "spec", "task_id"))

# How long a task of which only a child waited for events, and a child of which nobody waits, may take to notice the end
# by itself.
CHILD_NOTICE = 0.1

# Most sessions share these.
NO_FAILURES: Mapping[str, int] = MappingProxyType({})
NO_PARAMS: Mapping[str, Any] = MappingProxyType({})
NOTHING: AbstractContextManager[None] = nullcontext()


class AbstractSession(abc.ABC):
    """One run of an app for one client; the names are those of PyWebIO's ``AbstractSession``.

    Attributes:
        id: public, safe to log.
        info: what is known of the client; read again at each attach.
        params: what the client opened the session with.
        options: its limits.
        principal: who opened it; at each attach with the claims of that call.
        close_reason: why it ended; None before `close`.
        close_message: what to tell the client about that.
        dropped: how many events were for a task that does not exist.
        abandoned: how many tasks had not unwound when the close grace was over.
        ended: everything has run, and ``on_session_close`` is due: no command will follow.
        failures: how often code of the app has failed, by where: ``main``, ``task``, ``callback``, ``hook``,
            ``deferred``.
    """

    _counts: ClassVar[Counter[type[AbstractSession]]] = Counter()
    _counts_lock: ClassVar[threading.Lock] = threading.Lock()
    _default_callback_runs: ClassVar[int]

    __slots__ = (
        "__dict__",  # made when somebody sets another attribute
        "__weakref__",
        "_around_task",
        "_callbacks",
        "_children",
        "_closed",
        "_commands",
        "_context",
        "_deferred",
        "_encode",
        "_ending",
        "_errors",
        "_events_end",
        "_events_ended",
        "_hooks",
        "_ids",
        "_lock",
        "_loop",
        "_mailroom",
        "_main",
        "_on_event_room",
        "_on_session_close",
        "_on_task_command",
        "_ref",
        "_registered",
        "_tasks",
        "_thread",
        "_unwound",
        "abandoned",
        "close_message",
        "close_reason",
        "dropped",
        "ended",
        "failures",
        "id",
        "info",
        "options",
        "params",
        "principal",
    )

    get_current_session = staticmethod(get_current_session)
    get_current_task_id = staticmethod(get_current_task_id)

    def __init__(
        self,
        target: Callable[[], Any],
        session_info: SessionInfo | None = None,
        on_task_command: SessionHook | None = None,
        on_session_close: SessionHook | None = None,
        on_event_room: SessionHook | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        session_id: str | None = None,
        encode: Encode = payload.copy_command,
        options: SessionOptions | None = None,
        principal: Principal = ANONYMOUS,
        around: Callable[[Task], AbstractContextManager[object]] | None = None,
    ) -> None:
        """Start the session: its main task runs ``target``, in a context of its own.

        Args:
            target: the app, called without arguments.
            session_info: what is known of the client.
            on_task_command: called on the loop when commands appear after there were none.
            on_session_close: called on the loop exactly once, when the session has ended, however it ended.
            on_event_room: called on the loop once for each False of `send_client_event`, when half of the event window
                is free again.
            params: what the client opened the session with.
            session_id: the public id; a random one by default.
            encode: takes a command's name, task id and spec as they stand at the call, and returns what
                `get_task_commands` will hand out and its size in bytes; raises `PayloadError`.
            options: the limits.
            principal: who opens it.
            around: what each task runs in, entered and left in the task, its failure being known by then; None for
                nothing.

        Raises:
            RuntimeError: there is no running event loop.
            TypeError: ``target`` is of the other kind.
        """
        self._ref = weakref.ref(self)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._check_callable(target)
        self.id = session_id or secrets.token_hex(8)
        self.info = session_info or SessionInfo()
        self.params: Mapping[str, Any] = MappingProxyType(dict(params)) if params else NO_PARAMS
        self.options = options or SessionOptions()
        self.principal = principal
        self.close_reason: CloseReason | None = None
        self.close_message = ""
        self.dropped = 0
        self.abandoned = 0
        self.ended = False
        self.failures: Mapping[str, int] = NO_FAILURES

        self._on_task_command = on_task_command
        self._on_session_close = on_session_close
        self._on_event_room = on_event_room
        self._encode = encode
        self._around_task = around
        self._ids = itertools.count(1)
        self._errors = itertools.count(1)

        self._lock = threading.Lock()
        self._commands = CommandBuffer(self.options.command_window, self._on_first_command)
        self._mailroom = Mailroom(self.options.event_window, self._on_mail_room)
        self._tasks: dict[str, Task] = {}
        self._registered: dict[str, Callback] = {}
        self._callbacks = Callbacks(self.options.callback_runs or self._default_callback_runs, self._start_run)
        self._hooks = Hooks(self._callbacks)
        self._deferred = DeferredCalls(self._lock)
        self._events_ended = False
        self._events_end = CloseReason.CLIENT, ""  # why the session ends if the end of events does it
        self._closed = False
        self._children: Children | None = None  # most sessions have none
        self._unwound: asyncio.Future[None] | None = None  # waits for the last task
        self._ending: asyncio.Task[None] | None = None

        self._context = contextvars.copy_context()
        watch_children(self._loop)
        self._count(1)
        try:
            self._main = self._new_task(f"main-{next(self._ids)}", self._context)  # known before it runs in a thread
            self._start_task(self._main, target, (), self._context)
        except BaseException:
            self._count(-1)
            self._let_go()
            raise

    # --- for both sides -----------------------------------------------------------------------------------------------

    @classmethod
    def active_session_count(cls) -> int:
        """Return how many sessions of this class have started and not ended; `AbstractSession` counts every kind."""
        with cls._counts_lock:
            return sum(count for kind, count in cls._counts.items() if issubclass(kind, cls))

    def closed(self) -> bool:
        """Tell whether `close` has begun, however the end came about."""
        return self._closed

    def close(self, *, reason: CloseReason = CloseReason.SERVER, message: str = "") -> None:
        """End the session; return at once, the ending goes on behind.

        From any thread, any task of the session itself, a callback or a deferred call, and more than once. Code that
        waits in `next_client_event` or `drain` gets `SessionClosedException`, any other coroutine task
        `asyncio.CancelledError`; threads meet the exception at their next call of the session. They have
        ``options.close_grace`` seconds to unwind; then come the deferred calls, then ``on_session_close``.

        Args:
            reason: only the first call's counts.
            message: for the client.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.close_reason = reason
            self.close_message = message
        self._on_loop(self._begin_close)

    # --- for the backend ----------------------------------------------------------------------------------------------

    def send_client_event(self, event: Mapping[str, Any], size: int = 0) -> bool:
        """Hand in an event; on the loop's thread. Never blocks, never raises for what a client sent.

        Args:
            event: ``{"event", "task_id", "data"}``. Without a task id it is for the main task; ``callback`` with the
                id of a registered callback runs that.
            size: its encoded size in bytes, which counts against the event window.

        Returns:
            True when it has been taken over, or dropped since no such task exists (any more). False while the event
            window is full: keep it and offer it again at ``on_event_room``.
        """
        try:
            name = event["event"]
            task_id = event.get("task_id") or self._main.id
            data = event.get("data")
            callback = self._registered.get(task_id) if name == "callback" else None
            task = self._tasks.get(task_id)
        except (AttributeError, KeyError, TypeError):
            return self._drop(event, "is no event")
        if self._closed or self._events_ended:
            return self._drop(event, "came after the last one")
        if callback is not None:
            return self._click(Click(callback, (data,), size), size)
        if task is None:
            return self._drop(event, "is for no task of this session")
        return self._mailroom.put(task.mailbox, Mail({"event": name, "task_id": task_id, "data": data}, size))

    def end_events(self, *, reason: CloseReason = CloseReason.CLIENT, message: str = "") -> None:
        """Tell the session that no more events will come (protocol E1). From any thread.

        Mailboxes are emptied as usual; then waiting raises `SessionClosedException`, and registered callbacks no longer
        keep the session open.

        Args:
            reason: why it will have ended if the app was still waiting for events; only the first call's counts.
            message: for the client, and so is that.
        """
        self._on_loop(self._end_events, reason, message)

    def get_task_commands(self, messages: int | None = None, size: int | None = None) -> list[Any]:
        """Take pending commands, in order, each once; also after `close`, so that the last ones get out.

        Args:
            messages: the most to take.
            size: the most bytes to take together; a first one that is larger comes alone.

        Returns:
            What ``encode`` made of them: by default dicts ``{"command", "task_id", "spec"}``.
        """
        return self._commands.take(messages, size)

    @property
    def pending_commands(self) -> int:
        """How many commands `get_task_commands` would return."""
        return len(self._commands)

    @property
    def event_stalls(self) -> int:
        """How often the event window was full when an event came."""
        return self._mailroom.stalls

    def time_events(self, stopwatch: Stopwatch) -> None:
        """Have it time how long events wait for their tasks; it may be stopped in any thread."""
        self._mailroom.stopwatch = stopwatch

    def snapshot(self, *, most: int, stacks: bool = False) -> SessionSnapshot:
        """Return what it is doing; on the loop's thread.

        Args:
            most: how many tasks, and how many callbacks, to look at.
            stacks: look also where the tasks are.
        """
        with self._lock:
            tasks, callbacks = list(self._tasks.values()), list(self._registered.values())
        events, event_bytes = self._mailroom.held
        commands, command_bytes = self._commands.held
        return SessionSnapshot(
            tasks=tuple(
                TaskSnapshot(
                    id=task.id,
                    name=task.name,
                    waiting=bool(task.mailbox.waiters),
                    pending=len(task.mailbox.events),
                    stack=self._stack(task) if stacks and task.handle is not None else "",
                )
                for task in tasks[:most]
            ),
            task_count=len(tasks),
            callbacks=tuple(
                CallbackSnapshot(
                    id=callback.id,
                    name=_name(callback.func),
                    runs=callback.runs,
                    running=callback.active,
                    waiting=len(callback.line),
                )
                for callback in callbacks[:most]
            ),
            callback_count=len(callbacks),
            events=events,
            event_bytes=event_bytes,
            commands=commands,
            command_bytes=command_bytes,
        )

    def notify_attach(self, resumed: bool) -> None:
        """Tell the session that a client is attached; on the loop's thread."""
        self._hooks.attached(self, resumed)

    def notify_detach(self) -> None:
        """Tell the session that no client is attached any more; on the loop's thread."""
        self._hooks.detached(self)

    def left_behind(self) -> None:
        """Note that this is a copy in a forked process, which nobody hears; calls meet `SessionClosedException`."""
        self._closed = True

    # --- for tasks ----------------------------------------------------------------------------------------------------

    def send_task_command(self, command: Mapping[str, Any]) -> None:
        """Send a command to the client. Nothing is ever dropped, and the order of calls is the order of commands.

        A thread blocks while the buffer is full. On the loop's thread sending goes on for 8 windows: a coroutine that
        sends much awaits `drain` now and then.

        Args:
            command: ``{"command", "spec", "task_id"?}``. The spec is a JSON value, ``bytes`` or a protobuf message,
                and is taken as it stands at the call. The task id is by default the current task's, or the main
                task's.

        Raises:
            SessionClosedException: `close` has begun; deferred calls and ``finally`` blocks meet it too.
            PayloadError: the spec cannot be carried exactly; its ``path`` says where. The session goes on.
            CommandBufferFull: on the loop's thread, 8 windows are pending.
            ValueError: this is no command.
        """
        name = command.get("command")
        if not isinstance(name, str) or not _COMMAND_KEYS.issuperset(command):
            raise ValueError(f'a command is a dict of "command" (text), "spec" and "task_id", not {sorted(command)}')
        task = current_task.get()
        if task is not None and task.owner is not self._ref:
            task = None
        if self._closed or (task is not None and task.cancelled):
            self._check_call(task)
        task_id = command.get("task_id") or (task or self._main).id
        item, size = self._encode(name, task_id, command.get("spec"))
        if threading.get_ident() == self._thread:
            self._commands.put_nowait(item, size)
            return
        while (waiter := self._commands.put(item, size)) is not None:
            # A close that came before the waiter joined woke nobody: look again first.
            self._check_open(task)
            waiter.wait()
            self._check_open(task)

    @abc.abstractmethod
    def next_client_event(self, timeout: float | None = None) -> Any:
        """Wait for the next event of the current task, in order; a `ClientEvent`.

        Awaited in a coroutine, blocking in a thread, whatever the kind of the session. Events that come while the task
        does something else wait for it. A wait that is cancelled or times out takes no event, and those of one task who
        wait at once are served in the order of waiting.

        Args:
            timeout: seconds to wait at most; None for no limit.

        Raises:
            TimeoutError: none came in time, and none was taken.
            SessionClosedException: the session is closed, or its events have ended and all were taken.
            SessionNotFoundException: the caller is no task of this session.
        """

    @abc.abstractmethod
    def drain(self) -> Any:
        """Wait until the command buffer has room, as `asyncio.StreamWriter.drain` does; awaited or blocking.

        Raises:
            SessionClosedException: the session is closed.
        """

    def register_callback(self, callback: Callable[[Any], Any], **options: bool) -> str:
        """Register code for an event; return its id, which a client sends as the ``task_id`` of a ``callback`` event.

        Each run gets the event's data and is a task of its own. Runs are concurrent unless told otherwise; one that
        raises is reported and leaves the callback registered. From any thread.

        Args:
            callback: a function; in a coroutine session also an ``async def``.
            **options: ``serial_mode``: one run after the other, in order. ``mutex_mode``: an event that comes while it
                runs is ignored.

        Raises:
            TypeError: an unknown option, or a callback that this kind of session cannot run.
            SessionClosedException: the session is closed.
        """
        unknown = options.keys() - {"serial_mode", "mutex_mode"}
        if unknown:
            raise TypeError(f"register_callback has no option {', '.join(sorted(unknown))}")
        self._check_callable(callback, sync=True)
        serial, mutex = options.get("serial_mode", False), options.get("mutex_mode", False)
        self._check_call(None)
        entry = Callback(f"callback-{next(self._ids)}", callback, serial, mutex)
        with self._lock:
            self._check_open(None)
            self._registered[entry.id] = entry
        return entry.id

    def unregister_callback(self, callback_id: str) -> None:
        """Forget a callback; runs that have begun, and clicks taken over, go on. From any thread.

        Raises:
            KeyError: there is none of this id.
        """
        with self._lock:
            del self._registered[callback_id]
        self._on_loop(self._end_if_done)

    def defer_call(self, func: F) -> F:
        """Have ``func`` called when the session ends, after all tasks have unwound; return it, to serve as a decorator.

        Deferred calls run in the order of registration, each exactly once, sync or ``async def``, each within
        ``options.deferred_timeout`` seconds. One that raises is logged and the rest run. From any thread.

        Raises:
            SessionClosedException: the session has ended.
        """
        self._check_callable(func, sync=True, coroutine=True)
        self._deferred.add(func)
        return func

    def run_task(self, func: Callable[..., Any], *args: Any) -> TaskHandle:
        """Run ``func(*args)`` as a task of its own, with its own id and mailbox. From any thread.

        The session waits for it before it ends by itself, and interrupts it at `close`. An exception that leaves it is
        reported, and the session goes on.

        Raises:
            TypeError: this kind of session cannot run ``func``.
            SessionClosedException: the session is closed.
        """
        self._check_callable(func)
        self._check_call(None)
        return TaskHandle(self._spawn(f"task-{next(self._ids)}", func, args, contextvars.copy_context()))

    def on_attach(self, hook: F) -> F:
        """Call ``hook(session, resumed)`` when a client attaches, and now if one is; usable as a decorator.

        Hooks of a session run one after the other, never two at once, as tasks of their own. From any thread.
        """
        self._check_callable(hook, sync=True)
        self._on_loop(self._hooks.add_attach, hook)
        return hook

    def on_detach(self, hook: F) -> F:
        """Call ``hook(session)`` when the client's stream is lost; otherwise like `on_attach`."""
        self._check_callable(hook, sync=True)
        self._on_loop(self._hooks.add_detach, hook)
        return hook

    def on_task_exception(self) -> None:
        """Report the exception being handled; called in the task that failed.

        The log gets it whole, with the session's id, the task's and an error id. The client gets the reserved command
        ``task_exception`` with ``{"id", "message"}``, and the traceback only in debug mode.
        """
        task = current_task.get() or self._main
        task.error_id = f"{self.id}-e{next(self._errors)}"
        logger.exception(
            "session %s: task %s failed, error %s", self.id, task.id, task.error_id, extra={"error_id": task.error_id}
        )
        spec = {"id": task.error_id, "message": "the app failed; the log of the server says more under this id"}
        if self.options.debug:
            spec["traceback"] = traceback.format_exc()
        try:
            self.send_task_command({"command": "task_exception", "spec": spec})
        except (SessionClosedException, CommandBufferFull, PayloadError, asyncio.CancelledError) as error:
            logger.warning("session %s: error %s could not be told to the client: %s", self.id, task.error_id, error)

    # --- what a kind of session decides -------------------------------------------------------------------------------

    @abc.abstractmethod
    def _check_callable(self, func: Callable[..., Any], *, sync: bool = False, coroutine: bool = False) -> None:
        """Raise TypeError where this kind cannot run ``func``; ``sync`` and ``coroutine`` allow the other form, too."""

    @abc.abstractmethod
    def _start(self, task: Task, func: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context) -> None:
        """Run the task in ``context``, set its handle, and see to it that `_task_ended` is called on the loop."""

    @abc.abstractmethod
    def _interrupt(self, task: Task) -> None:
        """Make a task notice that it shall end; on the loop's thread."""

    @abc.abstractmethod
    def _awaited(self, task: Task) -> object:
        """Return something that changes whenever the task moves on."""

    @abc.abstractmethod
    def _stack(self, task: Task) -> str:
        """Return where the task is now, for people."""

    @abc.abstractmethod
    async def _call_deferred(self, func: Deferred, context: contextvars.Context) -> BaseException | None:
        """Make a deferred call; return what it raised, a TimeoutError when its time is over."""

    # --- waiting ------------------------------------------------------------------------------------------------------

    @property
    def _in_loop_thread(self) -> bool:
        return threading.get_ident() == self._thread

    def _own_task(self) -> Task:
        task = get_current_task()
        if task.owner is not self._ref:
            raise SessionNotFoundException(f"task {task.id} belongs to session {task.session_id}, not to {self.id}")
        return task

    async def _next_event_on_loop(self, task: Task) -> ClientEvent:
        if task.mailbox.ended and task.mailbox.over:
            await self._refuse_on_loop(task)
        return self._taken(task, await self._mailroom.next_on_loop(task.mailbox))

    def _next_event_in_thread(self, task: Task, timeout: float | None = None) -> ClientEvent:
        if task.mailbox.ended and task.mailbox.over:
            time.sleep(self._refuse(task))
        return self._taken(task, self._mailroom.next_in_thread(task.mailbox, timeout))

    def _taken(self, task: Task, event: ClientEvent | None) -> ClientEvent:
        if event is None and task.cancelled:
            raise asyncio.CancelledError
        if event is None:
            raise SessionClosedException(
                "the session is closed" if self._closed else f"no more events will come for task {task.id}"
            )
        return event

    async def _drain_on_loop(self) -> None:
        if self._commands.has_room and not self._closed:
            return
        task = current_task.get()
        if self._closed:
            await self._refuse_on_loop(task)
        self._check_open(task)
        while (waiter := self._commands.wait_room(LoopWaiter)) is not None:
            try:
                await waiter.future
            finally:
                self._commands.leave(waiter)
            self._check_open(task)

    def _drain_in_thread(self) -> None:
        task = current_task.get()
        if self._closed or (task is not None and task.cancelled):
            time.sleep(self._refuse(task))
        self._check_open(task)
        while (waiter := self._commands.wait_room(ThreadWaiter)) is not None:
            self._check_open(task)
            waiter.wait()
            self._check_open(task)

    def _check_open(self, task: Task | None) -> None:
        if (
            task is not None
            and task.cancelled
            and task.owner is self._ref
            and (self._closed or not self._in_loop_thread)
        ):
            raise asyncio.CancelledError
        if self._closed:
            raise SessionClosedException("the session is closed")

    # --- what is over -------------------------------------------------------------------------------------------------
    #
    # A loop of an app that catches each exception and asks again must stop nobody else. So a wait suspends before it
    # raises, as asyncio.StreamWriter.drain does on a closing transport, and a task that goes on is stopped.

    async def _refuse_on_loop(self, task: Task | None) -> None:
        await asyncio.sleep(self._refuse(task))

    def _check_call(self, task: Task | None) -> None:
        """Check like `_check_open`, for a call that is no wait: on the loop it cannot suspend."""
        task = task or current_task.get()
        on_loop = self._in_loop_thread
        if self._closed or (task is not None and task.cancelled and not on_loop):
            # A thread may have reasons to do its work to the end, heard or not.
            pause = self._refuse(task, cancel=on_loop)
            if not on_loop:
                time.sleep(pause)
        self._check_open(task)

    def _refuse(self, task: Task | None, *, cancel: bool = True) -> float:
        """Note that a task asks for what it could know to be over; return for how many seconds it shall be held.

        One that goes on is reported and cancelled, and given up when it goes on nevertheless.
        """
        if task is None or task.owner is not self._ref:
            return 0
        refusals = task.refusals = task.refusals or Refusals()
        if refusals.note(self._loop.time(), self.options.close_grace):
            if refusals.rounds == 1:
                asker = asyncio.current_task() if self._in_loop_thread else threading.current_thread()
                where = (
                    "" if task.done or asker is task.handle else f"; it is here:\n{self._stack(task)}And it asks here:"
                )
                logger.warning(
                    "session %s: task %s goes on asking for what is over: let SessionClosedException end it%s",
                    *(self.id, task.id, where),
                    stack_info=True,
                )
            if cancel and not task.cancelled:
                self._cancel(task)
            elif cancel:
                self._on_loop(self._give_up, task)
        return refusals.pause

    def _on_mail_room(self) -> None:
        self._soon(self._notify, self._on_event_room)

    def _on_first_command(self) -> None:
        self._on_loop(self._notify, self._on_task_command)

    # --- events -------------------------------------------------------------------------------------------------------

    def _click(self, click: Click, size: int) -> bool:
        if self._callbacks.needs_room(click.callback) and not self._mailroom.hold(size):
            return False
        stopwatch = self._mailroom.stopwatch
        if stopwatch is not None and stopwatch.item is None and not (click.callback.mutex and click.callback.active):
            stopwatch.start(click)
        self._callbacks.click(click)
        return True

    def _start_run(self, click: Click) -> None:
        callback = click.callback
        stopwatch = self._mailroom.stopwatch
        if stopwatch is not None and stopwatch.item is click:
            stopwatch.stop()
        context = self._context.copy()
        task = self._new_task(f"{callback.id}-{callback.runs}", context)
        task.callback = callback
        try:
            self._start_task(task, callback.func, click.args, context)
        except RuntimeError:  # no more threads
            logger.exception("session %s: a run of %s could not start", self.id, callback.id)
            self._count_failure(callback.id)
            self._loop.call_soon(self._run_ended, callback)

    def _run_ended(self, callback: Callback) -> None:
        started = self._callbacks.run_ended(callback)
        self._mailroom.release([click.size for click in started if click.size is not None])
        self._end_if_done()

    def _drop(self, event: object, why: str) -> bool:
        self.dropped += 1
        name = event.get("task_id") if isinstance(event, Mapping) else type(event)
        logger.debug("session %s: dropped an event for %.80r, which %s", self.id, name, why)
        return True

    def _end_events(self, reason: CloseReason, message: str) -> None:
        if not self._events_ended:
            self._events_end = reason, message
        with self._lock:
            self._events_ended = True
            tasks = list(self._tasks.values())
        for task in tasks:
            self._mailroom.end(task.mailbox)
        self._end_if_done()

    # --- tasks --------------------------------------------------------------------------------------------------------

    def _spawn(
        self, task_id: str, func: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context
    ) -> Task:
        task = self._new_task(task_id, context)
        self._start_task(task, func, args, context)
        return task

    def _new_task(self, task_id: str, context: contextvars.Context) -> Task:
        with self._lock:
            task = self._tasks[task_id] = Task(task_id, self._ref, self.id, Mailbox(ended=self._events_ended))
        context.run(current_task.set, task)
        return task

    def _start_task(
        self, task: Task, func: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context
    ) -> None:
        task.name = _name(func)
        try:
            self._start(task, func, args, context)
        except BaseException:
            with self._lock:
                del self._tasks[task.id]
            raise

    def _failed(self, task: Task, error: BaseException) -> None:
        """Judge what left a task; called in the task, while the exception is being handled."""
        if self._means_the_end(error) or (task.cancelled and isinstance(error, asyncio.CancelledError)):
            task.met_close = True
        elif not isinstance(error, asyncio.CancelledError) or (task is self._main and not self._closed):
            task.failed = True
            self._count_failure(task.id)
            self.on_task_exception()
        self._drop_traceback(error)

    def _drop_traceback(self, error: BaseException) -> None:
        """Part what has left a task from its frames, which may hold it: those of a TaskGroup did until Python 3.13."""
        error.__traceback__ = None

    def _count_failure(self, task_id: str) -> None:
        where = "hook" if task_id.startswith(HOOKS_ID) else task_id.partition("-")[0]
        with self._lock:
            self.failures = {**self.failures, where: self.failures.get(where, 0) + 1}

    def _adopt(self, child: asyncio.Task[Any]) -> None:
        """Note an asyncio task that was made in a context of this session; on the loop's thread."""
        if self._children is None:
            self._children = Children()
        self._children.add(child)

    def _around(self, task: Task) -> AbstractContextManager[object]:
        return NOTHING if self._around_task is None else self._around_task(task)

    def _cancel(self, task: Task) -> None:
        task.cancelled = True
        self._on_loop(self._cancel_on_loop, task)

    def _cancel_on_loop(self, task: Task) -> None:
        if not task.done:
            self._interrupt(task)
            self.dropped += self._mailroom.close(task.mailbox)
            self._commands.wake()

    def _give_up(self, task: Task) -> None:
        """Wait no more for a task that neither its end nor a cancellation has ended; on the loop's thread."""
        if not task.done:
            logger.info("session %s: task %s does not heed that it was cancelled: it is given up", self.id, task.id)
            self.abandoned += 1
            task.met_close = True
            self._task_ended(task)

    def _means_the_end(self, error: BaseException) -> bool:
        if isinstance(error, BaseExceptionGroup):
            _, rest = error.split((SessionClosedException, asyncio.CancelledError))
            return rest is None and (self._closed or self._events_ended)
        return isinstance(error, SessionClosedException) and (self._closed or self._events_ended)

    def _task_ended(self, task: Task) -> None:
        if task.done:  # it was given up
            return
        task.done = True
        with self._lock:
            del self._tasks[task.id]
        self.dropped += self._mailroom.close(task.mailbox)
        if task is self._main and task.failed:
            self.close(reason=CloseReason.FAILED, message=f"the app failed, error {task.error_id}")
        if task.callback is not None:
            self._run_ended(task.callback)
        self._end_if_done()

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end_if_done(self) -> None:
        if self._tasks or not self._callbacks.idle:
            return
        if self._closed:
            if self._unwound is not None and not self._unwound.done():
                self._unwound.set_result(None)
        elif not self._registered or self._events_ended:
            reason, message = self._events_end
            self.close(reason=reason if self._main.met_close else CloseReason.COMPLETED, message=message)

    def _begin_close(self) -> None:
        self._callbacks.stop()
        late: list[tuple[Task, object]] = []
        with self._lock:
            tasks = list(self._tasks.values())
        owners = {waiter.owner for waiter in self._commands.wake() if not waiter.cancelled}
        for task in tasks:
            waiters = {waiter.owner for waiter in task.mailbox.waiters if not waiter.cancelled}
            self.dropped += self._mailroom.close(task.mailbox)
            if id(task.handle) in waiters | owners:
                continue  # it has been woken, and meets SessionClosedException
            if waiters:
                late.append((task, self._awaited(task)))  # most likely it will meet what its child met
            else:
                self._interrupt(task)
        self._ending = self._loop.create_task(self._end(late), context=contextvars.Context())

    async def _end(self, late: list[tuple[Task, object]]) -> None:
        over = self._loop.time() + self.options.close_grace
        if late:
            await self._wait_unwound(min(CHILD_NOTICE, self.options.close_grace))
            for task, awaited in late:
                if not task.done and self._awaited(task) is awaited:
                    self._interrupt(task)
        await self._wait_unwound(over - self._loop.time())
        for task in list(self._tasks.values()):
            self.abandoned += 1
            logger.warning("session %s: task %s has not unwound:\n%s", self.id, task.id, self._stack(task))
            self._interrupt(task)
        while (func := self._deferred.pop()) is not None:
            error = await self._call_deferred(func, self._context.copy())
            if error is not None:
                logger.error("session %s: deferred call %r failed", self.id, func, exc_info=error)
                self._count_failure("deferred")
        self.ended = True
        self._count(-1)
        if self._children:
            self._loop.call_later(CHILD_NOTICE, report_outliving, self.id, self._children)
        self._notify(self._on_session_close)
        self._let_go()

    def _let_go(self) -> None:
        """Drop what leads back here: code of the app and of the backend, and what tells this from below.

        So a session is freed with the last reference to it, as soon as it has ended and is forgotten. What it holds may
        be megabytes, and the garbage collector is in no hurry.
        """
        self._on_task_command = self._on_session_close = self._on_event_room = self._around_task = None
        self._commands.on_first = self._mailroom.on_room = ignore
        self._mailroom.stopwatch = None
        self._callbacks.stop()
        self._hooks.drop()
        self._registered.clear()
        self._context = contextvars.Context()

    async def _wait_unwound(self, seconds: float) -> None:
        if self._tasks:
            try:
                async with asyncio.timeout(seconds):
                    self._unwound = self._loop.create_future()
                    await self._unwound
            except TimeoutError:
                pass

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _on_loop(self, func: Callable[..., object], *args: Any) -> None:
        """Call ``func`` on the loop's thread: now when this is it."""
        if threading.get_ident() == self._thread:
            func(*args)
        else:
            self._soon(func, *args)

    def _soon(self, func: Callable[..., object], *args: Any) -> None:
        """Call ``func`` in a turn of the loop to come."""
        try:
            self._loop.call_soon_threadsafe(func, *args)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            logger.debug("session %s: its event loop is gone", self.id)

    def _notify(self, hook: SessionHook | None) -> None:
        if hook is not None:
            try:
                hook(self)
            except Exception:
                logger.exception("session %s: %r failed", self.id, hook)

    def _count(self, change: int) -> None:
        with AbstractSession._counts_lock:
            AbstractSession._counts[type(self)] += change


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__qualname__", None) or type(func).__qualname__)
