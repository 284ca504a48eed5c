"""Writes down what one side of a session does, by a clock that all processes of a machine share."""

from __future__ import annotations

import heapq
import pickle
import time
from pathlib import Path

from .history import Record

__all__ = ["Recorder", "merge"]


class Recorder:
    """The records of one side, in the order of time.

    What a side is about to say must be recorded as of before it says it: ``at = now()`` takes the time for that.

    Attributes:
        records: each with its time.
    """

    def __init__(self) -> None:
        self.records: list[tuple[int, Record]] = []

    @staticmethod
    def now() -> int:
        """Return the time, for `add`."""
        return time.monotonic_ns()

    def add(self, record: Record, at: int | None = None) -> None:
        """Record something that has happened now, or at an earlier time."""
        self.records.append((time.monotonic_ns() if at is None else at, record))

    def save(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(pickle.dumps(self.records))
        unfinished.rename(path)

    @staticmethod
    def load(path: Path) -> Recorder:
        """Read what another process saved."""
        recorder = Recorder()
        recorder.records = pickle.loads(path.read_bytes())
        return recorder


def merge(*sides: Recorder) -> list[Record]:
    """Return one history of what the sides recorded."""
    ordered = [sorted(side.records, key=lambda entry: entry[0]) for side in sides]
    return [record for _, record in heapq.merge(*ordered, key=lambda entry: entry[0])]
