"""Registered callbacks, and when which of their runs may start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .tasks import TaskKind

__all__ = ["Callback", "Callbacks", "Click", "ignore"]


def ignore(*_: object) -> None:
    """Do nothing, in place of what a session that has ended is no longer told."""


class Callback:
    """Code registered for an event.

    Attributes:
        id: what a client sends as the ``task_id`` of the event.
        active: how many runs are going on, or have left its own line for the common one.
        line: clicks of a serial callback that wait for their predecessor.
        runs: how many there have been, for the ids of their tasks.
        kind: of their tasks.
    """

    __slots__ = ("active", "func", "id", "kind", "line", "mutex", "runs", "serial")

    def __init__(
        self,
        callback_id: str,
        func: Callable[..., Any],
        serial: bool,
        mutex: bool,
        kind: TaskKind = TaskKind.CALLBACK,
    ) -> None:
        self.id = callback_id
        self.kind = kind
        self.func = func
        self.serial = serial
        self.mutex = mutex
        self.active = 0
        self.runs = 0
        self.line: list[Click] = []


class Click(NamedTuple):
    """One event for a callback.

    Attributes:
        callback: whose.
        args: the arguments of its run.
        size: in bytes; what counts against the event window while it waits, None where it does not count.
    """

    callback: Callback
    args: tuple[Any, ...]
    size: int | None = None


class Callbacks:
    """Decides whether a click runs, waits or is ignored. Used on the loop's thread only, but for `registered`.

    Attributes:
        registered: by id; changed under the lock of `Tasks`.
        waiting: how many clicks wait; they count against the event window.
        stopped: nothing is started any more.
    """

    __slots__ = ("_line", "_most_runs", "_runs", "_start", "registered", "stopped", "waiting")

    def __init__(self, most_runs: int, start: Callable[[Click], object]) -> None:
        self.registered: dict[str, Callback] = {}
        self._most_runs = most_runs
        self._start = start
        self._runs = 0
        self._line: list[Click] = []  # of those that wait only because too many run
        self.stopped = False
        self.waiting = 0

    @property
    def idle(self) -> bool:
        return not self._runs and (self.stopped or not self.waiting)

    def needs_room(self, callback: Callback) -> bool:
        """Tell whether a click would wait, rather than run or be ignored at once."""
        if callback.active and (callback.mutex or callback.serial):
            return not callback.mutex
        return self._runs >= self._most_runs

    def click(self, click: Click) -> None:
        callback = click.callback
        if self.stopped or (callback.active and callback.mutex):
            return
        if callback.active and callback.serial:
            self.waiting += 1
            callback.line.append(click)
            return
        callback.active += 1
        if self._runs >= self._most_runs:
            self.waiting += 1
            self._line.append(click)
        else:
            self._run(click)

    def run_ended(self, callback: Callback) -> list[Click]:
        """Note the end of a run, start what may follow, and return the clicks that wait no more."""
        self._runs -= 1
        callback.active -= 1
        if self.stopped:
            callback.line.clear()
        if callback.line:
            callback.active += 1
            self._line.append(callback.line.pop(0))
        started: list[Click] = []
        while self._line and self._runs < self._most_runs and not self.stopped:
            click = self._line.pop(0)
            self.waiting -= 1
            started.append(click)
            self._run(click)
        return started

    def withdraw(self, callback: Callback, obsolete: Callable[[Click], bool]) -> None:
        """Forget those who wait behind a serial callback, and are obsolete."""
        left = [click for click in callback.line if not obsolete(click)]
        self.waiting -= len(callback.line) - len(left)
        callback.line = left

    def stop(self) -> None:
        """Start nothing any more: the session closes, and clicks that wait are lost with it."""
        self.stopped = True
        self._start = ignore
        for click in self._line:
            click.callback.line.clear()
        self._line.clear()

    def _run(self, click: Click) -> None:
        self._runs += 1
        click.callback.runs += 1
        self._start(click)
