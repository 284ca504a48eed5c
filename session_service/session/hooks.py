"""What an app wants to hear of its client's coming and going."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .callbacks import Callback, Callbacks, Click
from .tasks import TaskKind

__all__ = ["Hooks"]

Hook = Callable[..., Any]

# What the ids of their tasks begin with; those of all others count from 1.
HOOKS_ID = "task-0"

# Calls that may wait behind a slow hook: far more than connections are lost while an honest one runs.
MOST_WAITING = 100


def _call_hook(hook: Hook, *args: Any) -> Any:
    return hook(*args)


class Hooks:
    """The hooks of one session, run as a serial callback is: in order, never two at once. On the loop's thread.

    What waits behind a slow one is bounded: beyond `MOST_WAITING` of each hook only the newest call is kept, so that
    each comes to know the present.
    """

    __slots__ = ("_attached", "_callback", "_callbacks", "_on_attach", "_on_detach")

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self._callback: Callback | None = None  # most sessions have no hooks
        self._on_attach: tuple[Hook, ...] = ()
        self._on_detach: tuple[Hook, ...] = ()
        self._attached: tuple[Any, ...] | None = None

    def add_attach(self, hook: Hook) -> None:
        """Add a hook, and call it for the client that is attached, if one is: so a late one misses nothing."""
        if self._callbacks.stopped:
            return
        self._on_attach += (hook,)
        if self._attached is not None:
            self._call(hook, self._attached)

    def add_detach(self, hook: Hook) -> None:
        """Add a hook."""
        if not self._callbacks.stopped:
            self._on_detach += (hook,)

    def attached(self, *args: Any) -> None:
        """A client has attached: call the hooks with ``args``."""
        if self._callbacks.stopped:
            return
        self._attached = args
        for hook in self._on_attach:
            self._call(hook, args)

    def detached(self, *args: Any) -> None:
        """The client's stream is lost: call the hooks with ``args``."""
        self._attached = None
        for hook in self._on_detach:
            self._call(hook, args)

    def drop(self) -> None:
        """Let go of them, once the callbacks are stopped."""
        self._on_attach = self._on_detach = ()
        self._attached = self._callback = None

    def _call(self, hook: Hook, args: tuple[Any, ...]) -> None:
        callback = self._callback
        if callback is None:
            callback = self._callback = Callback(HOOKS_ID, _call_hook, serial=True, mutex=False, kind=TaskKind.HOOK)
        if len(callback.line) >= MOST_WAITING:
            self._callbacks.withdraw(callback, lambda click: click.args[0] is hook)
        self._callbacks.click(Click(callback, (hook, *args)))
