"""Where a session lives: an event loop, and the thread that runs it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

__all__ = ["Home", "here"]

logger = logging.getLogger(__name__)


class Home:
    """A loop and its thread; one for all sessions there.

    Attributes:
        loop: the loop.
        thread: the `threading.get_ident` of its thread. Where each call counts it is compared without `inside`.
    """

    __slots__ = ("__weakref__", "loop", "thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """``loop`` is the one that runs in this thread."""
        self.loop = loop
        self.thread = threading.get_ident()

    @property
    def inside(self) -> bool:
        """Whether the caller is on the loop's thread."""
        return threading.get_ident() == self.thread

    def call(self, func: Callable[..., object], *args: Any) -> None:
        """Call ``func`` on the loop's thread: now when this is it."""
        if threading.get_ident() == self.thread:
            func(*args)
        else:
            self.call_soon(func, *args)

    def call_soon(self, func: Callable[..., object], *args: Any) -> None:
        """Call ``func`` in a turn of the loop to come; from any thread."""
        try:
            self.loop.call_soon_threadsafe(func, *args)
        except RuntimeError:
            if not self.loop.is_closed():
                raise
            logger.debug("an event loop is gone, and %r with it", func)


_homes: WeakValueDictionary[asyncio.AbstractEventLoop, Home] = WeakValueDictionary()


def here() -> Home:
    """Return the home that this code runs in.

    Raises:
        RuntimeError: there is no running event loop.
    """
    loop = asyncio.get_running_loop()
    home = _homes.get(loop)
    if home is None or home.thread != threading.get_ident():
        home = _homes[loop] = Home(loop)
    return home
