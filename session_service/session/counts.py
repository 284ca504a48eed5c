"""How many sessions there are."""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["ACTIVE", "Counts"]


class Counts:
    """Counts sessions by their class; from any thread, since there may be a loop in each."""

    def __init__(self) -> None:
        self._counts: Counter[type] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: type, change: int) -> None:
        """Count ``change`` more of a class."""
        with self._lock:
            self._counts[kind] += change

    def of(self, parent: type) -> int:
        """Return how many there are of a class, and of those below it."""
        with self._lock:
            return sum(count for kind, count in self._counts.items() if issubclass(kind, parent))


# PyWebIO's contract has it as a static method, so it is the process's.
ACTIVE = Counts()
