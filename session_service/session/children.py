"""The asyncio tasks that code of a session makes by asyncio itself, which do not end with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from .current import current_task

__all__ = ["Children", "report_outliving", "watch_children"]

logger = logging.getLogger(__name__)

Children = WeakSet[asyncio.Future[Any]]

# How many of them a line of the log names.
MOST_NAMES = 5


def watch_children(loop: asyncio.AbstractEventLoop) -> None:
    """Have each session of ``loop`` told of the asyncio tasks that are made in its contexts; again does nothing.

    A task factory is the only place that sees them. An app or a library may have set one, or set one later: that one
    makes the tasks then, and is watched from the next session on.
    """
    factory = loop.get_task_factory()
    if not isinstance(factory, _Watch):
        loop.set_task_factory(_Watch(factory))


class _Watch:
    """A task factory that has another one make the task, and tells its session."""

    def __init__(self, factory: Callable[..., Any] | None) -> None:
        self._factory = factory

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        if self._factory is None:
            made = asyncio.Task(coro, loop=loop, **options)
        else:
            made = self._factory(loop, coro, **options)
        context = options.get("context")
        task = current_task.get() if context is None else context.get(current_task)
        if task is not None and (session := task.owner()) is not None:
            session.work.tasks.adopt(made)
        return made


def report_outliving(session_id: str, children: Children) -> None:
    """Log which children of a session that has ended go on."""
    names = [_name(child) for child in children if not child.done()]
    if names:
        logger.warning(
            "session %s: has ended, and %d of its asyncio tasks go on: %s; only tasks of run_task and of a TaskGroup"
            " end with their session",
            *(session_id, len(names), ", ".join(sorted(set(names))[:MOST_NAMES])),
        )


def _name(child: asyncio.Future[Any]) -> str:
    coro = child.get_coro() if isinstance(child, asyncio.Task) else child
    return str(getattr(coro, "__qualname__", coro))
