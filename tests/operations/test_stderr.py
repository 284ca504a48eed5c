"""The log's way to stderr, over a pipe that the test holds at both ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import pytest

from session_service.cli import stderr
from session_service.cli.stderr import StderrHandler


class Pipe:
    """What the handler takes for stderr."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def fileno(self) -> int:
        return self.writer

    def read(self) -> str:
        os.set_blocking(self.reader, False)
        return os.read(self.reader, 1 << 20).decode()

    def fill(self) -> None:
        os.set_blocking(self.writer, False)
        try:
            while True:
                os.write(self.writer, b"." * 4096)
        except BlockingIOError:
            os.set_blocking(self.writer, True)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reader)
    os.close(pipe.writer)


@pytest.fixture
def handler(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> StderrHandler:
    monkeypatch.setattr(stderr, "PATIENCE", 1)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", pipe)
        return StderrHandler()


def log(handler: StderrHandler, message: str, *args: object) -> None:
    handler.handle(logging.LogRecord("test", logging.INFO, __file__, 1, message, args, None))


def test_records_are_lines(pipe: Pipe, handler: StderrHandler) -> None:
    log(handler, "%s %d", "one", 1)
    log(handler, "zwei \N{SNOWMAN} \udc80")
    assert pipe.read() == "one 1\nzwei \N{SNOWMAN} \\udc80\n"


def test_a_record_larger_than_a_pipe_takes_at_once_is_whole(pipe: Pipe, handler: StderrHandler) -> None:
    log(handler, 30_000 * "x")
    assert pipe.read() == 30_000 * "x" + "\n"


def test_what_a_full_pipe_does_not_take_is_lost_and_mentioned_when_there_is_room(
    pipe: Pipe, handler: StderrHandler
) -> None:
    pipe.fill()
    for number in range(3):
        log(handler, "lost %d", number)
    assert handler.lost == 3
    pipe.read()
    log(handler, "there is room")
    log(handler, "and more")
    assert pipe.read() == "3 log records are lost: stderr did not take them\nthere is room\nand more\n"
    assert handler.lost == 0


def test_a_record_that_cannot_be_formatted_breaks_nothing(
    pipe: Pipe, handler: StderrHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log(handler, "%d", "no number")
    log(handler, "the next")
    assert pipe.read() == "the next\n"


def test_where_stderr_is_closed_everything_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", None)
        handler = StderrHandler()
    log(handler, "nobody reads this")
    assert handler.lost == 1
