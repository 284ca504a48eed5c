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
    """

    __slots__ = ("_commands", "_lock", "_producers", "_size", "_window", "on_first")

    def __init__(self, window: Window, on_first: Callable[[], None]) -> None:
        """``on_first`` is called, in the thread of the sender, when a command comes where there was none."""
        self._window = window
        self.on_first = on_first
        self._lock = threading.Lock()
        self._commands: list[tuple[Any, int]] = []
        self._size = 0
        self._producers: list[Waiter] = []

    def __len__(self) -> int:
        return len(self._commands)

    def put(self, item: Any, size: int) -> ThreadWaiter | None:
        """Add a command of ``size`` bytes; where there is no room return what the calling thread can wait for."""
        with self._lock:
            if not self._window.fits(len(self._commands), self._size, size):
                waiter = ThreadWaiter()
                self._producers.append(waiter)
                return waiter
            self._commands.append((item, size))
            self._size += size
            first = len(self._commands) == 1
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
            window, count = self._window, len(self._commands)
            if count >= window.messages * HARD_LIMIT or self._size >= window.size * HARD_LIMIT:
                raise CommandBufferFull(
                    f"{count} commands of {self._size} bytes wait for the client: `await session.drain()` between sends"
                )
            self._commands.append((item, size))
            self._size += size
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
            self._size -= total
            if taken and self._producers:
                self._wake()
        return taken

    @property
    def held(self) -> tuple[int, int]:
        """How many commands there are, and their bytes."""
        with self._lock:
            return len(self._commands), self._size

    @property
    def has_room(self) -> bool:
        """True where `wait_room` would let the caller go on."""
        return len(self._commands) < self._window.messages and self._size < self._window.size

    def wait_room(self, kind: type[W]) -> W | None:
        """Return None where there is room, else something to wait for."""
        with self._lock:
            if self.has_room:
                return None
            waiter = kind()
            self._producers.append(waiter)
            return waiter

    def leave(self, waiter: Waiter) -> None:
        """Stop waiting."""
        with self._lock:
            if waiter in self._producers:
                self._producers.remove(waiter)

    def wake(self) -> list[Waiter]:
        """Wake and return all who wait for room."""
        with self._lock:
            return self._wake()

    def _wake(self) -> list[Waiter]:
        producers, self._producers = self._producers, []
        for waiter in producers:
            waiter.wake()
        return producers
