"""Observers are told what becomes of sessions, and one that fails hurts nobody."""

from __future__ import annotations

import asyncio
import logging

import pytest

from session_service.config import Config
from session_service.errors import ProtocolError, SessionLimit, TakenOver
from session_service.host import ManagedSession, SessionManager
from session_service.host.observers import Observer, SessionView
from session_service.session import SessionInfo


class Stream:
    """A stream that does nothing but end."""

    client_id = ""

    def __init__(self) -> None:
        self.woken, self.over = asyncio.Event(), asyncio.Event()

    def wake(self) -> None:
        self.woken.set()

    def events_taken(self) -> None: ...

    def fail(self, error: ProtocolError) -> None: ...

    def forgotten(self) -> None:
        self.over.set()

    def announce_draining(self, grace: float) -> None: ...


async def app() -> None: ...


class Diary(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def opened(self, managed: SessionView) -> None:
        self.told.append(("opened", managed.app))

    def attached(self, managed: SessionView) -> None:
        self.told.append(("attached", managed.generation))

    def detached(self, managed: SessionView, error: ProtocolError | None) -> None:
        self.told.append(("detached", type(error)))

    def ended(self, managed: SessionView) -> None:
        self.told.append(("ended", managed.session.close_reason and managed.session.close_reason.name))

    def forgotten(self, managed: SessionView) -> None:
        self.told.append(("forgotten", managed.app))

    def refused(self, error: ProtocolError) -> None:
        self.told.append(("refused", type(error)))


async def life(manager: SessionManager) -> None:
    """Open a session, take it over, lose it, come back to it, and see it end."""

    def attach(managed: ManagedSession, stream: Stream, resuming: bool = False) -> None:
        managed.attach(stream, received=0, command_window=manager.config.command_window, resuming=resuming)

    managed = manager.open("app", info=SessionInfo(), params={}, resumable=True)
    first, second, third = Stream(), Stream(), Stream()
    attach(managed, first)
    attach(managed, second)
    managed.detach(first)  # late: it is not its session any more
    managed.detach(second)
    attach(managed, third, resuming=True)
    async with asyncio.timeout(5):
        await third.woken.wait()
        managed.feed()
        sequence, _closed = managed.outbox.take(1)
        managed.ack(sequence)
        await third.over.wait()
    manager.refused(SessionLimit("there is no room"))


TOLD: list[tuple[str, object]] = [
    ("opened", "app"),
    ("attached", 1),
    ("detached", TakenOver),
    ("attached", 2),
    ("detached", type(None)),
    ("attached", 3),
    ("ended", "COMPLETED"),
    ("forgotten", "app"),
    ("refused", SessionLimit),
]


async def test_observers_are_told_what_becomes_of_a_session_in_the_order_of_things() -> None:
    diary = Diary()
    await life(SessionManager({"app": app}, Config(), observers=[diary]))
    assert diary.told == TOLD


class Broken(Diary):
    """Raises whatever it is told."""

    def __getattribute__(self, name: str) -> object:
        method = super().__getattribute__(name)
        if not hasattr(Observer, name) or name.startswith("__"):
            return method

        def fails(*args: object) -> None:
            method(*args)
            raise RuntimeError(f"{name} is broken")

        return fails


async def test_an_observer_that_raises_is_logged_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    broken, diary = Broken(), Diary()
    manager = SessionManager({"app": app}, Config(), observers=[broken, diary])
    await life(manager)
    assert broken.told == diary.told == TOLD
    assert len(manager) == 0
    failed = [
        record.exc_info and str(record.exc_info[1]) for record in caplog.records if record.levelno >= logging.ERROR
    ]
    assert failed == [f"{name} is broken" for name, _ in TOLD]
