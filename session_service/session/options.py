"""What bounds a session."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..window import Window

__all__ = ["SessionOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """The limits of one session.

    Attributes:
        command_window: how much a session buffers before sending blocks or `drain` waits.
        event_window: how much all its mailboxes and waiting callback runs hold together.
        callback_runs: how many callback runs there may be at once; None for the default of the kind (1,024 coroutines,
            64 threads).
        close_grace: seconds that tasks have to unwind after `close`.
        deferred_timeout: seconds that one deferred call may take.
        max_threads: a thread session starts no thread while the process has so many; 0 for no limit.
        debug: tell the client the traceback of a failure.
    """

    command_window: Window = field(default_factory=Window)
    event_window: Window = field(default_factory=Window)
    callback_runs: int | None = None
    close_grace: float = 5.0
    deferred_timeout: float = 10.0
    max_threads: int = 0
    debug: bool = False
