"""Apps that catch each exception, and ask again for what is over: they stop nobody else, and are stopped themselves."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from session_service import (
    AbstractSession,
    CloseReason,
    SessionClosedException,
    SessionOptions,
    get_current_session,
)
from session_service.session.current import get_current_task
from session_service.session.refusals import LONGEST_PAUSE, MOST_REFUSALS, Refusals
from session_service.testing import run
from tests.session.kinds import CoroutineKind, Gate, Kind, ThreadKind, eventually

# Longer than any test may take: what ends does not end by it.
NO_END = SessionOptions(close_grace=600)

Ask = Callable[[AbstractSession], Awaitable[object]]


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was said of tasks that go on asking, with the stack where they are."""
    return lambda: [
        f"{record.getMessage()}\n{record.stack_info}"
        for record in caplog.records
        if "goes on asking" in record.getMessage()
    ]


# --- a wait that is over suspends -------------------------------------------------------------------------------------


async def wait_for_event(session: AbstractSession) -> None:
    await session.next_client_event()


async def poll_for_event(session: AbstractSession) -> None:
    await session.next_client_event(timeout=0)


async def drain(session: AbstractSession) -> None:
    await session.drain()


WAITS = [wait_for_event, poll_for_event, drain]


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("end", ["events", "close"])
async def test_a_wait_that_is_over_lets_others_run_before_it_raises(
    coroutines: CoroutineKind, wait: Ask, end: str
) -> None:
    async def child(session: AbstractSession) -> None:
        await over.opened()
        if wait is drain and end == "events":
            session.close()
        for _ in range(3):
            turned.clear()
            asyncio.get_running_loop().call_soon(turned.append, 1)
            with pytest.raises(SessionClosedException):
                await wait(session)
            assert turned == [1]

    async def app(session: AbstractSession) -> None:
        started.open(asyncio.create_task(child(session)))
        with contextlib.suppress(SessionClosedException):
            await session.next_client_event()

    turned: list[int] = []
    started, over = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)
    task = await started.opened()
    if end == "events":
        backend.session.end_events()
    else:
        backend.session.close()
    await backend.ended()
    over.open()
    await task


async def test_a_cancelled_task_that_asks_again_lets_others_run(coroutines: CoroutineKind) -> None:
    async def victim() -> None:
        session = get_current_session()
        for _ in range(3):
            try:
                await session.next_client_event()
            except asyncio.CancelledError:
                turned.append(0)
                asyncio.get_running_loop().call_soon(turned.append, 1)

    async def app(session: AbstractSession) -> None:
        task = session.run_task(victim)
        await asyncio.sleep(0)
        task.cancel()

    turned: list[int] = []
    await coroutines.open(app).ended()

    assert turned == [0, 1, 0, 1, 0, 1]


# --- who goes on asking is stopped ------------------------------------------------------------------------------------


async def send_and_drain(session: AbstractSession) -> None:
    """What a long report does, which meets the close in `drain` and from then on never gets there."""
    session.send_task_command({"command": "say"})
    await session.drain()


async def start_task(session: AbstractSession) -> None:
    session.run_task(wait_for_event, session)
    await session.drain()


async def register(session: AbstractSession) -> None:
    session.register_callback(print)
    await session.drain()


async def wait_for(session: AbstractSession) -> None:
    await asyncio.wait_for(session.next_client_event(), 60)


async def within_timeout(session: AbstractSession) -> None:
    async with asyncio.timeout(60):
        await session.next_client_event()


async def in_child(session: AbstractSession) -> None:
    await asyncio.create_task(session.next_client_event())


async def select(session: AbstractSession) -> None:
    """What forgets to look at the results."""
    done, _ = await asyncio.wait({asyncio.ensure_future(session.next_client_event())})
    for task in done:
        task.exception()


async def gather(session: AbstractSession) -> None:
    await asyncio.gather(session.next_client_event(), session.next_client_event())


async def in_thread(session: AbstractSession) -> None:
    await asyncio.to_thread(session.next_client_event)


ASKS = [*WAITS, send_and_drain, start_task, register, wait_for, within_timeout, in_child, select, gather, in_thread]


def careless(ask: Ask, catches: type[BaseException], stop: Gate, asked: list[int]) -> Callable[..., Any]:
    async def careless_loop(session: AbstractSession) -> None:
        while not stop.is_open():
            try:
                await ask(session)
            except catches:
                asked.append(1)

    return careless_loop


