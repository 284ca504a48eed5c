"""Events: mailboxes, their window, waiting and its ends, and `end_events`."""

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
    SessionClosedException,
    SessionOptions,
    Window,
    get_current_session,
    get_current_task_id,
)
from tests.session.kinds import LIMIT, CoroutineKind, Kind, ThreadKind, eventually


async def echo(kind: Kind, session: AbstractSession) -> None:
    """Answer every event with its data, for ever."""
    while True:
        session.send_task_command({"command": "echo", "spec": await kind.event(session)})


# --- which task gets which event --------------------------------------------------------------------------------------


async def test_events_arrive_in_order_and_whole(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        seen.open([await kind.next_event(session) for _ in range(3)])

    seen = kind.gate()
    backend = kind.open(app)
    for data in (1, "two", {"three": [None]}):
        assert backend.send(data)

    events = await seen.opened()
    assert [event["data"] for event in events] == [1, "two", {"three": [None]}]
    assert all(event.keys() == {"event", "task_id", "data"} and event["event"] == "say" for event in events)


async def test_events_without_a_task_id_are_for_the_main_task(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        assert (await kind.next_event(session))["task_id"] == get_current_task_id()
        seen.open()

    seen = kind.gate()
    session = kind.open(app).session
    session.send_client_event({"event": "say"})

    await seen.opened()


async def test_events_wait_in_the_mailbox_while_the_task_does_something_else(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.at(gate)
        for _ in range(100):
            session.send_task_command({"command": "echo", "spec": await kind.event(session)})

    gate = kind.gate()
    backend = kind.open(app)
    for number in range(100):
        assert backend.send(number)
    gate.open()

    assert await backend.specs(100) == list(range(100))


async def test_each_task_gets_its_own_events(kind: Kind) -> None:
    async def listen() -> None:
        await echo(kind, get_current_session())

    async def app(session: AbstractSession) -> None:
        ids.open([session.run_task(kind.function(listen)).id for _ in range(2)])
        await echo(kind, session)

    ids = kind.gate()
    backend = kind.open(app)
    for task_id in ["", *await ids.opened()]:
        for number in range(3):
            backend.send([task_id, number], task_id)
    await backend.specs(9)

    for command in backend.taken:
        assert command["spec"][0] in ("", command["task_id"])
    for task_id in ["", *await ids.opened()]:
        numbers = [command["spec"][1] for command in backend.taken if command["spec"][0] == task_id]
        assert numbers == [0, 1, 2]


async def test_an_event_for_a_task_that_does_not_exist_is_dropped_and_counted(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    async def short() -> None:
        pass

    async def app(session: AbstractSession) -> None:
        handle.open(session.run_task(kind.function(short)))
        await echo(kind, session)

    handle = kind.gate()
    backend = kind.open(app)
    ended = await handle.opened()
    await eventually(ended.done)
    caplog.set_level("DEBUG", "session_service")
    for task_id in (ended.id, "task-99", "callback-99"):
        assert backend.send("lost", task_id)
    assert backend.click("callback-99")
    backend.send("heard")

    assert await backend.specs(1) == ["heard"]
    assert backend.session.dropped == 4
    assert [record.levelname for record in caplog.records if "dropped an event" in record.message] == ["DEBUG"] * 4


NO_EVENTS: list[Any] = [
    {},
    {"task_id": "main"},
    None,
    [],
    "event",
    7,
    {"event": "say", "task_id": ["unhashable"]},
    {"event": "say", "task_id": {"a": 1}},
    {"event": "callback", "task_id": ["unhashable"]},
    {"event": ["unhashable"], "task_id": "x"},
    {"event": "say", "task_id": 12},
    {"event": None, "task_id": "\ud800"},
]


@pytest.mark.parametrize("event", NO_EVENTS, ids=repr)
async def test_nothing_that_a_client_sends_is_raised_into_the_backend(kind: Kind, event: Any) -> None:
    async def app(session: AbstractSession) -> None:
        await echo(kind, session)

    backend = kind.open(app)

    assert backend.session.send_client_event(event)
    assert backend.session.dropped == 1
    backend.send("heard")
    assert await backend.specs(1) == ["heard"]


async def test_events_nobody_took_are_counted_as_dropped(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.at(gate)

    gate = kind.gate()
    backend = kind.open(app)
    for _ in range(3):
        backend.send()
    gate.open()
    await backend.ended()
    assert backend.send()

    assert backend.session.dropped == 4


# --- the window -------------------------------------------------------------------------------------------------------


async def test_all_mailboxes_together_are_bounded(kind: Kind) -> None:
    async def idle() -> None:
        await kind.at(gate)

    async def app(session: AbstractSession) -> None:
        handle.open(session.run_task(kind.function(idle)))
        await kind.at(gate)

    gate, handle = kind.gate(), kind.gate()
    backend = kind.open(app, limits=SessionOptions(event_window=Window(messages=4)))
    task_id = (await handle.opened()).id

    assert [backend.send(), backend.send(None, task_id), backend.send(), backend.send(None, task_id)] == [True] * 4
    assert not backend.send()
    assert not backend.send(None, task_id)
    assert backend.send(None, "task-99"), "what is dropped needs no room"


async def test_the_window_counts_bytes_and_lets_a_first_one_pass_alone(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.at(gate)
        await echo(kind, session)

    gate = kind.gate()
    backend = kind.open(app, limits=SessionOptions(event_window=Window(size=100)))

    assert backend.send("large", size=1000)
    assert not backend.send("small", size=1)
    gate.open()
    await backend.room()
    assert backend.send("half", size=60)
    assert backend.send("rest", size=40)
    assert await backend.specs(3) == ["large", "half", "rest"]


async def test_each_refusal_arms_one_call_of_on_event_room_when_half_of_the_window_is_free(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        for gate in gates:
            await kind.at(gate)
            session.send_task_command({"command": "echo", "spec": await kind.event(session)})

    gates = [kind.gate() for _ in range(8)]
    backend = kind.open(app, limits=SessionOptions(event_window=Window(messages=4)))
    for number in range(4):
        assert backend.send(number)
    gates[0].open()
    await backend.specs(1)
    assert backend.send(4)
    assert backend.rooms == 0, "nothing was refused"

    assert not backend.send(5)
    gates[1].open()
    await backend.specs(2)
    await asyncio.sleep(0)
    assert backend.rooms == 0, "a quarter is free"
    gates[2].open()
    await backend.room()
    gates[3].open()
    await backend.specs(4)
    await asyncio.sleep(0)
    assert backend.rooms == 1

    assert backend.send(5)
    for gate in gates[4:]:
        gate.open()
    backend.send(6)
    backend.send(7)
    assert await backend.specs(8) == list(range(8))
    await backend.ended()
    assert backend.rooms == 1


async def test_on_event_room_is_called_on_the_loop(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.at(gate)
        await echo(kind, session)

    def on_event_room(session: AbstractSession) -> None:
        threads.open((session, threading.current_thread()))

    gate, threads = kind.gate(), kind.gate()
    session = kind.session_class(
        kind.app(app), on_event_room=on_event_room, options=SessionOptions(event_window=Window(messages=1))
    )
    session.send_client_event({"event": "say"})
    assert not session.send_client_event({"event": "say"})
    gate.open()

    assert await threads.opened() == (session, threading.current_thread())
    session.close()
    await eventually(lambda: session.ended)


async def test_a_task_that_ends_makes_room_for_others(kind: Kind) -> None:
    async def lazy() -> None:
        await kind.at(gate)

    async def app(session: AbstractSession) -> None:
        handle.open(session.run_task(kind.function(lazy)))
        await echo(kind, session)

    gate, handle = kind.gate(), kind.gate()
    backend = kind.open(app, limits=SessionOptions(event_window=Window(messages=2)))
    task_id = (await handle.opened()).id
    assert [backend.send(None, task_id), backend.send(None, task_id), backend.send("heard")] == [True, True, False]
    gate.open()
    await backend.room()

    assert backend.send("heard")
    assert await backend.specs(1) == ["heard"]


# --- waiting ----------------------------------------------------------------------------------------------------------


async def test_a_wait_that_times_out_takes_no_event(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        try:
            await kind.next_event(session, timeout=0.001)
        except TimeoutError as error:
            late.open(str(error))
        await echo(kind, session)

    late = kind.gate()
    backend = kind.open(app)
    assert await late.opened() == "no event within 0.001 s"
    backend.send("heard")

    assert await backend.specs(1) == ["heard"]


async def test_a_wait_in_a_thread_of_a_coroutine_session_times_out_too(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        with pytest.raises(TimeoutError, match=r"no event within 0\.001 s"):
            await asyncio.to_thread(session.next_client_event, timeout=0.001)
        session.send_task_command({"command": "late"})

    assert await coroutines.open(app).specs(1) == [None]


async def test_a_timeout_of_nothing_takes_what_is_there_and_waits_for_nothing(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.at(gate)
        first = await kind.next_event(session, timeout=0)
        try:
            await kind.next_event(session, timeout=0)
        except TimeoutError:
            seen.open(first["data"])

    gate, seen = kind.gate(), kind.gate()
    kind.open(app).send("here")
    gate.open()

    assert await seen.opened() == "here"


async def test_a_wait_cancelled_in_the_turn_in_which_an_event_arrives_takes_none(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        wait = asyncio.create_task(session.next_client_event())
        waiting.open(wait)
        await asyncio.wait({wait})
        await echo(coroutines, session)

    waiting = coroutines.gate()
    backend = coroutines.open(app)
    wait: asyncio.Task[Any] = await waiting.opened()
    await asyncio.sleep(0)
    backend.send("heard")
    wait.cancel()

    assert await backend.specs(1) == ["heard"]
    assert wait.cancelled()


async def test_an_event_passes_from_a_cancelled_wait_to_the_next_one(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        waits = [asyncio.create_task(session.next_client_event()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.open(waits)
        await asyncio.wait(waits)

    waiting = coroutines.gate()
    backend = coroutines.open(app)
    first, second, third = await waiting.opened()
    backend.send("one")
    first.cancel()
    backend.send("two")

    assert (await second)["data"] == "one"
    assert (await third)["data"] == "two"
    assert first.cancelled()


async def test_waiters_of_one_task_are_served_in_the_order_of_waiting(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        waits = [asyncio.create_task(session.next_client_event()) for _ in range(10)]
        await asyncio.sleep(0)
        waiting.open()
        seen.open([event["data"] for event in await asyncio.gather(*waits)])

    waiting, seen = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)
    await waiting.opened()
    for number in range(10):
        backend.send(number)

    assert await seen.opened() == list(range(10))


async def test_a_newcomer_does_not_overtake_a_waiter_that_has_been_woken(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        first = asyncio.create_task(session.next_client_event())
        await asyncio.sleep(0)
        backend.send("one")
        asyncio.get_running_loop().call_soon(backend.send, "two")
        second = await session.next_client_event()
        seen.open(((await first)["data"], second["data"]))

    seen = coroutines.gate()
    backend = coroutines.open(app)

    assert await seen.opened() == ("one", "two")


async def test_a_faster_waiter_does_not_overtake_one_that_waited_before_it(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        first = asyncio.create_task(session.next_client_event())
        await asyncio.sleep(0)
        second = threading.Thread(target=contextvars.copy_context().run, args=(lambda: got.open(wait(session)),))
        second.start()
        waiting.open(second)
        seen.open((await first)["data"])

    def wait(session: AbstractSession) -> object:
        return session.next_client_event()["data"]

    waiting, got, seen = coroutines.gate(), coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)
    thread: threading.Thread = await waiting.opened()
    await eventually(lambda: backend.look().tasks[0].waiters == 2)
    backend.send("one")
    backend.send("two")
    thread.join(LIMIT)  # on the loop's thread: the first waiter cannot run before the second one has

    assert await seen.opened() == "one"
    assert await got.opened() == "two"


async def test_in_the_end_a_faster_waiter_leaves_the_last_event_to_one_before_it(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        first = asyncio.create_task(session.next_client_event())
        await asyncio.sleep(0)
        second = threading.Thread(target=contextvars.copy_context().run, args=(wait, session))
        second.start()
        waiting.open(second)
        seen.open((await first)["data"])

    def wait(session: AbstractSession) -> None:
        try:
            got.open(session.next_client_event())
        except SessionClosedException:
            got.open("nothing")

    waiting, got, seen = coroutines.gate(), coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)
    thread: threading.Thread = await waiting.opened()
    await eventually(lambda: backend.look().tasks[0].waiters == 2)
    backend.send("one")
    backend.session.end_events()
    thread.join(0.05)  # as long as the loop is blocked, only the second waiter could take it

    assert await seen.opened() == "one"
    assert await got.opened() == "nothing"


async def test_on_the_loop_a_thread_session_refuses_to_block(threads: ThreadKind) -> None:
    async def app(session: AbstractSession) -> None:
        context.open(contextvars.copy_context())
        await threads.at(gate)

    context, gate = threads.gate(), threads.gate()
    session = threads.open(app).session
    in_task = await context.opened()

    with pytest.raises(RuntimeError, match="block the event loop"):
        in_task.run(session.next_client_event)
    with pytest.raises(RuntimeError, match="block the event loop"):
        in_task.run(session.drain)


async def test_to_thread_waits_for_events_in_a_coroutine_session(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        while True:
            event = await asyncio.to_thread(session.next_client_event)
            session.send_task_command({"command": "echo", "spec": event["data"]})

    backend = coroutines.open(app)
    backend.send(1)
    await backend.specs(1)
    await eventually(lambda: backend.look().tasks[0].waiting)
    backend.send(2)

    assert await backend.specs(2) == [1, 2]


# --- no more events ---------------------------------------------------------------------------------------------------


async def test_after_the_end_of_events_those_that_came_are_still_taken(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.at(gate)
        try:
            await echo(kind, session)
        except SessionClosedException:
            session.send_task_command({"command": "say", "spec": "bye"})

    gate = kind.gate()
    backend = kind.open(app)
    for number in range(3):
        backend.send(number)
    backend.session.end_events()
    assert backend.send("too late"), "it was dropped"
    assert not backend.session.closed()
    gate.open()

    assert await backend.ended() is CloseReason.COMPLETED
    assert await backend.specs(4) == [0, 1, 2, "bye"]
    assert backend.session.dropped == 1


async def test_the_end_of_events_wakes_whoever_waits_and_stays(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        waiting.open()
        for _ in range(3):
            with pytest.raises(SessionClosedException):
                await kind.next_event(session)
        session.send_task_command({"command": "say", "spec": "bye"})

    waiting = kind.gate()
    backend = kind.open(app)
    await waiting.opened()
    await eventually(lambda: backend.look().tasks[0].waiting)
    backend.session.end_events()
    backend.session.end_events()

    assert await backend.ended() is CloseReason.COMPLETED
    assert await backend.specs(1) == ["bye"]


async def test_events_may_be_ended_from_any_thread(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.next_event(session)

    backend = kind.open(app)
    await asyncio.to_thread(backend.session.end_events)

    assert await backend.ended() is CloseReason.CLIENT


async def test_a_task_that_starts_after_the_end_of_events_need_not_wait_for_any(kind: Kind) -> None:
    async def late() -> None:
        try:
            await kind.next_event(get_current_session())
        except SessionClosedException:
            met.open()

    async def app(session: AbstractSession) -> None:
        await kind.at(gate)
        session.run_task(kind.function(late))

    gate, met = kind.gate(), kind.gate()
    backend = kind.open(app)
    backend.session.end_events()
    gate.open()

    await met.opened()
    assert await backend.ended() is CloseReason.COMPLETED


async def test_a_main_task_that_the_end_of_events_ends_was_ended_by_the_client(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await echo(kind, session)

    backend = kind.open(app)
    backend.send("last words")
    backend.session.end_events()

    assert await backend.ended() is CloseReason.CLIENT
    assert await backend.specs(1) == ["last words"]
    assert len(backend.taken) == 1, "it is no failure"


async def test_a_main_task_that_returns_has_completed_also_after_the_end_of_events(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.at(gate)

    gate = kind.gate()
    backend = kind.open(app)
    backend.session.end_events()
    gate.open()

    assert await backend.ended() is CloseReason.COMPLETED


async def test_a_main_task_that_fails_has_failed_also_after_the_end_of_events(
    kind: Kind, errors: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        try:
            await kind.next_event(session)
        except SessionClosedException:
            raise ValueError("broken") from None

    backend = kind.open(app)
    backend.session.end_events()

    assert await backend.ended() is CloseReason.FAILED
    assert len(errors()) == 1


async def test_session_closed_exceptions_are_failures_as_long_as_nothing_has_ended(
    kind: Kind, errors: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        raise SessionClosedException("of its own making")

    assert await kind.open(app).ended() is CloseReason.FAILED
    assert len(errors()) == 1


def group(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("several", errors)


@pytest.mark.parametrize(
    ("left", "reason"),
    [
        (lambda: group(SessionClosedException()), CloseReason.CLIENT),
        (lambda: group(SessionClosedException(), group(SessionClosedException())), CloseReason.CLIENT),
        (lambda: group(SessionClosedException(), asyncio.CancelledError()), CloseReason.CLIENT),
        (lambda: group(SessionClosedException(), ValueError()), CloseReason.FAILED),
        (lambda: group(SessionClosedException(), group(SystemExit())), CloseReason.FAILED),
    ],
    ids=["closed", "nested", "with cancellations", "with an error", "with SystemExit"],
)
async def test_a_group_of_nothing_but_the_end_is_no_failure(
    kind: Kind, left: Callable[[], BaseException], reason: CloseReason, errors: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        try:
            await kind.next_event(session)
        except SessionClosedException:
            raise left() from None

    backend = kind.open(app)
    backend.session.end_events()

    assert await backend.ended() is reason
    assert len(errors()) == (reason is CloseReason.FAILED)


async def test_a_registered_callback_keeps_no_session_open_after_the_end_of_events(kind: Kind) -> None:
    async def clicked(data: object) -> None:
        pass

    async def app(session: AbstractSession) -> None:
        registered.open(session.register_callback(kind.function(clicked)))

    registered = kind.gate()
    backend = kind.open(app)
    await registered.opened()
    await eventually(lambda: not backend.look().task_count)
    assert not backend.session.closed()
    backend.session.end_events()

    assert await backend.ended() is CloseReason.COMPLETED


async def test_clicks_taken_over_before_the_end_of_events_still_run(kind: Kind) -> None:
    async def clicked(data: object) -> None:
        await kind.at(gate)
        get_current_session().send_task_command({"command": "ran", "spec": data})

    async def app(session: AbstractSession) -> None:
        registered.open(session.register_callback(kind.function(clicked), serial_mode=True))

    gate, registered = kind.gate(), kind.gate()
    backend = kind.open(app)
    clicks = await registered.opened()
    for number in range(3):
        assert backend.click(clicks, number)
    backend.session.end_events()
    backend.click(clicks, "too late")
    gate.open()

    assert await backend.ended() is CloseReason.COMPLETED
    assert await backend.specs(3) == [0, 1, 2]
    assert len(backend.taken) == 3
