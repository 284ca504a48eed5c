"""A session that has ended, and that nobody keeps, is freed with the last reference to it: no collector has to come."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import pytest

from session_service import (
    AbstractSession,
    CloseReason,
    SessionClosedException,
    SessionNotFoundException,
    SessionOptions,
    ThreadSession,
    get_current_session,
    get_current_task_id,
)
from session_service.session import kinds
from session_service.session.home import here
from session_service.session.stopwatch import Stopwatch
from session_service.session.thread import ThreadRunner
from session_service.window import Window

from .kinds import Backend, CoroutineKind, Kind, eventually

App = Callable[[Kind, AbstractSession], Coroutine[Any, Any, None]]
End = Callable[[AbstractSession], object]

LIMITS = SessionOptions(callback_runs=2, event_window=Window(8, 1000), command_window=Window(8, 1000), close_grace=0.2)

mine: contextvars.ContextVar[object] = contextvars.ContextVar("mine")


class Large:
    """What an app has in a local variable."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Free by reference counting alone; and log nothing, for pytest keeps the records with their tracebacks."""
    gc.collect()
    gc.disable()
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


async def run(kind: Kind, app: App, end: End) -> list[weakref.ref[Any]]:
    """Run an app to its end; return what shall be freed."""
    mortal: list[weakref.ref[Any]] = []

    async def body(session: AbstractSession) -> None:
        large = Large()
        mortal.append(weakref.ref(large))
        await app(kind, session)

    backend = Backend(functools.partial(kind.session_class, kind.app(body), options=LIMITS), {})
    session = backend.session
    mortal.append(weakref.ref(session))
    session.time_events(Stopwatch(lambda seconds, stopwatch: None))
    session.notify_attach(False)
    session.notify_detach()
    session.notify_attach(True)
    for n in range(3):
        backend.send(n)
    if app is is_clicked:
        for callback_id in await backend.specs(3):
            for n in range(3):
                backend.click(callback_id, n)
    end(session)
    await backend.ended()
    session.notify_attach(True)  # a client may come to hear of the end
    session.notify_detach()
    return mortal


def threads() -> list[threading.Thread]:
    """Those of sessions: each holds its own until it is over, a moment after it has said so."""
    return [thread for thread in threading.enumerate() if "/" in thread.name]


# --- apps ---


async def returns(kind: Kind, session: AbstractSession) -> None:
    session.send_task_command({"command": "hello", "spec": None})


async def waits(kind: Kind, session: AbstractSession) -> None:
    while True:
        await kind.event(session)


async def drains(kind: Kind, session: AbstractSession) -> None:
    for n in range(8):
        session.send_task_command({"command": "n", "spec": n})
    await kind.drain(session)


async def fails(kind: Kind, session: AbstractSession) -> None:
    raise ValueError(f"in session {session.id}")


async def asks_again(kind: Kind, session: AbstractSession) -> None:
    try:
        await waits(kind, session)
    except SessionClosedException as error:
        session.send_task_command({"command": "too late", "spec": str(error)})


async def uses_all(kind: Kind, session: AbstractSession) -> None:
    """Have it held by callbacks, hooks, deferred calls, tasks and its context."""
    mine.set(session)

    async def use(*_: object) -> None:
        assert get_current_session() is session

    async def fail(*_: object) -> None:
        raise ValueError(f"in session {session.id}")

    async def fail_to_wait(*_: object) -> None:
        await waits(kind, session)

    bodies = (use, fail, fail_to_wait)
    for body in bodies:
        session.register_callback(kind.function(body), serial_mode=True)
        session.on_attach(kind.function(body))
        session.on_detach(kind.function(body))
        session.defer_call(kind.function(body))
    tasks = [session.run_task(kind.function(body)) for body in bodies]
    tasks[-1].cancel()
    try:
        await waits(kind, session)
    finally:
        session.on_attach(kind.function(use))
        session.on_detach(kind.function(use))
        session.defer_call(kind.function(use))


async def is_clicked(kind: Kind, session: AbstractSession) -> None:
    """Have clicks wait behind such as do not end by themselves."""

    async def click(data: object) -> None:
        await waits(kind, session)

    for options in ({"serial_mode": True}, {"mutex_mode": True}, {}):
        session.send_task_command({"command": "id", "spec": session.register_callback(kind.function(click), **options)})
    await waits(kind, session)


