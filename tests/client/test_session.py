"""A session of the Python client, against a real server: events, commands, acks, and leaving."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf import wrappers_pb2
from session_client import CloseReason, SessionClient, SessionEnded

from session_service import SessionClosedException, Window, get_current_session
from session_service.errors import PayloadError
from session_service.examples import apps as examples
from session_service.host import App
from tests.session.kinds import Gate, eventually

from .served import QUICK, Serve, client_tasks, echo

pytestmark = pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])


async def many() -> None:
    """Send forty commands, then wait to be told to end."""
    session = get_current_session()
    for number in range(40):
        session.send_task_command({"command": "count", "spec": number})
        await session.drain()
    await session.next_client_event()


async def three() -> None:
    """Send three commands, and return."""
    for number in range(3):
        get_current_session().send_task_command({"command": "count", "spec": number})


# --- the example ------------------------------------------------------------------------------------------------------


async def test_the_example_of_the_documentation_works(serve: Serve, resumable: bool) -> None:
    served = await serve(dict(examples))
    commands = []
    async with SessionClient(served.address) as client:
        async with client.open("greet", params={"name": "Ada"}, resumable=resumable) as session:
            async for command in session:
                commands.append(command)
                if command.command == "ask":
                    await session.send_event("answer", 36, task_id=command.task_id)
        assert session.closed is not None
        assert session.closed.reason is CloseReason.COMPLETED
    assert [command.command for command in commands] == ["ask", "greeting"]
    assert "Ada" in commands[1].spec["text"]
    assert commands[0].task_id.startswith("main-")


async def test_events_and_commands_arrive_once_and_in_order(serve: Serve, echo_app: App, resumable: bool) -> None:
    served = await serve({"echo": echo_app})
    async with SessionClient(served.address) as client, client.open("echo", resumable=resumable) as session:

        async def send() -> None:
            for number in range(3000):
                await session.send_event("say", number)
            await session.close()

        sender = asyncio.create_task(send())
        heard = [command.spec async for command in session]
        await sender
    assert heard == list(range(3000))


@pytest.mark.parametrize(
    "data", [None, 2**63, 1.5, "text", [1, {"a": None}], b"\x00\xff", wrappers_pb2.StringValue(value="typed")]
)
async def test_data_goes_up_and_comes_back_unchanged(serve: Serve, resumable: bool, data: Any) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client, client.open("echo", resumable=resumable) as session:
        await session.send_event("say", data)
        spec = (await anext(session)).spec
        assert spec == data
        assert type(spec) is type(data)


async def test_an_event_goes_to_the_task_or_the_callback_that_it_names(serve: Serve, resumable: bool) -> None:
    async def app() -> None:
        session = get_current_session()

        async def called(data: Any) -> None:
            session.send_task_command({"command": "called", "spec": data})

        session.send_task_command({"command": "button", "spec": session.register_callback(called)})

    served = await serve({"app": app})
    async with SessionClient(served.address) as client, client.open("app", resumable=resumable) as session:
        button = await anext(session)
        await session.send_event("callback", {"x": 1}, task_id=button.spec)
        called = await anext(session)
        assert called.spec == {"x": 1}
        assert called.task_id != button.task_id


@pytest.mark.parametrize("data", [float("nan"), {1: 2}, {1, 2}, 2**64, object()])
async def test_what_cannot_be_carried_is_refused_at_the_call_and_uses_nothing_up(
    serve: Serve, resumable: bool, data: Any
) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client, client.open("echo", resumable=resumable) as session:
        await session.send_event("say", 1)
        with pytest.raises(PayloadError):
            await session.send_event("say", data)
        assert session.position.sent == 1
        await session.send_event("say", 2)
        assert [(await anext(session)).spec for _ in range(2)] == [1, 2]


# --- windows and acks -------------------------------------------------------------------------------------------------


async def test_an_application_that_is_slow_is_not_run_over(serve: Serve, resumable: bool) -> None:
    served = await serve({"many": many}, heartbeat_interval=0.2)
    window = Window(4, 1 << 20)
    async with (
        SessionClient(served.address, command_window=window) as client,
        client.open("many", resumable=resumable) as session,
    ):
        first = [await anext(session) for _ in range(5)]
        # as long as several times what counts as silence: heartbeats are what goes on meanwhile
        beats = served.only.stream
        for _ in range(5):
            last = beats._sent_at  # type: ignore[union-attr]
            await eventually(lambda last=last: beats._sent_at > last)  # type: ignore[misc,union-attr]
        assert session.attached
        rest = [await anext(session) for _ in range(35)]
        assert [command.spec for command in first + rest] == list(range(40))
        await session.send_event("end")


async def test_send_event_waits_while_the_window_is_full(serve: Serve, resumable: bool) -> None:
    gate = Gate()

    async def app() -> None:
        await gate.opened()
        session = get_current_session()
        while True:
            event = await session.next_client_event()
            session.send_task_command({"command": "took", "spec": len(event["data"])})

    served = await serve({"app": app}, event_window=Window(16, 1 << 16))
    async with SessionClient(served.address) as client, client.open("app", resumable=resumable) as session:
        sender = asyncio.create_task(send_all(session, 400))
        outbox = session._conversation.outbox
        await eventually(lambda: sender.done() or (served.only.inbox.head and min(outbox.room()) < 1))
        assert not sender.done()
        if resumable:
            assert session.position.sent <= 8  # four at most with the session, four on their way
        gate.open()
        await sender
        assert [(await anext(session)).spec for _ in range(400)] == [20_000] * 400


async def send_all(session: Any, count: int) -> None:
    for _ in range(count):
        await session.send_event("say", "x" * 20_000)


# --- leaving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1, 3])
async def test_a_session_that_the_app_ends_is_over_however_much_was_taken(
    serve: Serve, resumable: bool, taken: int
) -> None:
    served = await serve({"three": three})
    async with SessionClient(served.address) as client:
        async with client.open("three", resumable=resumable) as session:
            got = [(await anext(session)).spec for _ in range(taken)]
            await eventually(lambda: session.closed)
            await eventually(lambda: resumable or not served.sessions)
        assert session.closed is not None
        assert session.closed.reason is CloseReason.COMPLETED
        rest = [command.spec async for command in session]
    assert got + rest == [0, 1, 2]
    await eventually(lambda: not served.sessions)  # `closed` was acknowledged (A7)


async def test_leaving_without_an_exception_closes_behind_the_events_and_waits_for_the_end(
    serve: Serve, resumable: bool
) -> None:
    done: list[Any] = []

    async def app() -> None:
        session = get_current_session()
        session.defer_call(lambda: done.append("deferred"))
        while True:
            done.append((await session.next_client_event())["data"])

    served = await serve({"app": app})
    async with SessionClient(served.address) as client:
        async with client.open("app", resumable=resumable) as session:
            for number in range(100):
                await session.send_event("say", number)
        assert done == [*range(100), "deferred"]
        assert session.closed is not None
        assert session.closed.reason is CloseReason.CLIENT
        assert client_tasks() == []
        await eventually(lambda: not served.sessions)


async def test_leaving_with_an_exception_closes_now(serve: Serve, resumable: bool) -> None:
    fate: list[str] = []
    started = Gate()

    async def app() -> None:
        started.open()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            fate.append("cancelled")
            raise

    served = await serve({"app": app})
    async with SessionClient(served.address) as client:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it leaves the session
            async with client.open("app", resumable=resumable) as session:
                await started.opened()
                raise ZeroDivisionError
        assert fate == ["cancelled"]
        assert session.closed is not None
        assert session.closed.reason is CloseReason.CLIENT
        assert client_tasks() == []


async def test_a_break_out_of_the_loop_leaves_in_good_order(serve: Serve, resumable: bool) -> None:
    served = await serve({"many": many})
    async with SessionClient(served.address) as client:
        async with client.open("many", resumable=resumable) as session:
            async for command in session:
                if command.spec == 2:
                    break
        assert session.closed is not None
        assert [command.spec async for command in session] == list(range(3, 40))
    await eventually(lambda: not served.sessions)


async def test_close_returns_how_it_ended_and_what_came_meanwhile_can_be_read(serve: Serve, resumable: bool) -> None:
    async def app() -> None:
        session = get_current_session()
        try:
            await session.next_client_event()
        except SessionClosedException:
            session.send_task_command({"command": "last", "spec": "words"})

    served = await serve({"app": app})
    async with SessionClient(served.address) as client, client.open("app", resumable=resumable) as session:
        closed = await session.close("enough")
        assert closed is session.closed
        assert [command.spec async for command in session] == ["words"]
        assert await session.close() is closed
        with pytest.raises(SessionEnded):
            await session.send_event("late")
        with pytest.raises(StopAsyncIteration):
            await anext(session)


async def test_close_does_not_wait_for_an_application_whose_command_window_is_full(
    serve: Serve, resumable: bool
) -> None:
    served = await serve({"many": many})
    window = Window(2, 1 << 20)
    async with (
        SessionClient(served.address, command_window=window) as client,
        client.open("many", resumable=resumable) as session,
    ):
        await eventually(lambda: session._conversation.inbox.expected > 2)
        await session.close()
        assert [command.spec async for command in session] == list(range(40))


async def test_close_now_after_a_graceful_close_that_takes_too_long(serve: Serve, resumable: bool) -> None:
    async def app() -> None:
        await asyncio.Event().wait()

    served = await serve({"app": app})
    async with SessionClient(served.address) as client, client.open("app", resumable=resumable) as session:
        graceful = asyncio.create_task(session.close())
        await eventually(lambda: session._conversation.closing)
        closed = await session.close("hurry", now=True)
        assert await graceful is closed
        assert (closed.reason, closed.message) == (CloseReason.CLIENT, "hurry")


async def test_an_app_that_fails_is_no_error_of_the_client(serve: Serve, resumable: bool) -> None:
    async def app() -> None:
        raise ZeroDivisionError

    served = await serve({"app": app})
    async with SessionClient(served.address) as client, client.open("app", resumable=resumable) as session:
        assert [command.command async for command in session] == ["task_exception"]
        assert session.closed is not None
        assert session.closed.reason is CloseReason.FAILED


async def test_a_server_that_shuts_down_is_seen_to(serve: Serve, resumable: bool) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address, retry=QUICK) as client:
        async with client.open("echo", resumable=resumable) as session:
            assert not session.draining
            drain = asyncio.create_task(served.server.drain(5.0))
            await eventually(lambda: session.draining)
            await session.send_event("say", "still here")
            assert (await anext(session)).spec == "still here"
        assert session.closed is not None
        assert session.closed.reason is CloseReason.CLIENT
        await drain


async def test_a_session_that_the_shutdown_ends_says_so(serve: Serve, resumable: bool) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address, retry=QUICK) as client:
        async with client.open("echo", resumable=resumable) as session:
            drain = asyncio.create_task(served.server.drain(0.0))
            assert [command async for command in session] == []
            assert session.closed is not None
            assert session.closed.reason is CloseReason.SHUTDOWN
        await drain


# --- wrong use --------------------------------------------------------------------------------------------------------


async def test_only_one_task_can_wait_for_commands(serve: Serve, resumable: bool) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client, client.open("echo", resumable=resumable) as session:
        first = asyncio.ensure_future(anext(session))
        await eventually(lambda: session._waiters)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(session)
        await session.send_event("say", 1)
        assert (await first).spec == 1
        await session.send_event("say", 2)
        assert (await anext(session)).spec == 2


async def test_a_session_that_was_not_entered_says_so_instead_of_waiting(serve: Serve, resumable: bool) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client:
        session = client.open("echo", resumable=resumable)
        with pytest.raises(RuntimeError, match="enter"):
            await session.send_event("say", 1)
        with pytest.raises(RuntimeError, match="enter"):
            await anext(session)
        with pytest.raises(RuntimeError, match="enter"):
            await session.close()


async def test_a_session_can_be_entered_once(serve: Serve, resumable: bool) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client:
        async with client.open("echo", resumable=resumable) as session:
            with pytest.raises(RuntimeError, match="once"):
                await session.__aenter__()
            await session.send_event("say", 1)
            assert (await anext(session)).spec == 1
        with pytest.raises(RuntimeError, match="once"):
            await session.__aenter__()
