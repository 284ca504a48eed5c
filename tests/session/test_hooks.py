"""`on_attach` and `on_detach`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from session_service import AbstractSession, CloseReason, get_current_session, get_current_task_id
from tests.session.kinds import CoroutineKind, Kind, ThreadKind, eventually


async def test_hooks_are_told_of_attachments_in_order(kind: Kind) -> None:
    async def attached(session: AbstractSession, resumed: bool) -> None:
        calls.append((session, "resumed" if resumed else "attached"))

    async def detached(session: AbstractSession) -> None:
        calls.append((session, "detached"))

    async def app(session: AbstractSession) -> None:
        session.on_attach(kind.function(attached))
        session.on_detach(kind.function(detached))
        ready.open()
        await kind.next_event(session)

    calls: list[tuple[AbstractSession, str]] = []
    ready = kind.gate()
    session = kind.open(app).session
    await ready.opened()
    await asyncio.sleep(0)
    session.notify_attach(False)
    for _ in range(20):
        session.notify_detach()
        session.notify_attach(True)
    await eventually(lambda: len(calls) == 41)

    assert calls == [(session, "attached"), *[(session, "detached"), (session, "resumed")] * 20]


async def test_never_two_hooks_run_at_once(kind: Kind) -> None:
    async def hook(session: AbstractSession, resumed: object = None) -> None:
        running.append(1)
        most.append(len(running))
        for _ in range(5):
            await kind.switch()
        running.pop()

    async def app(session: AbstractSession) -> None:
        for _ in range(2):
            session.on_attach(kind.function(hook))
            session.on_detach(kind.function(hook))
        ready.open()
        await kind.next_event(session)

    running: list[int] = []
    most: list[int] = []
    ready = kind.gate()
    session = kind.open(app).session
    await ready.opened()
    await asyncio.sleep(0)
    for _ in range(10):
        session.notify_attach(True)
        session.notify_detach()
    await eventually(lambda: len(most) == 40)

    assert set(most) == {1}


async def test_an_attach_hook_is_called_at_once_where_a_client_is_attached_already(kind: Kind) -> None:
    async def attached(session: AbstractSession, resumed: bool) -> None:
        calls.append(resumed)

    async def app(session: AbstractSession) -> None:
        await kind.at(gate)
        session.on_attach(kind.function(attached))
        await kind.next_event(session)

    calls: list[bool] = []
    gate = kind.gate()
    session = kind.open(app).session
    session.notify_attach(True)
    gate.open()

    await eventually(lambda: calls == [True])


async def test_an_attach_hook_is_not_called_where_the_client_is_gone(kind: Kind) -> None:
    async def attached(session: AbstractSession, resumed: bool) -> None:
        calls.append(resumed)

    async def app(session: AbstractSession) -> None:
        await kind.at(gate)
        session.on_attach(kind.function(attached))

    calls: list[bool] = []
    gate = kind.gate()
    backend = kind.open(app)
    backend.session.notify_attach(False)
    backend.session.notify_detach()
    gate.open()
    await backend.ended()

    assert calls == []


async def test_hooks_run_in_a_task_of_the_session(kind: Kind) -> None:
    async def attached(session: AbstractSession, resumed: bool) -> None:
        seen.open((get_current_session() is session, get_current_task_id(), threading.current_thread()))

    async def app(session: AbstractSession) -> None:
        session.on_attach(kind.function(attached))
        await kind.next_event(session)

    seen = kind.gate()
    session = kind.open(app).session
    session.notify_attach(False)
    is_session, task_id, thread = await seen.opened()

    assert is_session
    assert task_id.startswith("task-")
    assert (thread is threading.current_thread()) == isinstance(kind, CoroutineKind)


async def test_hooks_return_what_they_are_given_and_may_be_plain_functions(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        def hook(*args: object) -> None:
            calls.append(args[1:])

        assert session.on_attach(hook) is hook
        assert session.on_detach(hook) is hook
        ready.open()
        await kind.next_event(session)

    calls: list[object] = []
    ready = kind.gate()
    session = kind.open(app).session
    await ready.opened()
    await asyncio.sleep(0)
    session.notify_attach(False)
    session.notify_detach()

    await eventually(lambda: calls == [(False,), ()])


async def test_a_hook_that_raises_is_reported_like_a_callback(kind: Kind, errors: Callable[[], list[str]]) -> None:
    async def hook(session: AbstractSession, resumed: bool) -> None:
        if not resumed:
            raise SystemExit("secret")
        calls.append("resumed")

    async def app(session: AbstractSession) -> None:
        session.on_attach(kind.function(hook))
        await kind.next_event(session)

    calls: list[str] = []
    backend = kind.open(app)
    backend.session.notify_attach(False)
    [spec] = await backend.specs(1)
    backend.session.notify_detach()
    backend.session.notify_attach(True)

    await eventually(lambda: calls == ["resumed"])
    assert spec["id"] in errors()[0]
    assert "secret" not in str(spec)


async def test_hooks_can_be_added_from_outside_a_task(kind: Kind) -> None:
    async def hook(session: AbstractSession, resumed: bool) -> None:
        calls.append(resumed)

    async def app(session: AbstractSession) -> None:
        await kind.next_event(session)

    calls: list[bool] = []
    session = kind.open(app).session
    await asyncio.to_thread(session.on_attach, kind.function(hook))
    await asyncio.sleep(0)
    session.notify_attach(True)

    await eventually(lambda: calls == [True])


async def test_a_hook_keeps_no_session_open(kind: Kind) -> None:
    async def hook(session: AbstractSession, resumed: bool) -> None:
        pass

    async def app(session: AbstractSession) -> None:
        session.on_attach(kind.function(hook))

    backend = kind.open(app)
    backend.session.notify_attach(False)

    assert await backend.ended() is CloseReason.COMPLETED


async def test_no_hook_runs_after_the_close(kind: Kind) -> None:
    async def hook(session: AbstractSession, resumed: bool) -> None:
        raise AssertionError("it must not run")

    async def app(session: AbstractSession) -> None:
        session.on_attach(kind.function(hook))
        ready.open()
        await kind.next_event(session)

    ready = kind.gate()
    backend = kind.open(app)
    await ready.opened()
    await asyncio.sleep(0)
    backend.session.close()
    backend.session.notify_attach(True)
    backend.session.notify_detach()

    assert await backend.ended() is CloseReason.SERVER


async def test_an_async_hook_is_refused_by_a_thread_session(threads: ThreadKind) -> None:
    async def hook(*args: object) -> None:
        raise AssertionError("it must not run")

    async def app(session: AbstractSession) -> None:
        with pytest.raises(TypeError):
            session.on_attach(hook)
        with pytest.raises(TypeError):
            session.on_detach(hook)

    assert await threads.open(app).ended() is CloseReason.COMPLETED


async def test_what_waits_behind_a_slow_hook_is_bounded_and_ends_with_the_present(kind: Kind) -> None:
    async def attached(session: AbstractSession, resumed: bool) -> None:
        calls.append("attached")
        slow.open()
        await kind.at(gate)

    async def detached(session: AbstractSession) -> None:
        calls.append("detached")

    async def app(session: AbstractSession) -> None:
        session.on_detach(kind.function(detached))  # first, for the test goes on in the other
        session.on_attach(kind.function(attached))
        await kind.next_event(session)

    calls: list[str] = []
    slow, gate = kind.gate(), kind.gate()
    backend = kind.open(app)
    backend.session.notify_attach(False)
    await slow.opened()
    for _ in range(1000):
        backend.session.notify_detach()
        backend.session.notify_attach(True)
    assert backend.send("there is room")
    gate.open()
    backend.send()
    await eventually(lambda: not backend.look().task_count)

    assert len(calls) <= 1 + 100 + 2
    assert calls[-2:] == ["detached", "attached"]
