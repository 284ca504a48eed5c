"""What a session is doing, at one moment, for people who look at it from outside."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CallbackSnapshot", "SessionSnapshot", "TaskSnapshot"]


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """A task.

    Attributes:
        id: what clients address it by.
        name: the function that it runs.
        waiting: it waits for an event.
        pending: how many events wait for it.
        stack: where it is; empty where nobody asked.
    """

    id: str
    name: str
    waiting: bool
    pending: int
    stack: str


@dataclass(frozen=True, slots=True)
class CallbackSnapshot:
    """A registered callback.

    Attributes:
        id: what clients address it by.
        name: the function that it runs.
        runs: how many there have been.
        running: how many of them go on.
        waiting: how many events wait behind others of this callback.
    """

    id: str
    name: str
    runs: int
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """A session.

    Attributes:
        tasks: the oldest, as many as were asked for.
        task_count: how many there are.
        callbacks: the oldest, as many as were asked for.
        callback_count: how many there are.
        events: how many wait for tasks, or for a run of their callback.
        event_bytes: their bytes.
        commands: how many wait for the backend.
        command_bytes: their bytes.
    """

    tasks: tuple[TaskSnapshot, ...]
    task_count: int
    callbacks: tuple[CallbackSnapshot, ...]
    callback_count: int
    events: int
    event_bytes: int
    commands: int
    command_bytes: int
