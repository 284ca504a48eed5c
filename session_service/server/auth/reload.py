"""Files that are read again when they change: certificates, tokens, keys."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["INTERVAL", "Reloading"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[object, ...]

# Seconds between two looks. A change is loaded when two of them agree, since a file that is being written is not whole.
INTERVAL = 1.0


class Reloading(Generic[T]):
    """What some files hold. Where they change for the worse, what they held before stays in use.

    Attributes:
        name: what the files are, for logs and metrics.
        value: what was loaded last.
        loads: how often they were loaded, the first time included.
        failures: how many changes could not be loaded.
        failing: the files are not what is in use.
    """

    def __init__(self, name: str, paths: Sequence[str], load: Callable[[], T]) -> None:
        """Load the files.

        Args:
            name: what they are.
            paths: where they are.
            load: reads them; raises OSError or ValueError where they are no good.

        Raises:
            OSError, ValueError: what ``load`` raises.
        """
        self.name = name
        self.loads = 1
        self.failures = 0
        self.failing = False
        self._paths = paths
        self._load = load
        self._loaded = self._seen = self._stamp()
        self._problem: object = None
        self.value = load()

    def look(self) -> None:
        """Load the files, if they have changed and are at rest; called every `INTERVAL` seconds."""
        stamp = self._stamp()
        at_rest, self._seen = stamp == self._seen, stamp
        if stamp == self._loaded:
            self.failing = False
        elif at_rest:
            self._reload(stamp)

    def _reload(self, stamp: Stamp) -> None:
        try:
            value = self._load()
        except Exception as error:  # whatever a file can make a library raise: the server goes on
            self.failing = True
            if (problem := (stamp, str(error))) != self._problem:  # it is tried again and again
                self._problem = problem
                self.failures += 1
                logger.error("the %s cannot be reloaded, the old ones stay in use: %s", self.name, error)
        else:
            self.value = value
            self.loads += 1
            self._loaded = stamp
            self._problem, self.failing = None, False
            logger.info("the %s are reloaded", self.name)

    def _stamp(self) -> Stamp:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_dev, found.st_ino
