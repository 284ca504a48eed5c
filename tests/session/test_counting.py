"""`active_session_count` is exact, whatever becomes of the sessions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from session_service import AbstractSession, CoroutineSession, SessionOptions, ThreadSession
from tests.session.kinds import CoroutineKind, Kind, ThreadKind, eventually

KINDS = (AbstractSession, CoroutineSession, ThreadSession)
Counts = Callable[[], list[int]]


@pytest.fixture
def counts() -> Counts:
    """How many sessions there are more than when the test began: of both kinds, coroutines, threads."""
    before = [kind.active_session_count() for kind in KINDS]
    return lambda: [kind.active_session_count() - count for kind, count in zip(KINDS, before, strict=True)]


async def test_each_class_counts_its_own_and_the_abstract_one_counts_all(
    coroutines: CoroutineKind, threads: ThreadKind, counts: Counts
) -> None:
    backends = [
        coroutines.open(lambda session: coroutines.next_event(session)),
        threads.open(lambda session: threads.next_event(session)),
        threads.open(lambda session: threads.next_event(session)),
    ]
    assert counts() == [3, 1, 2]
    await backends[1].close()
    assert counts() == [2, 1, 1]
    await backends[0].close()
    await backends[2].close()
    assert counts() == [0, 0, 0]


async def test_subclasses_count_for_their_parents(kind: Kind) -> None:
    class Special(kind.session_class):  # type: ignore[name-defined,misc]  # a class that the test is told
        pass

    async def app(session: AbstractSession) -> None:
        await kind.next_event(session)

    before = kind.session_class.active_session_count()
    session = Special(kind.app(app))
    assert (Special.active_session_count(), kind.session_class.active_session_count()) == (1, before + 1)
    kind.open(app)
    assert (Special.active_session_count(), kind.session_class.active_session_count()) == (1, before + 2)
    session.close()
    await eventually(lambda: not Special.active_session_count())

    assert kind.session_class.active_session_count() == before + 1


async def test_a_session_counts_until_its_deferred_calls_have_run(kind: Kind, counts: Counts) -> None:
    def note(*session: AbstractSession) -> None:
        seen.append(counts()[0])
        if session:
            closed.open()

    async def app(session: AbstractSession) -> None:
        session.defer_call(note)

    seen: list[int] = []
    closed = kind.gate()
    kind.session_class(kind.app(app), on_session_close=note)
    await closed.opened()

    assert seen == [1, 0]


async def test_a_failed_app_counts_no_more(kind: Kind, errors: Callable[[], list[str]], counts: Counts) -> None:
    async def app(session: AbstractSession) -> None:
        raise SystemExit(1)

    await kind.open(app).ended()

    assert counts() == [0, 0, 0]
    assert len(errors()) == 1


async def test_a_hook_that_raises_costs_nothing(kind: Kind, errors: Callable[[], list[str]], counts: Counts) -> None:
    def broken(session: AbstractSession) -> None:
        raise ValueError("broken hook")

    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "say"})

    session = kind.session_class(kind.app(app), on_task_command=broken, on_session_close=broken)
    await eventually(lambda: session.ended and counts() == [0, 0, 0])

    assert ["broken hook" in log for log in errors()] == [True, True]


async def test_a_session_that_cannot_start_counts_not(
    threads: ThreadKind, monkeypatch: pytest.MonkeyPatch, counts: Counts
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            ThreadSession(print)
    with pytest.raises(TypeError):
        CoroutineSession(print)
    with pytest.raises(TypeError):
        ThreadSession("no function")  # type: ignore[arg-type]  # that is the point

    assert counts() == [0, 0, 0]


async def test_an_abandoned_task_holds_up_no_count(kind: Kind, counts: Counts) -> None:
    async def app(session: AbstractSession) -> None:
        started.open()
        while not gate.is_open():
            try:
                await kind.at(gate)
            except asyncio.CancelledError:
                continue

    started, gate = kind.gate(), kind.gate()
    backend = kind.open(app, limits=SessionOptions(close_grace=0))
    await started.opened()
    await backend.close()
    assert counts() == [0, 0, 0]
    gate.open()
    await eventually(lambda: not backend.look().task_count)

    assert counts() == [0, 0, 0]


async def test_a_thousand_concurrent_opens_and_closes_leave_the_count_exact(
    kind: Kind, errors: Callable[[], list[str]], counts: Counts
) -> None:
    async def returns(session: AbstractSession) -> None:
        await kind.switch()

    async def waits(session: AbstractSession) -> None:
        await kind.next_event(session)

    async def fails(session: AbstractSession) -> None:
        await kind.switch()
        raise ValueError("broken")

    async def closes(session: AbstractSession) -> None:
        session.close()

    async def one(number: int) -> None:
        backend = kind.open((returns, waits, fails, closes)[number % 4])
        await asyncio.sleep(0)
        if number % 4 == 1:
            await asyncio.to_thread(backend.session.close)
        else:
            with pytest.raises(TypeError):
                kind.session_class(None)  # type: ignore[arg-type]  # that is the point
        await backend.ended()

    await asyncio.gather(*[one(number) for number in range(1000)])

    assert counts() == [0, 0, 0]
    assert len(errors()) == 250
