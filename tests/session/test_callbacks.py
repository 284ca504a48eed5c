"""Callbacks: when their runs start, and that nothing of a run remains."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from session_service import (
    AbstractSession,
    CloseReason,
    SessionOptions,
    Window,
    get_current_session,
)
from session_service.session.callbacks import Callback, Callbacks, Click
from session_service.session.mailbox import Mailbox
from session_service.session.tasks import Task
from tests.session.kinds import Backend, Body, CoroutineKind, Gate, Kind, eventually


class Runs:
    """A callback whose runs wait until they are told to end; notes in which order they began."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.began: list[Any] = []
        self.gates: dict[Any, Gate] = {}

    async def __call__(self, data: Any) -> None:
        self.began.append(data)
        await self.kind.at(self.gates[data])
        get_current_session().send_task_command({"command": "ran", "spec": data})

    def click(self, backend: Backend, callback_id: str, data: Any) -> bool:
        """Click; ``data`` names the run."""
        self.gates.setdefault(data, self.kind.gate())
        return backend.click(callback_id, data)

    def end(self, *names: Any) -> None:
        """Let these runs end."""
        for name in names:
            self.gates[name].open()

    async def have_begun(self, *names: Any) -> None:
        """Wait until exactly these runs have begun, in this order."""
        await eventually(lambda: len(self.began) >= len(names))
        assert self.began == list(names)


async def open_with(
    kind: Kind,
    *callbacks: Body,
    limits: SessionOptions | None = None,
    serial_mode: bool = False,
    mutex_mode: bool = False,
) -> tuple[Backend, list[str]]:
    """Start a session that registers these callbacks, and return their ids."""

    async def app(session: AbstractSession) -> None:
        registered.open(
            [
                session.register_callback(kind.function(callback), serial_mode=serial_mode, mutex_mode=mutex_mode)
                for callback in callbacks
            ]
        )

    registered = kind.gate()
    backend = kind.open(app, limits=limits)
    return backend, await registered.opened()


# --- what a run is ----------------------------------------------------------------------------------------------------


async def test_a_click_runs_the_callback_with_the_data_of_the_event(kind: Kind) -> None:
    async def clicked(data: Any) -> None:
        get_current_session().send_task_command({"command": "clicked", "spec": data})

    backend, [clicks] = await open_with(kind, clicked)
    assert backend.click(clicks, {"value": 7})

    assert await backend.specs(1) == [{"value": 7}]


async def test_only_callback_events_run_callbacks(kind: Kind) -> None:
    async def clicked(data: Any) -> None:
        get_current_session().send_task_command({"command": "clicked", "spec": data})

    backend, [clicks] = await open_with(kind, clicked)
    assert backend.send("not for it", clicks)
    backend.click(clicks, "for it")

    assert await backend.specs(1) == ["for it"]
    assert backend.session.dropped == 1


