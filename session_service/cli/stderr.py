"""Logs to stderr, and goes on where that does not: a full disk, a pipe that nobody reads."""

from __future__ import annotations

import logging
import os
import select
import sys

__all__ = ["StderrHandler"]

# What a pipe that is ready takes without waiting, by POSIX.
CHUNK = select.PIPE_BUF

# Milliseconds that a record may wait, and all of the server with it, where the ones before had not to.
PATIENCE = 100


class StderrHandler(logging.Handler):
    """Writes records to stderr. Those that it does not take are lost, counted, and mentioned in the log later.

    Python's own handler would wait for a pipe that is full, and so would every session.

    Attributes:
        lost: how many records were lost and are not yet mentioned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0
        self._poll = select.poll()
        self._descriptor: int | None = None
        if sys.stderr is not None:  # else it was closed at the start, and its number may be a connection's by now
            # A duplicate: an app may close stderr, and then that number becomes a connection's.
            self._descriptor = os.dup(sys.stderr.fileno())
            self._poll.register(self._descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it as lost."""
        try:
            text = self.format(record)
        except Exception:  # whatever its arguments raise: not the affair of who logs
            self.handleError(record)
            return
        if self.lost:
            text = f"{self.format(_mention(self.lost))}\n{text}"
        if self._write(f"{text}\n".encode(errors="backslashreplace")):
            self.lost = 0
        else:
            self.lost += 1

    def _write(self, data: bytes) -> bool:
        if self._descriptor is None:
            return False
        try:
            while data:
                if not self._poll.poll(0 if self.lost else PATIENCE):
                    return False
                data = data[os.write(self._descriptor, data[:CHUNK]) :]
        except OSError:
            return False
        return True


def _mention(lost: int) -> logging.LogRecord:
    return logging.LogRecord(
        __name__, logging.ERROR, __file__, 0, "%d log records are lost: stderr did not take them", (lost,), None
    )
