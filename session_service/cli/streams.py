"""The standard streams: what a command does where one is closed, full, or of another encoding than UTF-8.

Commands write to stdout as they please. Where it takes nothing any more the write raises `StdoutError`, the command
ends, and `main` tells so. What only comments on a command's work goes to stderr by `say`, and ends nothing.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click

__all__ = ["StdoutError", "give_up_stdout", "prepare", "say", "say_line"]


class StdoutError(OSError):
    """Stdout takes nothing, or nothing any more: it is closed, its disk is full, or nobody reads it."""


class _Stdout(io.BufferedWriter):
    """Stdout, whose errors can be told from those of other files.

    Not on the level of io.FileIO: Ctrl-C after its write, in code of ours, would have the same bytes written again.
    """

    def write(self, data: Any, /) -> int:  # collections.abc.Buffer is of Python 3.12
        try:
            return super().write(data)
        except OSError as error:
            raise StdoutError(*error.args) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise StdoutError(*error.args) from None


def prepare() -> None:
    """Make the streams safe to use; called once, before anything opens a file or a connection.

    A descriptor that is closed at the start would be given to the next file or connection, and whatever is written to
    the stream would go there. uvloop aborts the process where it finds its own at 0, 1 or 2.
    """
    for number, mode in ((0, os.O_RDWR), (1, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free: this one. What is written to 1 fails, as it does on a closed one.
            os.open(os.devnull, mode)
    sys.stdout = io.TextIOWrapper(
        _Stdout(io.FileIO(1, "wb", closefd=False)),
        encoding=None if sys.stdout is None else sys.stdout.encoding,
        errors="backslashreplace",  # a terminal need not know every character; stderr is so by itself
        line_buffering=os.isatty(1),
    )


def say(text: str) -> None:
    """Tell people something on stderr, on a line that begins with the name of the program."""
    say_line(f"session-service: {text}")


def say_line(line: str) -> None:
    """Write a line to stderr; where that takes none, there is no other place to tell it."""
    try:
        click.echo(line, err=True)
    except OSError:
        pass


def give_up_stdout() -> None:
    """Have what is still to be written go nowhere; else Python complains about it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
