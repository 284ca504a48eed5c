"""Deferred calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from session_service import (
    AbstractSession,
    CloseReason,
    SessionClosedException,
    SessionOptions,
    get_current_session,
)
from tests.session.kinds import CoroutineKind, Kind, ThreadKind


async def test_deferred_calls_run_in_order_each_once_after_all_tasks_have_unwound(kind: Kind) -> None:
    async def other() -> None:
        await kind.at(gate)
        steps.append("task")

    async def app(session: AbstractSession) -> None:
        for number in range(3):
            session.defer_call(lambda number=number: steps.append(number))
        session.run_task(kind.function(other))
        steps.append("main")
        gate.open()

    steps: list[object] = []
    gate = kind.gate()
    await kind.open(app).ended()

    assert steps == ["main", "task", 0, 1, 2]


async def test_deferred_calls_run_before_on_session_close(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.defer_call(lambda: steps.append("deferred"))

    def on_session_close(session: AbstractSession) -> None:
        steps.append("closed")
        closed.open()

    steps: list[str] = []
    closed = kind.gate()
    kind.session_class(kind.app(app), on_session_close=on_session_close)
    await closed.opened()

    assert steps == ["deferred", "closed"]


async def test_async_deferred_calls_are_awaited_whatever_the_kind(kind: Kind) -> None:
    async def slow() -> None:
        await asyncio.sleep(0)
        steps.append(("slow", get_current_session()))

    async def app(session: AbstractSession) -> None:
        session.defer_call(slow)
        session.defer_call(lambda: steps.append(("next", get_current_session())))

    steps: list[object] = []
    backend = kind.open(app)
    await backend.ended()

    assert steps == [("slow", backend.session), ("next", backend.session)]


async def test_defer_call_returns_the_function(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        @session.defer_call
        def last() -> None:
            ran.append("last")

        last()

    ran: list[str] = []
    await kind.open(app).ended()

    assert ran == ["last", "last"]


async def test_what_cannot_be_called_cannot_be_deferred(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        with pytest.raises(TypeError):
            session.defer_call("no function")  # type: ignore[type-var]  # that is the point

    assert await kind.open(app).ended() is CloseReason.COMPLETED


@pytest.mark.parametrize("failure", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("form", ["sync", "async"])
async def test_a_deferred_call_that_raises_is_logged_and_the_rest_run(
    kind: Kind, failure: type[BaseException], form: str, errors: Callable[[], list[str]]
) -> None:
    def fail() -> None:
        raise failure("secret")

    async def fail_async() -> None:
        await asyncio.sleep(0)
        raise failure("secret")

    async def app(session: AbstractSession) -> None:
        session.defer_call(fail if form == "sync" else fail_async)
        session.defer_call(lambda: ran.append("next"))

    ran: list[str] = []
    backend = kind.open(app)

    assert await backend.ended() is CloseReason.COMPLETED
    assert ran == ["next"]
    [log] = errors()
    assert backend.session.id in log
    assert "secret" in log


async def test_deferred_calls_run_after_a_failure_too(kind: Kind, errors: Callable[[], list[str]]) -> None:
    async def app(session: AbstractSession) -> None:
        session.defer_call(lambda: ran.append("deferred"))
        raise ValueError("broken")

    ran: list[str] = []

    assert await kind.open(app).ended() is CloseReason.FAILED
    assert ran == ["deferred"]
    assert len(errors()) == 1


async def test_those_registered_while_closing_run_as_well(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.defer_call(first)
        waiting.open()
        try:
            await kind.next_event(session)
        finally:
            session.defer_call(lambda: ran.append("from finally"))

    def first() -> None:
        ran.append("first")
        get_current_session().defer_call(lambda: ran.append("from deferred"))

    ran: list[str] = []
    waiting = kind.gate()
    backend = kind.open(app)
    await waiting.opened()
    await backend.close()

    assert ran == ["first", "from finally", "from deferred"]


async def test_after_the_end_nothing_can_be_deferred(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        pass

    backend = kind.open(app)
    await backend.ended()

    with pytest.raises(SessionClosedException, match="has ended"):
        backend.session.defer_call(print)


async def test_calls_can_be_deferred_from_outside_a_task(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.next_event(session)

    ran: list[AbstractSession] = []
    backend = kind.open(app)
    backend.session.defer_call(lambda: ran.append(get_current_session()))
    await asyncio.to_thread(backend.session.defer_call, lambda: ran.append(get_current_session()))
    await backend.close()

    assert ran == [backend.session] * 2


@pytest.mark.parametrize("form", ["sync", "async"])
async def test_a_deferred_call_has_a_time_limit(kind: Kind, form: str, errors: Callable[[], list[str]]) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def app(session: AbstractSession) -> None:
        session.defer_call(hang if form == "async" else gate.block)
        session.defer_call(lambda: ran.append("next"))

    ran: list[str] = []
    gate = kind.gate()
    if form == "sync" and isinstance(kind, CoroutineKind):
        gate.open()  # a plain function runs on the loop there, so nothing can limit it
    backend = kind.open(app, limits=SessionOptions(deferred_timeout=0.02))
    await backend.ended()

    assert ran == ["next"]
    assert ["TimeoutError" in log for log in errors()] == ([] if gate.is_open() else [True])


async def test_plain_deferred_calls_of_a_thread_session_delay_no_other_session(threads: ThreadKind) -> None:
    async def app(session: AbstractSession) -> None:
        session.defer_call(wait)

    def wait() -> None:
        running.append(threading.current_thread())
        if len(running) == 40:  # more than the default executor has threads on any machine: cores + 4, 32 at most
            everybody.open()
        everybody.block()

    running: list[threading.Thread] = []
    everybody = threads.gate()
    backends = [threads.open(app) for _ in range(40)]
    for backend in backends:
        await backend.ended()

    assert len(set(running)) == 40
    assert threading.current_thread() not in running


async def test_a_deferred_call_may_await_a_drain_or_an_event_and_learns_that_it_is_over(
    coroutines: CoroutineKind,
) -> None:
    async def last() -> None:
        session = get_current_session()
        for wait in (session.next_client_event, session.drain):
            with pytest.raises(SessionClosedException):
                await wait()
        ran.append("last")

    async def app(session: AbstractSession) -> None:
        session.defer_call(last)

    ran: list[str] = []
    await coroutines.open(app).ended()

    assert ran == ["last"]
