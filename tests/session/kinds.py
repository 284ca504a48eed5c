"""One suite for both kinds of session: every app is written once, as an ``async def``.

A coroutine session runs it as it is. A thread session runs it in a thread, where nothing that it awaits ever suspends:
what an app needs to wait for, it asks its `Kind` for, and the thread's way of waiting is to block.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any

from session_service import (
    AbstractSession,
    ClientEvent,
    CloseReason,
    CoroutineSession,
    SessionOptions,
    ThreadSession,
    get_current_session,
)
from session_service.session.kinds import COROUTINES, THREADS
from session_service.session.runner import Runner
from session_service.session.snapshot import SessionSnapshot

Body = Callable[..., Coroutine[Any, Any, Any]]

# What must come comes at once, so this is only how long a broken test takes to fail.
LIMIT = 30.0


async def eventually(predicate: Callable[[], object]) -> None:
    """Wait for what nothing announces, such as the end of a thread."""
    async with asyncio.timeout(LIMIT):
        while not predicate():  # noqa: ASYNC110 - nothing sets an Event here
            await asyncio.sleep(0.001)


class Gate:
    """Opens once, from any thread; tests and apps of either kind wait at it."""

    def __init__(self) -> None:
        self._future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def open(self, value: object = None) -> None:
        """Let everybody through; again does nothing."""
        if not self._future.done():
            self._future.set_result(value)

    def is_open(self) -> bool:
        """Tell whether it has been opened."""
        return self._future.done()

    async def opened(self) -> Any:
        """Wait on the loop; return what it was opened with."""
        async with asyncio.timeout(LIMIT):
            return await asyncio.shield(asyncio.wrap_future(self._future))

    def block(self) -> Any:
        """Wait in a thread."""
        return self._future.result(LIMIT)


class Backend:
    """What the server is to a session: hands events in, takes commands out, and notes which hooks were called.

    Attributes:
        session: the session.
        taken: the commands so far.
        edges: how often ``on_task_command`` was called.
        rooms: how often ``on_event_room`` was called.
        closings: how often ``on_session_close`` was called.
    """

    def __init__(self, start: Callable[..., AbstractSession], options: dict[str, Any]) -> None:
        self.taken: list[dict[str, Any]] = []
        self.edges = self.rooms = self.closings = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._end = asyncio.Event()
        self.session = start(
            on_task_command=self._on_task_command,
            on_session_close=self._on_session_close,
            on_event_room=self._on_event_room,
            **options,
        )

    def _on_task_command(self, session: AbstractSession) -> None:
        self.edges += 1
        self._news.set()

    def _on_event_room(self, session: AbstractSession) -> None:
        self.rooms += 1
        self._room.set()

    def _on_session_close(self, session: AbstractSession) -> None:
        self.closings += 1
        self._end.set()

    def send(self, data: object = None, task_id: str = "", event: str = "say", size: int = 0) -> bool:
        """Hand in an event."""
        return self.session.send_client_event({"event": event, "task_id": task_id, "data": data}, size)

    def click(self, callback_id: object, data: object = None) -> bool:
        """Hand in an event for a callback."""
        return self.session.send_client_event({"event": "callback", "task_id": callback_id, "data": data})

    def look(self) -> SessionSnapshot:
        """Return what the session is doing."""
        return self.session.snapshot(most=1000)

    async def specs(self, count: int) -> list[Any]:
        """Take commands until there have been ``count``; return the specs of all that were ever taken."""
        async with asyncio.timeout(LIMIT):
            while True:
                self._news.clear()
                self.taken += self.session.get_task_commands()
                if len(self.taken) >= count:
                    return [command["spec"] for command in self.taken]
                await self._news.wait()

    async def room(self) -> None:
        """Wait for ``on_event_room``."""
        async with asyncio.timeout(LIMIT):
            await self._room.wait()
        self._room.clear()

    async def ended(self) -> CloseReason | None:
        """Wait for ``on_session_close``; return the reason."""
        async with asyncio.timeout(LIMIT):
            await self._end.wait()
        return self.session.close_reason

    async def close(self) -> CloseReason | None:
        """Close, and wait for the end."""
        self.session.close()
        return await self.ended()


class Kind:
    """One kind of session, and how its apps do what the kinds do differently."""

    session_class: type[AbstractSession]

    def __init__(self) -> None:
        self._gates: list[Gate] = []
        self._backends: list[Backend] = []

    @property
    def runner(self) -> Runner:
        """What runs the code of its sessions."""
        return (COROUTINES if self.session_class is CoroutineSession else THREADS).runner

    def function(self, body: Body) -> Callable[..., Any]:
        """Return what this kind of session runs."""
        raise NotImplementedError

    async def event(self, session: AbstractSession) -> Any:
        """In an app: the data of the next event."""
        return (await self.next_event(session))["data"]

    async def next_event(self, session: AbstractSession, timeout: float | None = None) -> ClientEvent:
        """In an app: the next event."""
        raise NotImplementedError

    async def drain(self, session: AbstractSession) -> None:
        """In an app: wait for room."""
        raise NotImplementedError

    async def at(self, gate: Gate) -> Any:
        """In an app: wait at a gate, which is no call of the session."""
        raise NotImplementedError

    async def switch(self) -> None:
        """In an app: let others run."""
        raise NotImplementedError

    def gate(self) -> Gate:
        """Return a gate that opens at the end of the test at the latest."""
        self._gates.append(Gate())
        return self._gates[-1]

    def app(self, body: Body) -> Callable[[], Any]:
        """Return an app of this kind; ``body`` gets the session."""

        async def target() -> Any:
            return await body(get_current_session())

        return self.function(target)

    def open(self, body: Body, *, limits: SessionOptions | None = None, **options: Any) -> Backend:
        """Start a session that ends with the test at the latest."""
        start = functools.partial(self.session_class, self.app(body), options=limits)
        backend = Backend(start, options)
        self._backends.append(backend)
        return backend

    async def finish(self) -> None:
        """End whatever the test left."""
        for gate in self._gates:
            gate.open()
        for backend in self._backends:
            await backend.close()


class CoroutineKind(Kind):
    session_class = CoroutineSession

    def function(self, body: Body) -> Callable[..., Any]:
        return body

    async def next_event(self, session: AbstractSession, timeout: float | None = None) -> ClientEvent:
        event: ClientEvent = await session.next_client_event(timeout)
        return event

    async def drain(self, session: AbstractSession) -> None:
        await session.drain()

    async def at(self, gate: Gate) -> Any:
        return await gate.opened()

    async def switch(self) -> None:
        await asyncio.sleep(0)


class ThreadKind(Kind):
    session_class = ThreadSession

    def function(self, body: Body) -> Callable[..., Any]:
        @functools.wraps(body)
        def plain(*args: Any) -> Any:
            coroutine = body(*args)
            try:
                coroutine.send(None)
            except StopIteration as stop:
                return stop.value
            coroutine.close()
            raise AssertionError(f"{body.__qualname__} awaited what suspends")

        return plain

    async def next_event(self, session: AbstractSession, timeout: float | None = None) -> ClientEvent:
        event: ClientEvent = session.next_client_event(timeout)
        return event

    async def drain(self, session: AbstractSession) -> None:
        session.drain()

    async def at(self, gate: Gate) -> Any:
        return gate.block()

    async def switch(self) -> None:
        time.sleep(0)  # noqa: ASYNC251 - it runs in a thread
