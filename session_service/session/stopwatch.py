"""How long something takes, sampled."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["RESTING", "Stopwatch"]

RESTING = object()


class Stopwatch:
    """Times one thing at a time, as TCP times round trips: what comes meanwhile costs a look, and is not timed.

    Attributes:
        item: what is being timed; None while it waits for something to time, `RESTING` after it has.
    """

    __slots__ = ("_observe", "_since", "item")

    def __init__(self, observe: Callable[[float, Stopwatch], None]) -> None:
        """``observe`` is told the seconds, and sees to it that `item` becomes None again, now or later."""
        self.item: object = None
        self._observe = observe
        self._since = 0.0

    def start(self, item: object) -> None:
        """Begin to time ``item``; call it where `item` is None."""
        self.item = item
        self._since = time.perf_counter()

    def stop(self) -> None:
        """It is over."""
        self.item = RESTING
        self._observe(time.perf_counter() - self._since, self)

    def give_up(self) -> None:
        """Nobody will call `stop` for what is being timed."""
        if self.item is not RESTING:
            self.item = None
