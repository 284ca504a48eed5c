"""The kinds of sessions: where they live, what runs their code, what is added to each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .app import is_coroutine_function
from .coroutine import CoroutineRunner
from .home import Home, here
from .runner import Runner
from .session import Session
from .thread import ThreadRunner
from .work import Extension

__all__ = ["COROUTINES", "THREADS", "CoroutineSession", "Kind", "ThreadSession", "class_of", "kind_of"]


class Kind(NamedTuple):
    """What tells one kind of session from another.

    Attributes:
        home: returns where a session lives that is made now.
        runner: what runs its code.
        extension: makes what it has beside; None for nothing.
    """

    home: Callable[[], Home]
    runner: Runner
    extension: Callable[[], Extension] | None = None


COROUTINES = Kind(here, CoroutineRunner())
THREADS = Kind(here, ThreadRunner())


def kind_of(app: Callable[[], Any]) -> Kind:
    """Return what an app runs as: an ``async def`` as a coroutine, a plain function in a thread."""
    return COROUTINES if is_coroutine_function(app) else THREADS


class CoroutineSession(Session):
    """Runs ``async def`` apps; each task is an ordinary `asyncio.Task`, and all of asyncio works in it."""

    __slots__ = ()
    kind = COROUTINES


class ThreadSession(Session):
    """Runs plain functions; its calls block the thread that makes them, never the event loop.

    `next_client_event` and `drain` raise RuntimeError on the event loop's thread, which must not block.
    """

    __slots__ = ()
    kind = THREADS


def class_of(app: Callable[[], Any]) -> type[Session]:
    """Return what the sessions of an app are to those who ask by `isinstance`."""
    return CoroutineSession if kind_of(app) is COROUTINES else ThreadSession
