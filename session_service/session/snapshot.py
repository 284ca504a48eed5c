"""What a session is doing, at one moment, for people who look at it from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .tasks import name_of

if TYPE_CHECKING:
    from .work import Work

__all__ = ["CallbackSnapshot", "SessionSnapshot", "TaskSnapshot", "look"]


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """A task.

    Attributes:
        id: what clients address it by.
        name: the function that it runs.
        waiters: how many wait in it for an event: itself, or its children.
        pending: how many events wait for it.
        stack: where it is; empty where nobody asked.
    """

    id: str
    name: str
    waiters: int
    pending: int
    stack: str

    @property
    def waiting(self) -> bool:
        """Whether it waits for an event."""
        return self.waiters > 0


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
        senders: how many wait for room among them.
    """

    tasks: tuple[TaskSnapshot, ...]
    task_count: int
    callbacks: tuple[CallbackSnapshot, ...]
    callback_count: int
    events: int
    event_bytes: int
    commands: int
    command_bytes: int
    senders: int


def look(work: Work, most: int, stacks: bool) -> SessionSnapshot:
    """Return what a session is doing; see `AbstractSession.snapshot`."""
    runner, tasks = work.runner, work.tasks.all()
    with work.tasks.lock:
        callbacks = list(work.callbacks.registered.values())
    events, event_bytes = work.mailroom.held
    commands, command_bytes = work.commands.held
    return SessionSnapshot(
        tasks=tuple(
            TaskSnapshot(
                id=task.id,
                name=task.name,
                waiters=len(task.mailbox.waiters),
                pending=len(task.mailbox.events),
                stack=runner.where(task) if stacks and task.handle is not None else "",
            )
            for task in tasks[:most]
        ),
        task_count=len(tasks),
        callbacks=tuple(
            CallbackSnapshot(
                id=callback.id,
                name=name_of(callback.func),
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
        senders=work.commands.senders,
    )