async def does_not_unwind(kind: Kind, session: AbstractSession) -> None:
    try:
        await waits(kind, session)
    except (SessionClosedException, asyncio.CancelledError):
        await kind.at(kind.gate())


# --- ends ---


def end_events(session: AbstractSession) -> None:
    session.end_events()


def close(session: AbstractSession) -> None:
    session.close()


def close_in_a_thread(session: AbstractSession) -> None:
    thread = threading.Thread(target=session.close)
    thread.start()
    thread.join()


def expire(session: AbstractSession) -> None:
    session.close(reason=CloseReason.EXPIRED, message="nobody came")


APPS: list[App] = [returns, waits, fails, asks_again, uses_all, drains, is_clicked, does_not_unwind]
DEAF: list[App] = [drains, is_clicked, does_not_unwind]  # to the end of events


@pytest.mark.parametrize(
    ("app", "end"),
    [
        (app, end)
        for app in APPS
        for end in (end_events, close, close_in_a_thread, expire)
        if app not in DEAF or end is not end_events
    ],
)
async def test_an_ended_session_is_freed_with_its_last_reference(kind: Kind, app: App, end: End) -> None:
    mortal = await run(kind, app, end)
    await kind.finish()
    await eventually(lambda: not threads())
    await asyncio.sleep(0)
    assert [ref() for ref in mortal] == [None] * len(mortal)


# --- coroutines: all of asyncio ---


async def waits_in_children(kind: Kind, session: AbstractSession) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(get_current_session))
        for _ in range(2):
            group.create_task(waits(kind, session))
        await waits(kind, session)


async def fails_in_children(kind: Kind, session: AbstractSession) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails(kind, session))
        await waits(kind, session)


async def cancels_a_wait(kind: Kind, session: AbstractSession) -> None:
    with suppress(TimeoutError, SessionClosedException):
        async with asyncio.timeout(0.001) as timeout:
            await waits(kind, session)
            assert timeout
    child = asyncio.create_task(waits(kind, session))
    await asyncio.wait({child}, timeout=0.001)
    child.cancel()
    await asyncio.wait({child})


async def sleeps(kind: Kind, session: AbstractSession) -> None:
    me = asyncio.current_task()
    async with asyncio.timeout(1000) as timeout:
        await asyncio.gather(asyncio.sleep(1000), waits(kind, session), return_exceptions=True)
    assert me is not None
    assert not timeout.expired()


@pytest.mark.parametrize("end", [end_events, close])
@pytest.mark.parametrize("app", [waits_in_children, fails_in_children, cancels_a_wait, sleeps])
async def test_what_an_app_does_with_asyncio_keeps_no_session(coroutines: CoroutineKind, app: App, end: End) -> None:
    mortal = await run(coroutines, app, end if app is not sleeps else close)
    await asyncio.sleep(0.01)
    assert [ref() for ref in mortal] == [None] * len(mortal)


async def test_what_outlives_a_session_in_its_context_does_not_keep_it(kind: Kind) -> None:
    """As a pool does that is made by the first session that needs it, and serves all others."""
    contexts: list[contextvars.Context] = []

    async def app(kind: Kind, session: AbstractSession) -> None:
        contexts.append(contextvars.copy_context())
        await waits(kind, session)

    mortal = await run(kind, app, end_events)
    await eventually(lambda: not threads())
    assert [ref() for ref in mortal] == [None] * len(mortal)
    with pytest.raises(SessionNotFoundException, match="is gone"):
        contexts[0].run(get_current_session)
    assert contexts[0].run(get_current_task_id).startswith("main-")


async def test_a_session_that_could_not_start_is_freed() -> None:
    def app() -> None:
        raise AssertionError("never")

    tried: list[weakref.ref[Any]] = []

    class Noted(ThreadRunner):
        def start(self, *args: Any) -> None:
            tried.append(weakref.ref(args[-1]))
            super().start(*args)

    with pytest.raises(RuntimeError, match="threads"):
        ThreadSession(app, None, options=SessionOptions(max_threads=1), kind=kinds.Kind(here, Noted()))
    assert [ref() for ref in tried] == [None]
