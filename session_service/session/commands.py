"""The commands that wait for the backend, and the tasks that wait for room among them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import CommandBufferFull
from ..window import Window
from .waiter import LoopWaiter, ThreadWaiter, Waiter

__all__ = ["CommandBuffer"]

W = TypeVar("W", LoopWaiter, ThreadWaiter)

# What a sender on the loop may be ahead of the client, in windows: enough that an app that drains now and then never
# meets it, and a bound for one that never does.
HARD_LIMIT = 8


class CommandBuffer:
    """A bounded line of encoded commands, filled from any thread and emptied on the loop.

    Whoever finds it full gets a waiter instead, waits, and tries again.

    Attributes:
        count: how many there are.
        full: a sender waits for room. It and the count are no properties: they are asked for with each message.
        on_first: called, in the thread of the sender, when a command comes where there was none.
    """

    __slots__ = ("_commands", "_lock", "_senders", "_size", "_window", "count", "full", "on_first")

    def __init__(self, window: Window, on_first: Callable[[], None]) -> None:
        self._window = window
        self.on_first = on_first
        self._lock = threading.Lock()
        self.count = 0
        self.full = False
        self._commands: list[tuple[Any, int]] = []
        self._size = 0
        self._senders: list[Waiter] = []

    def put(self, item: Any, size: int) -> ThreadWaiter | None:
        """Add a command of ``size`` bytes; where there is no room return what the calling thread can wait for."""
        with self._lock:
            if not self._window.fits(self.count, self._size, size):
                waiter = ThreadWaiter()
                self._senders.append(waiter)
                return waiter
            self._commands.append((item, size))
            self._size += size
            self.count += 1
            self.full = self.count >= self._window.messages or self._size >= self._window.size
            first = self.count == 1
        if first:
            self.on_first()
        return None

    def put_nowait(self, item: Any, size: int) -> None:
        """Add a command of any size from the loop's thread, where nothing may wait, unless `HARD_LIMIT` windows wait.

        So whoever has drained can send.

        Raises:
            CommandBufferFull: there are so many already.
        """
        with self._lock:
            window, count = self._window, self.count
            if count >= window.messages * HARD_LIMIT or self._size >= window.size * HARD_LIMIT:
                raise CommandBufferFull(
                    f"{count} commands of {self._size} bytes wait for the client: `await session.drain()` between sends"
                )
            self._commands.append((item, size))
            self._size += size
            self.count = count + 1
            self.full = self.count >= window.messages or self._size >= window.size
            first = not count
        if first:
            self.on_first()

    def take(self, messages: int | None, size: int | None) -> list[Any]:
        """Take commands in order, up to both limits; a first one that is larger than ``size`` comes alone."""
        count = total = 0
        with self._lock:
            for _, item_size in self._commands if messages is None else self._commands[:messages]:
                if size is not None and count and total + item_size > size:
                    break
                total += item_size
                count += 1
            taken = [item for item, _ in self._commands[:count]]
            del self._commands[:count]
            self.count -= count
            self._size -= total
            self.full = self.count >= self._window.messages or self._size >= self._window.size
            if taken and self._senders:
                self._wake()
        return taken

    @property
    def held(self) -> tuple[int, int]:
        """How many commands there are, and their bytes."""
        with self._lock:
            return self.count, self._size

    @property
    def senders(self) -> int:
        """How many wait for room."""
        return len(self._senders)

    def wait_room(self, kind: type[W]) -> W | None:
        """Return None where there is room, else something to wait for."""
        with self._lock:
            if not self.full:
                return None
            waiter = kind()
            self._senders.append(waiter)
            return waiter

    def leave(self, waiter: Waiter) -> None:
        """Stop waiting."""
        with self._lock:
            if waiter in self._senders:
                self._senders.remove(waiter)

    def wake(self) -> list[Waiter]:
        """Wake and return all who wait for room."""
        with self._lock:
            return self._wake()

    def _wake(self) -> list[Waiter]:
        senders, self._senders = self._senders, []
        for waiter in senders:
            waiter.wake()
        return senders
