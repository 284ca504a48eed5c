"""Walks one round trip through the house, and counts how often it moves to another file: ``python -m bench.walk``.

A *move* is a call whose code stands in a file of session_service that is not its caller's file. Returns do not count,
nor do calls of C. An *event* walks from the return of the transport's read to the app's return from
`next_client_event`, a *command* from `send_task_command` to the transport's write. Few moves, and few returns to a
file, mean that each file does its part in one go.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, cast

import session_service
from session_service import get_current_session
from session_service.config import Config
from session_service.host import SessionManager
from session_service.server.attachment import Context
from session_service.server.auth import anonymous
from session_service.server.service import SessionService

from .conversation import answer
from .guard import WARM_UP, Guard, Loop, Script, Stream, opening

__all__ = ["LEGS", "walk"]

HOUSE = str(Path(session_service.__file__).parent)

LEGS = ("event", "command")

Leg = list[str]
"""The files that were entered, in order."""


class Walk:
    """Follows what runs, while a leg is on its way.

    Attributes:
        legs: what was entered on each leg, last time.
    """

    def __init__(self) -> None:
        self.legs: dict[str, Leg] = {}
        self._entered: Leg | None = None

    def begin(self, leg: str) -> None:
        """Follow from now on."""
        self.legs[leg] = self._entered = []

    def end(self) -> None:
        """Follow no more."""
        self._entered = None

    def follow(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a move; see `sys.setprofile`."""
        if self._entered is None or event != "call":
            return
        file = frame.f_code.co_filename
        if file.startswith(HOUSE) and (frame.f_back is None or frame.f_back.f_code.co_filename != file):
            self._entered.append(file.removeprefix(HOUSE).lstrip("/"))


class WalkedStream(Stream):
    """The guard's stream, at which an event's leg begins and a command's leg ends."""

    def __init__(self, guard: Guard, script: Script, walk: Walk) -> None:
        super().__init__(guard, script)
        self._walk = walk

    async def read(self) -> Any:
        """Return what the script says next."""
        data = await super().read()
        self._walk.begin("event")
        return data

    async def write(self, data: bytes) -> None:
        """Take a response."""
        self._walk.end()
        await super().write(data)


def walk() -> dict[str, Leg]:
    """Return the files that an event and its command enter, in order, by leg."""
    walked = Walk()

    async def echo() -> None:
        session = get_current_session()
        session.send_task_command({"command": "hello"})
        while True:
            event = await session.next_client_event()
            walked.end()
            walked.begin("command")
            session.send_task_command({"command": "echo", "spec": event["data"], "task_id": event["task_id"]})

    def script() -> Script:
        yield opening("echo")
        yield 1
        for sequence in range(1, WARM_UP + 1):
            yield answer(sequence, "", value=False)
            yield 1 + sequence

    async def run() -> dict[str, Leg]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        service = SessionService(SessionManager({"echo": echo}, Config()), anonymous)
        stream = WalkedStream(Guard(loop), script(), walked)
        sys.setprofile(walked.follow)
        try:
            call = loop.create_task(service.attach(cast("Any", None), cast("Context", stream)))
            await stream.done
        finally:
            sys.setprofile(None)
        legs = dict(walked.legs)  # the stream goes on
        loop.stands = False
        stream.close()
        await call
        return legs

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(run())


def main() -> None:
    """Print both legs, and how often each file was entered."""
    argparse.ArgumentParser(prog="python -m bench.walk", description=__doc__).parse_args()
    logging.disable()
    for name, leg in walk().items():
        most = Counter(leg).most_common()
        print(f"{name}: {len(leg)} moves; " + ", ".join(f"{file} {count}" for file, count in most))
        print("  " + " > ".join(leg))


if __name__ == "__main__":
    main()