@pytest.mark.parametrize("ask", ASKS)
async def test_a_coroutine_that_goes_on_asking_is_cancelled(
    coroutines: CoroutineKind, ask: Ask, reports: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        if closes:
            session.close()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # the cancellation of the close: the loop begins after it
        await careless(ask, Exception, stop, asked)(session)

    closes = ask in (drain, send_and_drain, start_task, register)
    stop, asked = coroutines.gate(), list[int]()
    backend = coroutines.open(app, limits=NO_END)
    if not closes:
        backend.session.end_events()

    assert await backend.ended() is (CloseReason.SERVER if closes else CloseReason.CLIENT)
    assert len(asked) <= MOST_REFUSALS + 1
    assert backend.session.abandoned == 0
    assert not backend.session.failures
    [report] = reports()
    for part in (backend.session.id, "main-1", "careless_loop"):
        assert part in report


@pytest.mark.parametrize("ask", [wait_for_event, poll_for_event, drain, wait_for, in_child, select, in_thread])
async def test_a_coroutine_that_swallows_its_cancellation_is_given_up(
    coroutines: CoroutineKind, ask: Ask, reports: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        mine.open(asyncio.current_task())
        if ask is drain:
            session.close()
        await careless(ask, BaseException, stop, [])(session)

    stop, mine = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app, limits=NO_END)
    backend.session.end_events()

    assert await backend.ended() is (CloseReason.SERVER if ask is drain else CloseReason.CLIENT)
    assert backend.session.abandoned == 1
    assert len(reports()) == 1
    task = await mine.opened()
    assert not task.done()
    stop.open()
    await eventually(task.done)
    assert (backend.closings, backend.look().task_count) == (1, 0)


@pytest.mark.parametrize("catches", [Exception, BaseException])
@pytest.mark.parametrize("ask", ["next_client_event", "drain"])
async def test_a_thread_that_goes_on_asking_is_reported_and_ends_or_is_given_up(
    threads: ThreadKind, ask: str, catches: type[BaseException], reports: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        mine.open(threading.current_thread())
        if ask == "drain":
            session.close()
        threads.function(careless(waits, catches, stop, []))(session)

    async def waits(session: AbstractSession) -> None:
        getattr(session, ask)()

    stop, mine = threads.gate(), threads.gate()
    backend = threads.open(app, limits=NO_END)
    backend.session.end_events()

    assert await backend.ended() is (CloseReason.SERVER if ask == "drain" else CloseReason.CLIENT)
    assert backend.session.abandoned == (1 if catches is BaseException else 0)
    assert not backend.session.failures
    [report] = reports()
    for part in (backend.session.id, "main-1", "careless_loop"):
        assert part in report
    thread = await mine.opened()
    stop.open()
    await eventually(lambda: not thread.is_alive())


@pytest.mark.parametrize("catches", [Exception, BaseException])
async def test_a_thread_that_goes_on_sending_is_reported_and_slowed_down(
    threads: ThreadKind, catches: type[BaseException], reports: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        task.open(get_current_task())
        session.close()
        threads.function(careless(send, catches, stop, []))(session)

    async def send(session: AbstractSession) -> None:
        session.send_task_command({"command": "say"})

    task, stop = threads.gate(), threads.gate()
    backend = threads.open(app, limits=NO_END)
    main = await task.opened()
    await eventually(lambda: main.refusals is not None and main.refusals.pause > 0)

    assert len(reports()) == 1
    assert "careless_loop" in reports()[0]
    stop.open()
    assert await backend.ended() is CloseReason.SERVER
    assert not backend.session.failures


@pytest.mark.parametrize("place", ["task", "callback", "hook", "deferred"])
async def test_whatever_goes_on_asking_is_stopped(
    kind: Kind, place: str, reports: Callable[[], list[str]], errors: Callable[[], list[str]]
) -> None:
    async def ask(session: AbstractSession) -> None:
        await (kind.drain(session) if place == "deferred" else kind.next_event(session))

    async def loop(*args: object) -> None:
        started.open()
        await careless(ask, Exception, stop, [])(get_current_session())

    async def app(session: AbstractSession) -> None:
        func = kind.function(loop)
        if place == "task":
            session.run_task(func)
        elif place == "callback":
            registered.open(session.register_callback(func))
        elif place == "hook":
            session.on_attach(func)
        else:
            session.defer_call(func)
        if place != "deferred":
            await kind.at(started)

    started, stop, registered = kind.gate(), kind.gate(), kind.gate()
    backend = kind.open(app, limits=NO_END)
    backend.session.notify_attach(resumed=False)
    if place == "callback":
        backend.click(await registered.opened())
    if place != "deferred":
        await started.opened()
    backend.session.end_events()

    assert await backend.ended() is CloseReason.COMPLETED
    assert len(reports()) == 1
    assert dict(backend.session.failures) == ({"deferred": 1} if place == "deferred" else {})
    assert len(errors()) == (place == "deferred")


def test_in_a_test_of_an_app_it_is_stopped_as_well() -> None:
    async def slow() -> None:
        while True:
            try:
                await get_current_session().next_client_event()
            except Exception:
                await asyncio.sleep(1)

    def in_thread() -> None:
        while True:
            with contextlib.suppress(Exception):
                get_current_session().next_client_event()

    assert run(slow).reason is CloseReason.CLIENT
    assert run(slow).seconds < 10, "the close grace is 5 s, and their time is virtual"
    assert run(in_thread).reason is CloseReason.CLIENT


# --- who does not is left alone ---------------------------------------------------------------------------------------


async def test_a_task_that_works_on_after_the_end_of_events_is_left_alone(
    kind: Kind, reports: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        with contextlib.suppress(SessionClosedException):
            await kind.next_event(session)
        for number in range(3 * MOST_REFUSALS):
            session.send_task_command({"command": "row", "spec": number})
            await kind.drain(session)
        with contextlib.suppress(SessionClosedException):
            await kind.next_event(session)

    backend = kind.open(app)
    backend.session.end_events()

    assert await backend.ended() is CloseReason.COMPLETED
    assert len(await backend.specs(3 * MOST_REFUSALS)) == 3 * MOST_REFUSALS
    assert reports() == []


async def test_children_that_were_waiting_when_it_ended_have_not_asked_again(
    coroutines: CoroutineKind, reports: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        waits = [session.next_client_event() for _ in range(2 * MOST_REFUSALS)]
        results = asyncio.gather(*waits, return_exceptions=True)
        await asyncio.sleep(0)
        waiting.open()
        seen.open({type(result) for result in await results})

    waiting, seen = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)
    await waiting.opened()
    backend.session.end_events()

    assert await seen.opened() == {SessionClosedException}
    assert await backend.ended() is CloseReason.COMPLETED
    assert reports() == []


async def test_a_task_may_send_to_other_sessions_that_are_closed(kind: Kind, reports: Callable[[], list[str]]) -> None:
    async def other(session: AbstractSession) -> None: ...

    async def app(session: AbstractSession) -> None:
        for _ in range(3 * MOST_REFUSALS):
            with pytest.raises(SessionClosedException):
                closed.session.send_task_command({"command": "say"})

    closed = kind.open(other)
    await closed.ended()

    assert await kind.open(app).ended() is CloseReason.COMPLETED
    assert reports() == []


async def test_who_asks_without_waiting_learns_of_the_end(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        while True:
            try:
                await session.next_client_event(timeout=0)
            except TimeoutError:
                polled.open()
                await asyncio.sleep(0)

    polled = coroutines.gate()
    backend = coroutines.open(app)
    await polled.opened()
    backend.session.end_events()

    assert await backend.ended() is CloseReason.CLIENT


# --- when it is enough ------------------------------------------------------------------------------------------------

GRACE = 5.0


def rounds(times: list[float]) -> list[bool]:
    refusals = Refusals()
    return [refusals.note(now, GRACE) for now in times]


def test_a_hundred_are_enough() -> None:
    assert rounds([7.0] * 2 * MOST_REFUSALS) == [*[False] * (MOST_REFUSALS - 1), True] * 2


def test_those_through_the_whole_grace_are_enough() -> None:
    assert rounds([0, 1, 2, 3, 4, 5, 5.1]) == [*[False] * 6, True]


def test_what_comes_after_a_pause_as_long_as_the_grace_does_not_go_on() -> None:
    assert rounds([0, 5.1, 10.2, 15.3, 20.4, 20.5]) == [False] * 6


def test_without_a_grace_only_the_number_counts() -> None:
    refusals = Refusals()
    assert [refusals.note(float(now), 0) for now in range(MOST_REFUSALS)] == [*[False] * (MOST_REFUSALS - 1), True]


def test_a_pause_grows_from_the_second_hundred_on_to_a_bound() -> None:
    refusals = Refusals()
    pauses = []
    for _ in range(30 * MOST_REFUSALS):
        refusals.note(0, GRACE)
        pauses.append(refusals.pause)

    assert pauses[:MOST_REFUSALS] == [0] * MOST_REFUSALS
    assert pauses == sorted(pauses)
    assert 0 < pauses[MOST_REFUSALS] < pauses[2 * MOST_REFUSALS] < pauses[-1] == LONGEST_PAUSE
    assert sum(pauses[: 2 * MOST_REFUSALS]) < 1, "who is cancelled and goes on is given up soon"
