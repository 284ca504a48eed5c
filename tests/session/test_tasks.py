"""Tasks: which session and task the running code belongs to, their ids, their failures, and `run_task`."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from session_service import (
    AbstractSession,
    CloseReason,
    CoroutineSession,
    SessionClosedException,
    SessionNotFoundException,
    SessionOptions,
    TaskHandle,
    ThreadSession,
    get_current_session,
    get_current_task_id,
)
from tests.session.kinds import CoroutineKind, Kind, ThreadKind, eventually

# --- which session, which task ----------------------------------------------------------------------------------------


async def test_a_task_knows_its_session_and_its_id(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        seen.open((AbstractSession.get_current_session(), get_current_session(), get_current_task_id()))

    seen = kind.gate()
    session = kind.open(app).session

    by_class, by_function, task_id = await seen.opened()
    assert by_class is by_function is session
    assert task_id.startswith("main-")


async def test_outside_of_a_session_there_is_none(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.next_event(session)

    session = kind.open(app).session

    for ask in (get_current_session, get_current_task_id, session.get_current_session):
        with pytest.raises(SessionNotFoundException, match="outside every task"):
            ask()
    with pytest.raises(SessionNotFoundException, match="outside every task"):
        await kind.next_event(session)


async def test_the_class_of_the_other_kind_finds_the_current_session_too(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        seen.open([other.get_current_session() for other in (CoroutineSession, ThreadSession)])

    seen = kind.gate()
    session = kind.open(app).session

    assert await seen.opened() == [session, session]


async def test_callbacks_and_run_task_and_deferred_calls_run_in_the_session(kind: Kind) -> None:
    def note(what: str) -> None:
        seen.append((what, get_current_session(), get_current_task_id().partition("-")[0]))

    async def clicked(data: object) -> None:
        note("callback")
        session.unregister_callback(clicks)

    async def task() -> None:
        note("task")

    async def app(session: AbstractSession) -> None:
        session.defer_call(lambda: note("deferred"))
        registered.open(session.register_callback(kind.function(clicked)))
        session.run_task(kind.function(task))

    seen: list[tuple[str, AbstractSession, str]] = []
    registered = kind.gate()
    backend = kind.open(app)
    session = backend.session
    clicks = await registered.opened()
    backend.click(clicks)
    await backend.ended()

    assert sorted(seen, key=str) == [
        ("callback", session, "callback"),
        ("deferred", session, "main"),
        ("task", session, "task"),
    ]


async def test_to_thread_keeps_the_session_and_a_bare_thread_does_not(kind: Kind) -> None:
    def ask() -> object:
        try:
            return get_current_session()
        except SessionNotFoundException as error:
            return error

    async def app(session: AbstractSession) -> None:
        context = contextvars.copy_context()  # what asyncio.to_thread does
        bare = threading.Thread(target=lambda: bare_answer.open(ask()))
        kept = threading.Thread(target=lambda: kept_answer.open(context.run(ask)))
        bare.start()
        kept.start()

    bare_answer, kept_answer = kind.gate(), kind.gate()
    session = kind.open(app).session

    assert await kept_answer.opened() is session
    assert isinstance(await bare_answer.opened(), SessionNotFoundException)


async def test_a_bare_asyncio_task_belongs_to_the_task_that_made_it(coroutines: CoroutineKind) -> None:
    async def child() -> str:
        return get_current_task_id()

    async def app(session: AbstractSession) -> None:
        seen.open(
            (get_current_task_id(), await asyncio.create_task(child()), await asyncio.to_thread(get_current_task_id))
        )

    seen = coroutines.gate()
    coroutines.open(app)

    own, of_child, of_thread = await seen.opened()
    assert own == of_child == of_thread


@pytest.mark.parametrize("switches", [10_000])
async def test_interleaved_sessions_never_see_each_other(kind: Kind, switches: int) -> None:
    async def app(session: AbstractSession) -> None:
        own = (session, get_current_task_id())
        await kind.at(start)
        for _ in range(switches // 2):
            await kind.switch()
            if (get_current_session(), get_current_task_id()) != own:
                mixed.append(own)

    mixed: list[object] = []
    start = kind.gate()
    sessions = [kind.open(app), kind.open(app)]
    start.open()
    for session in sessions:
        assert await session.ended() is CloseReason.COMPLETED

    assert mixed == []


async def test_the_main_task_runs_in_a_context_of_its_own(kind: Kind) -> None:
    async def clicked(data: object) -> None:
        seen.open(variable.get())

    async def app(session: AbstractSession) -> None:
        assert variable.get() == "test"
        variable.set("app")
        registered.open(session.register_callback(kind.function(clicked)))

    variable = contextvars.ContextVar[str]("variable")
    variable.set("test")
    registered, seen = kind.gate(), kind.gate()
    backend = kind.open(app)
    backend.click(await registered.opened())

    assert await seen.opened() == "app"
    assert variable.get() == "test"


async def test_an_app_may_start_another_session(kind: Kind, coroutines: CoroutineKind) -> None:
    async def inner(session: AbstractSession) -> None:
        inside.open(get_current_session())

    async def outer(session: AbstractSession) -> None:
        started.open((kind.open(inner).session, await inside.opened(), get_current_session()))

    inside, started = kind.gate(), kind.gate()
    outer_session = coroutines.open(outer).session
    made, found_inside, found_after = await started.opened()

    assert found_inside is made
    assert found_after is outer_session


async def test_a_task_of_one_session_may_not_wait_for_events_of_another(kind: Kind) -> None:
    async def other(session: AbstractSession) -> None:
        await kind.at(done)

    async def app(session: AbstractSession) -> None:
        try:
            await kind.next_event(stranger)
        except SessionNotFoundException as error:
            seen.open(str(error))

    seen, done = kind.gate(), kind.gate()
    stranger = kind.open(other).session
    session = kind.open(app).session

    assert session.id in await seen.opened()


async def test_ids_of_tasks_are_short_and_unique_and_say_what_the_task_is(kind: Kind) -> None:
    async def note(*args: object) -> None:
        ids.append(get_current_task_id())

    async def app(session: AbstractSession) -> None:
        await note()
        for _ in range(3):
            session.run_task(kind.function(note))
        registered.open([session.register_callback(kind.function(note)) for _ in range(2)])

    ids: list[str] = []
    registered = kind.gate()
    backend = kind.open(app)
    for callback_id in await registered.opened() * 3:
        backend.click(callback_id)
    await eventually(lambda: len(ids) == 10)

    assert len(set(ids)) == 10
    assert sorted({task_id.partition("-")[0] for task_id in ids}) == ["callback", "main", "task"]
    assert all(len(task_id) <= 32 and task_id.isascii() and task_id.isprintable() for task_id in ids)


# --- starting ---------------------------------------------------------------------------------------------------------


def test_a_session_starts_only_inside_a_running_loop() -> None:
    async def app() -> None:
        raise AssertionError("it must not run")

    before = AbstractSession.active_session_count()
    with pytest.raises(RuntimeError):
        CoroutineSession(app)
    with pytest.raises(RuntimeError):
        ThreadSession(print)

    assert AbstractSession.active_session_count() == before


async def test_an_app_of_the_other_kind_is_refused(kind: Kind) -> None:
    other = ThreadKind() if isinstance(kind, CoroutineKind) else CoroutineKind()

    async def body(*args: object) -> None:
        raise AssertionError("it must not run")

    async def app(session: AbstractSession) -> None:
        with pytest.raises(TypeError):
            session.run_task(other.function(body))

    with pytest.raises(TypeError):
        kind.session_class(other.function(body))
    with pytest.raises(TypeError):
        kind.session_class("no function")  # type: ignore[arg-type]  # that is the point
    assert await kind.open(app).ended() is CloseReason.COMPLETED


async def test_every_hook_is_optional(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "say"})
        deferred.open()

    deferred = kind.gate()
    session = kind.session_class(kind.app(app))
    await deferred.opened()
    await eventually(lambda: session.ended)

    assert [command["command"] for command in session.get_task_commands()] == ["say"]


async def test_a_session_has_a_random_id_or_the_one_it_is_given(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        pass

    assert kind.open(app, session_id="s-1").session.id == "s-1"
    assert kind.open(app).session.id != kind.open(app).session.id


async def test_the_app_can_read_what_it_was_opened_with_and_not_change_it(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        seen.open(session.params)

    seen = kind.gate()
    kind.open(app, params={"name": "Ada"})
    params = await seen.opened()

    assert dict(params) == {"name": "Ada"}
    with pytest.raises(TypeError):
        params["name"] = "Bob"


# --- failures ---------------------------------------------------------------------------------------------------------

FAILURES = [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
async def test_what_leaves_the_main_task_ends_the_session_as_failed(
    kind: Kind, failure: type[BaseException], errors: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        raise failure("secret")

    backend = kind.open(app)

    assert await backend.ended() is CloseReason.FAILED
    [log] = errors()
    [command] = backend.session.get_task_commands()
    assert command["command"] == "task_exception"
    assert command["task_id"].startswith("main-")
    assert command["spec"].keys() == {"id", "message"}
    for part in (backend.session.id, command["task_id"], command["spec"]["id"], "secret", "in app"):
        assert part in log
    assert command["spec"]["id"] in backend.session.close_message
    assert "secret" not in str(command) + backend.session.close_message


async def test_a_main_task_that_fails_ends_the_session_though_a_callback_is_registered(
    kind: Kind, errors: Callable[[], list[str]]
) -> None:
    async def clicked(data: object) -> None:
        pass

    async def app(session: AbstractSession) -> None:
        session.register_callback(kind.function(clicked))
        raise ValueError("broken")

    assert await kind.open(app).ended() is CloseReason.FAILED
    assert len(errors()) == 1


async def test_in_debug_mode_the_client_gets_the_traceback(kind: Kind, errors: Callable[[], list[str]]) -> None:
    async def app(session: AbstractSession) -> None:
        raise ValueError("secret")

    backend = kind.open(app, limits=SessionOptions(debug=True))
    [spec] = await backend.specs(1)

    assert "ValueError: secret" in spec["traceback"]
    await backend.ended()
    assert len(errors()) == 1


async def test_an_app_may_report_an_exception_and_go_on(kind: Kind, errors: Callable[[], list[str]]) -> None:
    async def app(session: AbstractSession) -> None:
        for text in ("one", "two"):
            try:
                raise ValueError(text)
            except ValueError:
                session.on_task_exception()

    backend = kind.open(app)

    assert await backend.ended() is CloseReason.COMPLETED
    first, second = await backend.specs(2)
    assert first["id"] != second["id"]
    assert ["ValueError: one" in errors()[0], "ValueError: two" in errors()[1]] == [True, True]


# --- run_task ---------------------------------------------------------------------------------------------------------


async def test_run_task_gives_a_task_with_an_id_and_a_mailbox_of_its_own(kind: Kind) -> None:
    async def add(*numbers: int) -> None:
        session = get_current_session()
        session.send_task_command({"command": "sum", "spec": sum(numbers) + await kind.event(session)})

    async def app(session: AbstractSession) -> None:
        handle.open(session.run_task(kind.function(add), 1, 2))
        session.send_task_command({"command": "sum", "spec": await kind.event(session)})

    handle = kind.gate()
    backend = kind.open(app)
    task: TaskHandle = await handle.opened()
    backend.send(10, task.id)

    assert await backend.specs(1) == [13]
    assert backend.taken[0]["task_id"] == task.id
    backend.send(20)
    assert await backend.specs(2) == [13, 20]
    await eventually(task.done)


async def test_a_session_waits_for_every_task_it_started(kind: Kind) -> None:
    async def slow() -> None:
        started.open()
        await kind.at(gate)
        ran.append("slow")

    async def app(session: AbstractSession) -> None:
        session.run_task(kind.function(slow))
        session.defer_call(lambda: ran.append("deferred"))

    ran: list[str] = []
    started, gate = kind.gate(), kind.gate()
    backend = kind.open(app)
    await started.opened()
    assert not backend.session.closed()
    gate.open()

    assert await backend.ended() is CloseReason.COMPLETED
    assert ran == ["slow", "deferred"]


@pytest.mark.parametrize("failure", FAILURES[:3], ids=lambda failure: failure.__name__)
async def test_a_task_that_fails_is_reported_and_the_session_goes_on(
    kind: Kind, failure: type[BaseException], errors: Callable[[], list[str]]
) -> None:
    async def broken() -> None:
        raise failure("secret")

    async def app(session: AbstractSession) -> None:
        session.run_task(kind.function(broken))
        await kind.event(session)

    backend = kind.open(app)
    [spec] = await backend.specs(1)
    assert backend.taken[0]["task_id"].startswith("task-")
    assert spec["id"] in errors()[0]
    backend.send()

    assert await backend.ended() is CloseReason.COMPLETED


async def test_cancelling_a_task_ends_it_quietly_and_no_other(kind: Kind) -> None:
    async def victim() -> None:
        try:
            await kind.next_event(get_current_session())
        except BaseException as error:
            left.open(type(error))
            raise

    async def app(session: AbstractSession) -> None:
        handle.open(session.run_task(kind.function(victim)))
        await kind.event(session)

    left, handle = kind.gate(), kind.gate()
    backend = kind.open(app)
    task: TaskHandle = await handle.opened()
    task.cancel()

    assert await left.opened() is asyncio.CancelledError
    await eventually(task.done)
    task.cancel()
    backend.send()
    assert await backend.ended() is CloseReason.COMPLETED


async def test_a_task_can_be_cancelled_from_any_thread(kind: Kind) -> None:
    async def victim() -> None:
        await kind.next_event(get_current_session())

    async def app(session: AbstractSession) -> None:
        handle.open(session.run_task(kind.function(victim)))

    handle = kind.gate()
    backend = kind.open(app)
    task: TaskHandle = await handle.opened()
    await asyncio.to_thread(task.cancel)

    assert await backend.ended() is CloseReason.COMPLETED
    assert task.done()


async def test_a_cancelled_thread_meets_it_at_its_next_call_of_the_session(threads: ThreadKind) -> None:
    calls: list[Callable[[AbstractSession], object]] = [
        lambda session: session.next_client_event(),
        lambda session: session.send_task_command({"command": "say"}),
        lambda session: session.drain(),
    ]

    def victim(call: Callable[[AbstractSession], object]) -> None:
        gate.block()
        try:
            call(get_current_session())
        except BaseException as error:
            met.append(type(error))
            raise

    async def app(session: AbstractSession) -> None:
        handles.open([session.run_task(victim, call) for call in calls])

    met: list[type] = []
    gate, handles = threads.gate(), threads.gate()
    backend = threads.open(app)
    for handle in await handles.opened():
        handle.cancel()
    gate.open()
    await backend.ended()

    assert met == [asyncio.CancelledError] * 3


async def test_a_cancelled_producer_stops_waiting_for_room(threads: ThreadKind) -> None:
    def produce() -> None:
        session = get_current_session()
        while True:
            session.send_task_command({"command": "say"})

    async def app(session: AbstractSession) -> None:
        handle.open(session.run_task(produce))

    handle = threads.gate()
    backend = threads.open(app)
    task: TaskHandle = await handle.opened()
    await eventually(lambda: backend.session.pending_commands == 1024)
    task.cancel()

    assert await backend.ended() is CloseReason.COMPLETED


async def test_a_cancelled_coroutine_may_still_say_goodbye(coroutines: CoroutineKind) -> None:
    async def victim() -> None:
        session = get_current_session()
        try:
            started.open()
            await session.next_client_event()
        finally:
            session.send_task_command({"command": "goodbye", "spec": 1})

    async def app(session: AbstractSession) -> None:
        handle.open(session.run_task(victim))
        await session.next_client_event()

    started, handle = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)
    await started.opened()
    (await handle.opened()).cancel()

    assert await backend.specs(1) == [1]


async def test_a_closed_session_runs_no_more_tasks(kind: Kind) -> None:
    async def body(*args: object) -> None:
        raise AssertionError("it must not run")

    async def app(session: AbstractSession) -> None:
        pass

    session = kind.open(app).session
    session.close()

    with pytest.raises(SessionClosedException):
        session.run_task(kind.function(body))
    with pytest.raises(SessionClosedException):
        session.register_callback(kind.function(body))


async def test_tasks_can_be_run_from_a_thread_that_is_none_of_the_session(kind: Kind) -> None:
    async def body(data: str) -> None:
        get_current_session().send_task_command({"command": "say", "spec": data})

    async def app(session: AbstractSession) -> None:
        await kind.next_event(session)

    backend = kind.open(app)
    handle: Any = await asyncio.to_thread(backend.session.run_task, kind.function(body), "hello")

    assert await backend.specs(1) == ["hello"]
    assert backend.taken[0]["task_id"] == handle.id
