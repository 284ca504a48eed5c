"""What the server of these tests serves: apps that record what they are delivered and what they send.

They are written once for both kinds of session, and served as ``NAME-coroutine`` and ``NAME-thread``. The parameter
``record`` names the file that has the records of a session once its deferred calls have run.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

from session_service import AbstractSession, ThreadSession, get_current_session

from .history import Attach, Defer, Deferred, Deliver, Detach, Send
from .recorder import Recorder

__all__ = ["apps"]

App: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

PATIENCE = 30.0

# What sessions have reached, for `wait_for` to tell the test.
_marks: dict[str, threading.Event] = {}


class Recorded:
    """The session of the app that is running, its side of the history recorded; in a thread its methods block.

    Attributes:
        params: those of the session.
        resumes: released each time a client has come back.
        detached: set when a client has gone.
    """

    def __init__(self) -> None:
        self._session = session = get_current_session()
        self.params = session.params
        self.in_thread = isinstance(session, ThreadSession)
        self.resumes, self.detached = threading.Semaphore(0), threading.Event()
        self._recorder = Recorder()
        self._events, self._commands, self._attachments = itertools.count(1), itertools.count(1), itertools.count(1)
        session.on_attach(self._on_attach)
        session.on_detach(self._on_detach)
        self._recorder.add(Defer("save"))
        session.defer_call(self._save)

    async def take(self) -> Any:
        """Return the data of the next event."""
        event = await _value(self._session.next_client_event())
        self._recorder.add(Deliver("server", next(self._events), event["data"]))
        return event["data"]

    async def send(self, value: Any) -> None:
        """Send a command, and wait for room for the next."""
        at = self._recorder.now()
        self._session.send_task_command({"command": "say", "spec": value})
        self._recorder.add(Send("server", next(self._commands), value), at)
        await _value(self._session.drain())

    async def pause(self, seconds: float) -> None:
        """Do something else."""
        if self.in_thread:
            time.sleep(seconds)  # noqa: ASYNC251 - it is a thread
        else:
            await asyncio.sleep(seconds)

    async def wait(self, blocks: Callable[..., bool]) -> None:
        """Wait for what the hooks tell: `resumes.acquire` or `detached.wait`."""
        if not await _value(
            blocks(timeout=PATIENCE) if self.in_thread else asyncio.to_thread(blocks, timeout=PATIENCE)
        ):
            raise TimeoutError("the hooks told nothing")

    def begin(self, part: App) -> None:
        """Run a part of the app beside the rest."""
        self._session.run_task(_in_thread(part) if self.in_thread else part)

    def reach(self, name: str) -> None:
        """Tell whoever waits for the mark that the parameter of this name gives, if there is one."""
        if mark := self.params.get(name):
            _marks.setdefault(mark, threading.Event()).set()

    def _on_attach(self, session: AbstractSession, resumed: bool) -> None:
        self._recorder.add(Attach("server", next(self._attachments)))
        if resumed:
            self.resumes.release()

    def _on_detach(self, session: AbstractSession) -> None:
        self._recorder.add(Detach("server"))
        self.detached.set()
        self.reach("detached")

    def _save(self) -> None:
        self._recorder.add(Deferred("save"))
        self._recorder.save(Path(self.params["record"]))
        self.reach("ended")


async def echo() -> None:
    """Say everything back until the client has no more to say."""
    app = Recorded()
    while True:
        await app.send(await app.take())


async def converse() -> None:
    """Take ``events`` events and send ``commands`` commands, each independent of the other.

    Parameters: it takes no events before a client has come back ``deaf`` times; ``pause`` seconds pass after each
    ``burst`` of events.
    """
    app = Recorded()
    params = app.params

    async def speak() -> None:
        for number in range(1, params["commands"] + 1):
            await app.send(f"command {number}")

    app.begin(speak)
    for _ in range(params.get("deaf", 0)):
        await app.wait(app.resumes.acquire)
    for number in range(1, params["events"] + 1):
        await app.take()
        if params.get("burst") and number % params["burst"] == 0:
            await app.pause(params["pause"])


async def last_words() -> None:
    """End when the client has gone, and not without a few words."""
    app = Recorded()
    await app.take()
    await app.wait(app.detached.wait)
    for number in range(1, app.params["commands"] + 1):
        await app.send(f"command {number}")


def wait_for() -> None:
    """End when another session has reached the ``mark``."""
    _marks.setdefault(get_current_session().params["mark"], threading.Event()).wait(PATIENCE)


async def _value(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _in_thread(app: App) -> Callable[[], None]:
    """Make a plain function of an app that waits for nothing, since its session blocks instead."""

    def run() -> None:
        try:
            app().send(None)
        except StopIteration:
            return
        raise RuntimeError("an app in a thread awaited something")

    return run


apps: dict[str, Callable[[], Any]] = {"wait_for": wait_for}
for _app in (echo, converse, last_words):
    apps[f"{_app.__name__}-coroutine"] = _app
    apps[f"{_app.__name__}-thread"] = _in_thread(_app)
