"""Commands: what a sender may send, when it has to wait, and how the backend takes them."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest

from session_service import (
    AbstractSession,
    CloseReason,
    CommandBufferFull,
    PayloadError,
    SessionClosedException,
    SessionOptions,
    Window,
    get_current_session,
    get_current_task_id,
)
from tests.session.kinds import CoroutineKind, Kind, ThreadKind, eventually

# --- what is sent -----------------------------------------------------------------------------------------------------


async def test_a_command_carries_the_id_of_the_task_that_sent_it(kind: Kind) -> None:
    async def task() -> None:
        get_current_session().send_task_command({"command": "say", "spec": get_current_task_id()})

    async def app(session: AbstractSession) -> None:
        await task()
        session.run_task(kind.function(task))

    backend = kind.open(app)

    main_id, task_id = await backend.specs(2)
    assert backend.taken == [
        {"command": "say", "spec": main_id, "task_id": main_id},
        {"command": "say", "spec": task_id, "task_id": task_id},
    ]
    assert main_id != task_id


async def test_a_command_goes_to_the_task_it_names_or_from_outside_to_the_main_task(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "say", "spec": get_current_task_id(), "task_id": "task-9"})
        await kind.next_event(session)

    async def stranger(session: AbstractSession) -> None:
        target.send_task_command({"command": "say", "spec": "from another session"})

    backend = kind.open(app)
    target = backend.session
    [main_id] = await backend.specs(1)
    target.send_task_command({"command": "say", "spec": "from outside"})
    await kind.open(stranger).ended()
    await backend.specs(3)

    assert [command["task_id"] for command in backend.taken] == ["task-9", main_id, main_id]


async def test_the_spec_is_taken_as_it_stands_at_the_call(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        spec = {"items": [1]}
        for number in (2, 3):
            session.send_task_command({"command": "say", "spec": spec})
            spec["items"].append(number)

    backend = kind.open(app)
    await backend.ended()

    assert await backend.specs(2) == [{"items": [1]}, {"items": [1, 2]}]


async def test_a_spec_may_be_absent_or_bytes(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "say"})
        session.send_task_command({"command": "say", "spec": b"\x00\xff"})

    assert await kind.open(app).specs(2) == [None, b"\x00\xff"]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (object(), "spec"),
        ({"items": [1, {"when": object()}]}, "spec.items[1].when"),
        ({"ratio": math.nan}, "spec.ratio"),
        ([2**64], "spec[0]"),
        ({"tags": {"a"}}, "spec.tags"),
    ],
    ids=["object", "nested", "NaN", "large", "set"],
)
async def test_what_cannot_be_carried_is_refused_at_the_call_and_the_session_goes_on(
    kind: Kind, spec: object, path: str
) -> None:
    async def app(session: AbstractSession) -> None:
        with pytest.raises(PayloadError) as caught:
            session.send_task_command({"command": "say", "spec": spec})
        session.send_task_command({"command": "path", "spec": caught.value.path})

    backend = kind.open(app)

    assert await backend.specs(1) == [path]
    assert await backend.ended() is CloseReason.COMPLETED


@pytest.mark.parametrize("command", [{}, {"spec": 1}, {"command": 1}, {"command": "say", "sepc": 1}], ids=repr)
async def test_what_is_no_command_is_refused(kind: Kind, command: dict[str, Any]) -> None:
    async def app(session: AbstractSession) -> None:
        with pytest.raises(ValueError, match="a command is a dict"):
            session.send_task_command(command)
        session.send_task_command({"command": "say", "spec": "still here"})

    assert await kind.open(app).specs(1) == ["still here"]


async def test_the_server_gives_the_encoding(kind: Kind) -> None:
    def encode(name: str, task_id: str, spec: object) -> tuple[bytes, int]:
        return f"{name} {task_id} {spec}".encode(), 60

    async def app(session: AbstractSession) -> None:
        for number in range(3):
            session.send_task_command({"command": "say", "task_id": "t", "spec": number})

    session = kind.session_class(kind.app(app), encode=encode)
    await eventually(lambda: session.ended)

    assert session.get_task_commands(size=120) == [b"say t 0", b"say t 1"]
    assert session.get_task_commands() == [b"say t 2"]


# --- the backend's side -----------------------------------------------------------------------------------------------


async def test_commands_are_taken_in_order_each_once_up_to_the_limits(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        for size in (10, 10, 1000, 10, 10):
            session.send_task_command({"command": "", "task_id": "t", "spec": b"x" * (size - 1)})

    def take(messages: int | None = None, size: int | None = None) -> list[int]:
        return [len(command["spec"]) + 1 for command in session.get_task_commands(messages, size)]

    backend = kind.open(app)
    session = backend.session
    await backend.ended()

    assert session.pending_commands == 5
    assert take(messages=0) == []
    assert take(messages=1) == [10]
    assert take(size=500) == [10]
    assert take(size=500) == [1000], "one that is larger comes alone"
    assert take(messages=9, size=19) == [10]
    assert take() == [10]
    assert take() == []
    assert session.pending_commands == 0


async def test_commands_can_be_taken_after_the_close(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "say", "spec": "last words"})
        await kind.next_event(session)

    backend = kind.open(app)
    await eventually(lambda: backend.session.pending_commands)
    await backend.close()

    assert await backend.specs(1) == ["last words"]


async def test_on_task_command_is_called_when_commands_appear_and_not_for_each(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        for count in (3, 2):
            await kind.next_event(session)
            for _ in range(count):
                session.send_task_command({"command": "say"})
            sent[count].open()
        await kind.next_event(session)

    sent = {3: kind.gate(), 2: kind.gate()}
    backend = kind.open(app)
    backend.send()
    await sent[3].opened()
    await eventually(lambda: backend.edges)
    assert backend.edges == 1
    backend.session.get_task_commands(messages=2)
    backend.send()
    await sent[2].opened()
    await asyncio.sleep(0)
    assert backend.edges == 1, "one was left, so none appeared after there were none"

    backend.session.get_task_commands()
    backend.session.send_task_command({"command": "say"})
    await eventually(lambda: backend.edges == 2)


async def test_on_task_command_is_called_on_the_loop(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "say"})

    called = kind.gate()
    session = kind.session_class(
        kind.app(app), on_task_command=lambda session: called.open((session, threading.current_thread()))
    )

    assert await called.opened() == (session, threading.current_thread())
    await eventually(lambda: session.ended)


async def test_the_order_of_calls_is_the_order_of_commands_across_tasks(kind: Kind) -> None:
    async def talk(own: int) -> None:
        for number in range(500):
            get_current_session().send_task_command({"command": "say", "spec": [own, number]})
            await kind.drain(get_current_session())

    async def app(session: AbstractSession) -> None:
        for own in range(4):
            session.run_task(kind.function(talk), own)

    backend = kind.open(app, limits=SessionOptions(command_window=Window(messages=16)))
    specs = await backend.specs(2000)
    await backend.ended()

    for own in range(4):
        assert [number for teller, number in specs if teller == own] == list(range(500))


async def test_tasks_that_take_turns_send_in_turns(kind: Kind) -> None:
    async def first() -> None:
        for number in (0, 2):
            await kind.at(gates[number])
            get_current_session().send_task_command({"command": "say", "spec": number})
            gates[number + 1].open()

    async def app(session: AbstractSession) -> None:
        session.run_task(kind.function(first))
        for number in (1, 3):
            await kind.at(gates[number])
            session.send_task_command({"command": "say", "spec": number})
            gates[number + 1].open()

    gates = [kind.gate() for _ in range(5)]
    gates[0].open()

    assert await kind.open(app).specs(4) == [0, 1, 2, 3]


# --- room -------------------------------------------------------------------------------------------------------------

WINDOW_OF_4 = SessionOptions(command_window=Window(messages=4))


async def test_on_the_loop_a_sender_gets_eight_windows_far(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        for number in range(32):
            session.send_task_command({"command": "say", "spec": number})
        with pytest.raises(CommandBufferFull, match=r"drain\(\)"):
            session.send_task_command({"command": "say", "spec": "too much"})
        full.open()
        await session.drain()
        session.send_task_command({"command": "say", "spec": 32})

    full = coroutines.gate()
    backend = coroutines.open(app, limits=WINDOW_OF_4)
    await full.opened()

    assert await backend.specs(33) == list(range(33))
    assert await backend.ended() is CloseReason.COMPLETED


async def test_on_the_loop_eight_windows_of_bytes_are_the_limit_too(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        command = {"command": "", "task_id": "t", "spec": b"x" * 99}
        for _ in range(8):
            session.send_task_command(command)
        with pytest.raises(CommandBufferFull):
            session.send_task_command(command)
        seen.open(session.pending_commands)

    seen = coroutines.gate()
    coroutines.open(app, limits=SessionOptions(command_window=Window(size=100)))

    assert await seen.opened() == 8


@pytest.mark.parametrize("waiting", [1, 2, 3], ids=lambda count: f"{count} wait")
async def test_on_the_loop_drain_makes_room_for_a_command_of_any_size(coroutines: CoroutineKind, waiting: int) -> None:
    async def app(session: AbstractSession) -> None:
        for _ in range(waiting):
            session.send_task_command({"command": "say", "spec": ""})
        await session.drain()
        session.send_task_command({"command": "say", "spec": "x" * 1000})  # ten windows
        with pytest.raises(CommandBufferFull):
            session.send_task_command({"command": "say", "spec": ""})

    backend = coroutines.open(app, limits=SessionOptions(command_window=Window(size=100)))

    assert await backend.specs(waiting + 1) == [""] * waiting + ["x" * 1000]
    assert await backend.ended() is CloseReason.COMPLETED


async def test_the_loop_never_blocks_on_a_full_thread_session(threads: ThreadKind) -> None:
    async def app(session: AbstractSession) -> None:
        await threads.at(gate)

    gate = threads.gate()
    session = threads.open(app, limits=WINDOW_OF_4).session
    for _ in range(32):
        session.send_task_command({"command": "say"})

    with pytest.raises(CommandBufferFull):
        session.send_task_command({"command": "say"})


async def test_a_command_larger_than_the_window_goes_alone(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "say", "spec": "x" * 1000})

    backend = kind.open(app, limits=SessionOptions(command_window=Window(size=10)))

    assert await backend.specs(1) == ["x" * 1000]


async def test_a_producer_in_a_thread_is_released_when_commands_are_taken(threads: ThreadKind) -> None:
    async def app(session: AbstractSession) -> None:
        for number in range(100):
            session.send_task_command({"command": "say", "spec": number})

    backend = threads.open(app, limits=WINDOW_OF_4)
    await eventually(lambda: backend.look().senders)
    assert backend.session.pending_commands == 4
    backend.taken += backend.session.get_task_commands(messages=1)
    await eventually(lambda: backend.session.pending_commands == 4 and backend.look().senders)

    assert await backend.specs(100) == list(range(100))
    assert await backend.ended() is CloseReason.COMPLETED


async def test_a_producer_in_a_thread_is_released_by_a_close(threads: ThreadKind) -> None:
    async def app(session: AbstractSession) -> None:
        try:
            while True:
                session.send_task_command({"command": "say"})
        except SessionClosedException:
            released.open()
            raise

    released = threads.gate()
    backend = threads.open(app, limits=WINDOW_OF_4)
    await eventually(lambda: backend.look().senders)
    backend.session.close()

    await released.opened()
    await backend.ended()
    assert len(backend.session.get_task_commands()) == 4, "nothing that was sent is lost"


async def test_to_thread_sends_from_a_coroutine_session_and_blocks_like_a_thread(coroutines: CoroutineKind) -> None:
    def produce(session: AbstractSession) -> None:
        for number in range(100):
            session.send_task_command({"command": "say", "spec": number})

    async def app(session: AbstractSession) -> None:
        await asyncio.to_thread(produce, session)
        await asyncio.to_thread(session.send_task_command, {"command": "say", "spec": get_current_task_id()})

    backend = coroutines.open(app, limits=WINDOW_OF_4)
    await eventually(lambda: backend.look().senders)
    assert backend.session.pending_commands == 4

    assert (await backend.specs(101))[:100] == list(range(100))
    assert backend.taken[0]["task_id"] == backend.taken[100]["spec"]


async def test_drain_returns_at_once_where_there_is_room(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        for _ in range(3):
            session.send_task_command({"command": "say"})
            await kind.drain(session)
        drained.open()

    drained = kind.gate()
    kind.open(app, limits=WINDOW_OF_4)

    await drained.opened()


async def test_drain_waits_for_room(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        for _ in range(4):
            session.send_task_command({"command": "say"})
        await kind.drain(session)
        drained.open()

    drained = kind.gate()
    backend = kind.open(app, limits=WINDOW_OF_4)
    await eventually(lambda: backend.look().senders)
    assert not drained.is_open()
    backend.session.get_task_commands(messages=1)

    await drained.opened()


async def test_drain_is_released_by_a_close(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        for _ in range(4):
            session.send_task_command({"command": "say"})
        try:
            await kind.drain(session)
        except SessionClosedException:
            released.open()

    released = kind.gate()
    backend = kind.open(app, limits=WINDOW_OF_4)
    await eventually(lambda: backend.look().senders)
    backend.session.close()

    await released.opened()
    await backend.ended()


async def test_a_drain_that_is_cancelled_leaves_no_waiter_behind(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        for _ in range(4):
            session.send_task_command({"command": "say"})
        try:
            async with asyncio.timeout(0.001):
                await session.drain()
        except TimeoutError:
            late.open()
        await session.next_client_event()

    late = coroutines.gate()
    session = coroutines.open(app, limits=WINDOW_OF_4).session
    await late.opened()

    assert session.snapshot(most=0).senders == 0


async def test_nothing_is_sent_after_the_close(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.defer_call(lambda: attempt("deferred"))
        try:
            await kind.next_event(session)
        finally:
            attempt("finally")

    def attempt(where: str) -> None:
        try:
            get_current_session().send_task_command({"command": "say"})
        except SessionClosedException:
            refused.append(where)

    refused: list[str] = []
    backend = kind.open(app)
    await eventually(lambda: backend.look().tasks[0].waiting)
    backend.session.close()
    with pytest.raises(SessionClosedException):
        backend.session.send_task_command({"command": "say"})
    await backend.ended()

    assert refused == ["finally", "deferred"]
    assert backend.session.get_task_commands() == []
