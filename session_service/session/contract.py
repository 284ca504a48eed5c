"""The contract of a session: the names that an app and a backend may call, and what they promise.

A session is the bridge between a *backend*, which hands events in and takes commands out, and the *tasks* that run the
app's code. The names are those of PyWebIO's ``AbstractSession``. `Session` keeps the contract.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .. import payload
from ..lifecycle import CloseReason
from .backend import Around, SessionHook
from .counts import ACTIVE
from .current import get_current_session, get_current_task_id
from .info import SessionInfo
from .options import SessionOptions
from .principal import ANONYMOUS, Principal
from .snapshot import SessionSnapshot
from .stopwatch import Stopwatch
from .tasks import TaskHandle

if TYPE_CHECKING:
    from .kinds import Kind
    from .work import Work

__all__ = ["AbstractSession", "Encode", "F"]

Encode = Callable[[str, str, Any], tuple[Any, int]]
F = TypeVar("F", bound=Callable[..., Any])


class AbstractSession(abc.ABC):
    """One run of an app for one client.

    Attributes:
        id: public, safe to log.
        info: what is known of the client; read again at each attach.
        params: what the client opened the session with.
        options: its limits.
        principal: who opened it; at each attach with the claims of that call.
        work: its parts, for this package.
    """

    __slots__ = ("id", "info", "options", "params", "principal", "work")

    id: str
    info: SessionInfo
    params: Mapping[str, Any]
    options: SessionOptions
    principal: Principal
    work: Work

    get_current_session = staticmethod(get_current_session)
    get_current_task_id = staticmethod(get_current_task_id)

    @abc.abstractmethod
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
        around: Around | None = None,
        kind: Kind | None = None,
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
            kind: where and how its code runs; None for that of the class.

        Raises:
            RuntimeError: there is no running event loop.
            TypeError: ``target`` is of the other kind.
        """

    # --- for both sides -----------------------------------------------------------------------------------------------

    @classmethod
    def active_session_count(cls) -> int:
        """Return how many sessions of this class have started and not ended; `AbstractSession` counts every kind."""
        return ACTIVE.of(cls)

    @property
    @abc.abstractmethod
    def close_reason(self) -> CloseReason | None:
        """Why it ended; None before `close`."""

    @property
    @abc.abstractmethod
    def close_message(self) -> str:
        """What to tell the client about that."""

    @property
    @abc.abstractmethod
    def ended(self) -> bool:
        """Whether everything has run, and ``on_session_close`` is due: no command will follow."""

    @property
    @abc.abstractmethod
    def dropped(self) -> int:
        """How many events were for a task that does not exist (any more)."""

    @property
    @abc.abstractmethod
    def abandoned(self) -> int:
        """How many tasks had not unwound when the close grace was over."""

    @property
    @abc.abstractmethod
    def failures(self) -> Mapping[str, int]:
        """How often code of the app failed, by where: ``main``, ``task``, ``callback``, ``hook``, ``deferred``."""

    @abc.abstractmethod
    def closed(self) -> bool:
        """Tell whether `close` has begun, however the end came about."""

    @abc.abstractmethod
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

    # --- for the backend ----------------------------------------------------------------------------------------------

    @abc.abstractmethod
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

    @abc.abstractmethod
    def end_events(self, *, reason: CloseReason = CloseReason.CLIENT, message: str = "") -> None:
        """Tell the session that no more events will come (protocol E1). From any thread.

        Mailboxes are emptied as usual; then waiting raises `SessionClosedException`, and registered callbacks no longer
        keep the session open.

        Args:
            reason: why it will have ended if the app was still waiting for events; only the first call's counts.
            message: for the client, and so is that.
        """

    @abc.abstractmethod
    def get_task_commands(self, messages: int | None = None, size: int | None = None) -> list[Any]:
        """Take pending commands, in order, each once; also after `close`, so that the last ones get out.

        Args:
            messages: the most to take.
            size: the most bytes to take together; a first one that is larger comes alone.

        Returns:
            What ``encode`` made of them: by default dicts ``{"command", "task_id", "spec"}``.
        """

    @property
    @abc.abstractmethod
    def pending_commands(self) -> int:
        """How many commands `get_task_commands` would return."""

    @property
    @abc.abstractmethod
    def event_stalls(self) -> int:
        """How often the event window was full when an event came."""

    @abc.abstractmethod
    def time_events(self, stopwatch: Stopwatch) -> None:
        """Have it time how long events wait for their tasks; it may be stopped in any thread."""

    @abc.abstractmethod
    def snapshot(self, *, most: int, stacks: bool = False) -> SessionSnapshot:
        """Return what it is doing; on the loop's thread.

        Args:
            most: how many tasks, and how many callbacks, to look at.
            stacks: look also where the tasks are.
        """

    @abc.abstractmethod
    def notify_attach(self, resumed: bool) -> None:
        """Tell the session that a client is attached; on the loop's thread."""

    @abc.abstractmethod
    def notify_detach(self) -> None:
        """Tell the session that no client is attached any more; on the loop's thread."""

    @abc.abstractmethod
    def left_behind(self) -> None:
        """Note that this is a copy in a forked process, which nobody hears; calls meet `SessionClosedException`."""

    # --- for tasks ----------------------------------------------------------------------------------------------------

    @abc.abstractmethod
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

    @abc.abstractmethod
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

    @abc.abstractmethod
    def unregister_callback(self, callback_id: str) -> None:
        """Forget a callback; runs that have begun, and clicks taken over, go on. From any thread.

        Raises:
            KeyError: there is none of this id.
        """

    @abc.abstractmethod
    def defer_call(self, func: F) -> F:
        """Have ``func`` called when the session ends, after all tasks have unwound; return it, to serve as a decorator.

        Deferred calls run in the order of registration, each exactly once, sync or ``async def``, each within
        ``options.deferred_timeout`` seconds. One that raises is logged and the rest run. From any thread.

        Raises:
            SessionClosedException: the session has ended.
        """

    @abc.abstractmethod
    def run_task(self, func: Callable[..., Any], *args: Any) -> TaskHandle:
        """Run ``func(*args)`` as a task of its own, with its own id and mailbox. From any thread.

        The session waits for it before it ends by itself, and interrupts it at `close`. An exception that leaves it is
        reported, and the session goes on.

        Raises:
            TypeError: this kind of session cannot run ``func``.
            SessionClosedException: the session is closed.
        """

    @abc.abstractmethod
    def on_attach(self, hook: F) -> F:
        """Call ``hook(session, resumed)`` when a client attaches, and now if one is; usable as a decorator.

        Hooks of a session run one after the other, never two at once, as tasks of their own. From any thread.
        """

    @abc.abstractmethod
    def on_detach(self, hook: F) -> F:
        """Call ``hook(session)`` when the client's stream is lost; otherwise like `on_attach`."""

    @abc.abstractmethod
    def on_task_exception(self) -> None:
        """Report the exception being handled; called in the task that failed.

        The log gets it whole, with the session's id, the task's and an error id. The client gets the reserved command
        ``task_exception`` with ``{"id", "message"}``, and the traceback only in debug mode.
        """
