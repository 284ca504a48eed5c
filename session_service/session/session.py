"""Puts the parts of a session together: the contract, a line or two each over the parts.

Theory of operation. A session lives on one event loop, its home:

- All bookkeeping of tasks, callbacks and the end happens on the loop's thread; others get there by `Home.call`.
- What threads touch themselves has a lock of its own: the `CommandBuffer`, the `Mailroom`, and `Tasks`, whose lock also
  guards the state, what is registered and what is deferred. No other code is ever called under a lock.
- Every end is a step of the machine in `session_service.lifecycle`, whether a task, the client, a time limit or the
  last task's return brings it about; `Ending` does what the machine says.
- The parts own their data. Calls go down: `Session`, `Work`, `Gate`, `Ending`, what holds something. What goes upwards
  is given from above, and dropped at the end.
"""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from .. import payload
from ..errors import SessionNotFoundException
from ..lifecycle import AppInput, CloseReason
from .backend import Around, Backend, SessionHook
from .callbacks import Click
from .contract import AbstractSession, Encode, F
from .current import current_task, get_own_task
from .info import SessionInfo
from .mailbox import Mail
from .options import SessionOptions
from .principal import ANONYMOUS, Principal
from .snapshot import SessionSnapshot, look
from .stopwatch import Stopwatch
from .tasks import Owner, TaskHandle
from .work import Work

if TYPE_CHECKING:
    from .kinds import Kind

__all__ = ["Session"]

_COMMAND_KEYS = frozenset(("command", "spec", "task_id"))

NO_PARAMS: Mapping[str, Any] = MappingProxyType({})  # most sessions share it


class Session(AbstractSession):
    """Keeps the contract, whatever runs its code."""

    kind: ClassVar[Kind]

    __slots__ = ("__dict__", "__weakref__", "_encode", "_ref")  # others may set attributes, which make the __dict__

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
        kind = kind or self.kind
        kind.runner.check(target)
        self._ref: Owner = weakref.ref(self)
        self._encode = encode
        self.id = session_id or secrets.token_hex(8)
        self.info = session_info or SessionInfo()
        self.params = MappingProxyType(dict(params)) if params else NO_PARAMS
        self.options = options or SessionOptions()
        self.principal = principal
        home = kind.home()
        backend = Backend(self._ref, home, on_task_command, on_session_close, on_event_room, around)
        self.work = Work(self._ref, self.id, self.options, home, kind, backend)
        self.work.begin(self, target)

    # Questions to the parts. They are asked for each message, and so are no functions, whose calls would cost more.
    close_reason = property(attrgetter("work.app.reason"))
    close_message = property(attrgetter("work.app.message"))
    ended = property(attrgetter("work.app.state.ended"))
    dropped = property(attrgetter("work.mailroom.dropped"))
    abandoned = property(attrgetter("work.ending.abandoned"))
    failures = property(attrgetter("work.tasks.failures"))
    pending_commands = property(attrgetter("work.commands.count"))
    event_stalls = property(attrgetter("work.mailroom.stalls"))

    def closed(self) -> bool:
        return self.work.app.state.closed

    def close(self, *, reason: CloseReason = CloseReason.SERVER, message: str = "") -> None:
        self.work.ending.close(reason, message)

    def send_client_event(self, event: Mapping[str, Any], size: int = 0) -> bool:
        work = self.work
        tasks = work.tasks
        try:
            name = event["event"]
            task_id = event.get("task_id") or tasks.main.id
            data = event.get("data")
            callback = work.callbacks.registered.get(task_id) if name == "callback" else None
            task = tasks.running.get(task_id)
        except (AttributeError, KeyError, TypeError):
            return work.drop(event, "is no event")
        if self.work.app.state.last_event:
            return work.drop(event, "came after the last one")
        if callback is not None:
            return work.click(Click(callback, (data,), size), size)
        if task is None:
            return work.drop(event, "is for no task of this session")
        return work.mailroom.put(task.mailbox, Mail({"event": name, "task_id": task_id, "data": data}, size))

    def end_events(self, *, reason: CloseReason = CloseReason.CLIENT, message: str = "") -> None:
        self.work.home.call(self.work.ending.end_events, self, reason, message)

    def get_task_commands(self, messages: int | None = None, size: int | None = None) -> list[Any]:
        return self.work.commands.take(messages, size)

    def time_events(self, stopwatch: Stopwatch) -> None:
        self.work.mailroom.stopwatch = stopwatch

    def snapshot(self, *, most: int, stacks: bool = False) -> SessionSnapshot:
        return look(self.work, most, stacks)

    def notify_attach(self, resumed: bool) -> None:
        self.work.hooks.attached(self, resumed)

    def notify_detach(self) -> None:
        self.work.hooks.detached(self)

    def left_behind(self) -> None:
        self.work.app.step(AppInput.CLOSE)  # only that: nothing of it runs here, and a lock may be held for ever

    def send_task_command(self, command: Mapping[str, Any]) -> None:
        name = command.get("command")
        if not isinstance(name, str) or not _COMMAND_KEYS.issuperset(command):
            raise ValueError(f'a command is a dict of "command" (text), "spec" and "task_id", not {sorted(command)}')
        work, task = self.work, current_task.get()
        if task is not None and task.owner is not self._ref:
            task = None
        over = self.work.app.state.closed or (task is not None and task.cancelled)
        if over and not work.gate.check_call(task):
            return
        task_id = command.get("task_id") or (task or work.tasks.main).id
        item, size = self._encode(name, task_id, command.get("spec"))
        if threading.get_ident() == work.home.thread:
            work.commands.put_nowait(item, size)
            return
        while (waiter := work.commands.put(item, size)) is not None:
            # A close that came before the waiter joined woke nobody: look again first.
            work.gate.check_open(task)
            waiter.wait()
            work.gate.check_open(task)

    def next_client_event(self, timeout: float | None = None) -> Any:
        task, work = current_task.get(), self.work
        if task is None or task.owner is not self._ref:
            try:
                task = get_own_task(self._ref, self.id)
            except SessionNotFoundException as error:
                return work.runner.refuse(work, error)
        return work.runner.next_event(work, task, timeout)

    def drain(self) -> Any:
        return self.work.runner.drain(self.work)

    def register_callback(self, callback: Callable[[Any], Any], **options: bool) -> str:
        return self.work.register(callback, options)

    def unregister_callback(self, callback_id: str) -> None:
        self.work.unregister(callback_id)
        self.work.home.call(self.work.ending.end_if_quiet, self)

    def defer_call(self, func: F) -> F:
        self.work.runner.check(func, sync=True, coroutine=True)
        if not self.work.app.state.ended or self.work.gate.hear(None):
            self.work.ending.defer(func)
        return func

    def run_task(self, func: Callable[..., Any], *args: Any) -> TaskHandle:
        self.work.runner.check(func)
        given_up = None if self.work.gate.check_call(None) else current_task.get()
        return TaskHandle(given_up or self.work.start(func, args))

    def on_attach(self, hook: F) -> F:
        self.work.runner.check(hook, sync=True)
        self.work.home.call(self.work.hooks.add_attach, hook)
        return hook

    def on_detach(self, hook: F) -> F:
        self.work.runner.check(hook, sync=True)
        self.work.home.call(self.work.hooks.add_detach, hook)
        return hook

    def on_task_exception(self) -> None:
        self.work.report(self)