async def test_a_plain_function_may_be_the_callback_of_a_coroutine_session(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        registered.open(
            session.register_callback(lambda data: session.send_task_command({"command": "clicked", "spec": data}))
        )

    registered = coroutines.gate()
    backend = coroutines.open(app)
    backend.click(await registered.opened(), 7)

    assert await backend.specs(1) == [7]


async def test_each_run_is_a_task_with_a_mailbox_of_its_own(kind: Kind) -> None:
    async def clicked(data: Any) -> None:
        session = get_current_session()
        session.send_task_command({"command": "ask", "spec": data})
        session.send_task_command({"command": "got", "spec": [data, await kind.event(session)]})

    backend, [clicks] = await open_with(kind, clicked)
    for name in ("a", "b"):
        backend.click(clicks, name)
    await backend.specs(2)
    tasks = {command["spec"]: command["task_id"] for command in backend.taken}
    assert tasks["a"] != tasks["b"]
    assert {task_id.partition("-")[0] for task_id in tasks.values()} == {"callback"}
    backend.send("for b", tasks["b"])
    backend.send("for a", tasks["a"])

    answers = (await backend.specs(4))[2:]
    assert sorted(answers) == [["a", "for a"], ["b", "for b"]]


async def test_a_callback_keeps_the_session_open_until_it_is_unregistered(kind: Kind) -> None:
    async def clicked(data: Any) -> None:
        get_current_session().unregister_callback(clicks)

    backend, [clicks] = await open_with(kind, clicked)
    await eventually(lambda: not backend.look().task_count)
    assert not backend.session.closed()
    backend.click(clicks)

    assert await backend.ended() is CloseReason.COMPLETED


async def test_a_callback_can_be_unregistered_from_outside_a_task_and_only_once(kind: Kind) -> None:
    async def clicked(data: Any) -> None:
        pass

    backend, [clicks] = await open_with(kind, clicked)
    await asyncio.to_thread(backend.session.unregister_callback, clicks)

    with pytest.raises(KeyError):
        backend.session.unregister_callback(clicks)
    assert await backend.ended() is CloseReason.COMPLETED


async def test_a_callback_can_be_registered_from_outside_a_task(kind: Kind) -> None:
    async def clicked(data: Any) -> None:
        get_current_session().send_task_command({"command": "clicked", "spec": data})

    async def app(session: AbstractSession) -> None:
        await kind.next_event(session)

    backend = kind.open(app)
    backend.click(backend.session.register_callback(kind.function(clicked)), 1)
    backend.click(await asyncio.to_thread(backend.session.register_callback, kind.function(clicked)), 2)

    assert sorted(await backend.specs(2)) == [1, 2]


async def test_unregistering_lets_runs_and_clicks_taken_over_go_on(kind: Kind) -> None:
    runs = Runs(kind)
    backend, [clicks] = await open_with(kind, runs, serial_mode=True)
    for number in range(3):
        runs.click(backend, clicks, number)
    backend.session.unregister_callback(clicks)
    backend.click(clicks, "too late")
    assert backend.session.dropped == 1
    runs.end(0, 1, 2)

    assert await backend.ended() is CloseReason.COMPLETED
    assert await backend.specs(3) == [0, 1, 2]


@pytest.mark.parametrize("failure", [ValueError, SystemExit, KeyboardInterrupt])
async def test_a_callback_that_raises_is_reported_and_stays_registered(
    kind: Kind, failure: type[BaseException], errors: Callable[[], list[str]]
) -> None:
    async def clicked(data: Any) -> None:
        raise failure("secret")

    backend, [clicks] = await open_with(kind, clicked)
    backend.click(clicks)
    await backend.specs(1)
    backend.click(clicks)
    specs = await backend.specs(2)

    for log, spec in zip(errors(), specs, strict=True):
        assert spec["id"] in log
        assert "secret" in log
    assert not backend.session.closed()


async def test_an_unknown_option_is_a_type_error(kind: Kind) -> None:
    async def clicked(data: Any) -> None:
        pass

    async def app(session: AbstractSession) -> None:
        with pytest.raises(TypeError, match="seriel_mode"):
            session.register_callback(kind.function(clicked), seriel_mode=True)

    assert await kind.open(app).ended() is CloseReason.COMPLETED


async def test_what_cannot_be_called_is_no_callback(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        with pytest.raises(TypeError):
            session.register_callback("no function")  # type: ignore[arg-type]  # that is the point

    assert await kind.open(app).ended() is CloseReason.COMPLETED


# --- when a run starts ------------------------------------------------------------------------------------------------


async def test_runs_are_concurrent_by_default(kind: Kind) -> None:
    runs = Runs(kind)
    backend, [clicks] = await open_with(kind, runs)
    for number in range(3):
        runs.click(backend, clicks, number)
    await eventually(lambda: len(runs.began) == 3)
    for number in (2, 0, 1):
        runs.end(number)
        await backend.specs(len(backend.taken) + 1)

    assert await backend.specs(3) == [2, 0, 1]


async def test_serial_runs_come_one_after_the_other_and_hold_up_no_other_callback(kind: Kind) -> None:
    serial, other = Runs(kind), Runs(kind)
    backend, [serial_clicks, other_clicks] = await open_with(kind, serial, other, serial_mode=True)
    for number in range(3):
        serial.click(backend, serial_clicks, number)
    other.click(backend, other_clicks, "other")

    await other.have_begun("other")
    other.end("other")
    assert await backend.specs(1) == ["other"]
    for number in range(3):
        await serial.have_begun(*range(number + 1))
        serial.end(number)
        await backend.specs(number + 2)


async def test_a_serial_callback_that_raises_lets_the_next_click_run(
    kind: Kind, errors: Callable[[], list[str]]
) -> None:
    async def clicked(data: Any) -> None:
        raise ValueError(data)

    backend, [clicks] = await open_with(kind, clicked, serial_mode=True)
    for number in range(3):
        backend.click(clicks, number)
    await backend.specs(3)

    assert len(errors()) == 3


async def test_in_mutex_mode_clicks_that_come_during_a_run_are_ignored(kind: Kind) -> None:
    runs = Runs(kind)
    backend, [clicks] = await open_with(kind, runs, mutex_mode=True)
    for name in ("first", "ignored", "ignored too"):
        assert runs.click(backend, clicks, name)
    runs.end("first")
    await backend.specs(1)
    await eventually(lambda: not backend.look().task_count)
    runs.click(backend, clicks, "second")
    runs.end("second")

    assert await backend.specs(2) == ["first", "second"]
    assert runs.began == ["first", "second"]


async def test_runs_beyond_the_limit_wait_in_order(kind: Kind) -> None:
    runs = Runs(kind)
    backend, [clicks] = await open_with(kind, runs, limits=SessionOptions(callback_runs=2))
    for number in range(5):
        assert runs.click(backend, clicks, number)
    await runs.have_begun(0, 1)
    runs.end(1)
    await runs.have_begun(0, 1, 2)
    runs.end(2)
    await runs.have_begun(0, 1, 2, 3)
    runs.end(0, 3, 4)

    assert sorted(await backend.specs(5)) == [0, 1, 2, 3, 4]


async def test_by_default_there_are_so_many_runs_at_once(kind: Kind) -> None:
    most = 1024 if isinstance(kind, CoroutineKind) else 64
    runs = Runs(kind)
    backend, [clicks] = await open_with(kind, runs)
    for number in range(most + 1):
        assert runs.click(backend, clicks, number)
    await eventually(lambda: len(runs.began) == most)
    assert backend.look().task_count == most
    runs.end(0)
    await eventually(lambda: len(runs.began) == most + 1)
    runs.end(*range(most + 1))

    assert sorted(await backend.specs(most + 1)) == list(range(most + 1))


@pytest.mark.parametrize("serial", [True, False])
async def test_clicks_that_wait_count_against_the_event_window(kind: Kind, serial: bool) -> None:
    runs = Runs(kind)
    limits = SessionOptions(callback_runs=1, event_window=Window(messages=2))
    backend, [clicks] = await open_with(kind, runs, limits=limits, serial_mode=serial)
    await eventually(lambda: not backend.look().task_count)
    taken = [runs.click(backend, clicks, number) for number in range(4)]
    assert taken == [True, True, True, False], "one runs, two wait"
    await runs.have_begun(0)
    runs.end(0)
    await backend.room()
    assert runs.click(backend, clicks, 3)
    runs.end(1, 2, 3)

    assert await backend.specs(4) == [0, 1, 2, 3]


async def test_clicks_and_mail_share_the_window(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        registered.open(session.register_callback(kind.function(runs), serial_mode=True))
        await kind.at(gate)

    runs = Runs(kind)
    gate, registered = kind.gate(), kind.gate()
    backend = kind.open(app, limits=SessionOptions(event_window=Window(messages=2)))
    clicks = await registered.opened()
    assert runs.click(backend, clicks, 0)
    assert runs.click(backend, clicks, 1)
    assert backend.send()

    assert not runs.click(backend, clicks, 2)
    assert not backend.send()


async def test_a_run_that_cannot_start_is_logged_and_leaves_the_line_moving(
    kind: Kind, errors: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    runs = Runs(kind)
    backend, [clicks] = await open_with(kind, runs, serial_mode=True)
    await eventually(lambda: not backend.look().task_count)
    with monkeypatch.context() as patch:
        patch.setattr(type(kind.runner), "start", refuse)
        assert runs.click(backend, clicks, "lost")
    runs.click(backend, clicks, "next")
    runs.end("next")

    assert await backend.specs(1) == ["next"]
    assert "can't start new thread" in errors()[0]


# --- nothing remains --------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def nothing_remains(session: AbstractSession) -> AsyncIterator[None]:
    """Check that threads, tasks, mailboxes and entries are as many afterwards as they were."""

    def count() -> tuple[int, ...]:
        gc.collect()
        seen = session.snapshot(most=1000)
        return (
            threading.active_count(),
            len(asyncio.all_tasks()),
            seen.task_count,
            seen.events,
            seen.event_bytes,
            *[callback.waiting + callback.running for callback in seen.callbacks],
            *[
                sum(isinstance(thing, kind) for thing in gc.get_objects())
                for kind in (Click, threading.Thread, Task, Mailbox)
            ],
        )

    before = count()
    yield
    await eventually(lambda: not session.snapshot(most=0).task_count and threading.active_count() == before[0])
    assert count() == before


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("mode", ["concurrent", "serial_mode", "mutex_mode"])
async def test_ten_thousand_clicks_leave_nothing_behind(kind: Kind, mode: str) -> None:
    async def clicked(data: Any) -> None:
        ran.append(data)
        await kind.switch()

    ran: deque[int] = deque()
    backend, [clicks] = await open_with(
        kind, clicked, serial_mode=mode == "serial_mode", mutex_mode=mode == "mutex_mode"
    )
    await eventually(lambda: not backend.look().task_count)
    backend.click(clicks, -1)
    await eventually(lambda: not backend.look().task_count)

    async with nothing_remains(backend.session):
        for number in range(10_000):
            while not backend.click(clicks, number):
                await backend.room()
            if number % 100 == 0:
                await asyncio.sleep(0)

    if mode == "serial_mode":
        assert list(ran) == list(range(-1, 10_000))
    elif mode == "concurrent":
        assert sorted(ran) == list(range(-1, 10_000))
    assert not backend.session.closed()
    assert backend.session.dropped == 0


async def test_a_callback_of_a_closed_session_holds_up_no_end(kind: Kind) -> None:
    runs = Runs(kind)
    backend, [clicks] = await open_with(kind, runs, serial_mode=True, limits=SessionOptions(close_grace=60))
    for number in range(3):
        runs.click(backend, clicks, number)
    await runs.have_begun(0)
    backend.session.close()
    runs.end(0)

    assert await backend.ended() is CloseReason.SERVER
    assert runs.began == [0], "clicks that wait are lost with the session"
    assert backend.session.abandoned == 0


# --- the rules alone --------------------------------------------------------------------------------------------------


class CallbacksMachine(RuleBasedStateMachine):
    """Clicks and ends of runs in any order, against a model that knows only the three modes and the limit."""

    callbacks = Bundle("callbacks")

    def __init__(self) -> None:
        super().__init__()
        self.most = 3
        self.subject = Callbacks(self.most, self.start)
        self.running: list[Click] = []
        self.started: list[int] = []
        self.expected: dict[str, list[int]] = {}
        self.waiting: list[int] = []
        self.number = 0

    def start(self, click: Click) -> None:
        self.running.append(click)
        self.started.append(click.args[0])
        if click.args[0] in self.waiting:
            self.waiting.remove(click.args[0])

    @rule(target=callbacks, mode=st.sampled_from(["concurrent", "serial", "mutex"]))
    def register(self, mode: str) -> Callback:
        entry = Callback(f"callback-{len(self.expected)}", print, mode == "serial", mode == "mutex")
        self.expected[entry.id] = []
        return entry

    @rule(callback=callbacks)
    def click(self, callback: Callback) -> None:
        self.number += 1
        own = [click for click in self.running if click.callback is callback]
        in_line = [number for number in self.waiting if number in self.expected[callback.id]]
        ignored = callback.mutex and bool(own or in_line)
        waits = not ignored and (len(self.running) >= self.most or (callback.serial and bool(own or in_line)))
        assert self.subject.needs_room(callback) == waits
        if not ignored:
            self.expected[callback.id].append(self.number)
        if waits:
            self.waiting.append(self.number)
        before = len(self.started)
        self.subject.click(Click(callback, (self.number,)))
        assert len(self.started) - before == (not ignored and not waits)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.running:
            click = data.draw(st.sampled_from(self.running))
            self.running.remove(click)
            before = len(self.started)
            released = self.subject.run_ended(click.callback)
            assert [click.args[0] for click in released] == self.started[before:]

    @invariant()
    def runs_start_in_order_and_as_soon_as_they_may(self) -> None:
        assert len(self.running) <= self.most
        assert self.subject.waiting == len(self.waiting)
        assert self.subject.idle == (not self.running and not self.waiting)
        for expected in self.expected.values():
            started = [number for number in self.started if number in expected]
            assert started == expected[: len(started)]
        serial = [click.callback.id for click in self.running if click.callback.serial or click.callback.mutex]
        assert len(serial) == len(set(serial))
        if len(self.running) < self.most:
            busy = {number for click in self.running for number in self.expected[click.callback.id]}
            assert all(number in busy for number in self.waiting), "there is room, and nothing it has to wait for"


TestCallbacks = CallbacksMachine.TestCase
