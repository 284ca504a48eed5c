"""Rules E1 to E4: how a session ends, and how a server does."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from session_service import AbstractSession, SessionClosedException, Window, get_current_session
from session_service.examples.echo import echo
from session_service.host import Drained
from session_service.server.service import SERVICE_NAME
from session_service.v1 import session_pb2 as pb

from .peer import PATIENCE, Peer, Serve, Service, event, value

JSON = pb.PAYLOAD_FORMAT_JSON
REQUEST_ID = "3f0c7a52-9d3e-4c0e-8e3a-6f1d2b7c9a10"

BOTH = pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])


def values(responses: list[pb.AttachResponse]) -> list[Any]:
    return [value(command) for response in responses for command in response.commands]


async def until_closed(peer: Peer) -> list[pb.AttachResponse]:
    return await peer.receive_until(lambda response: response.HasField("closed"))


async def say(peer: Peer, data: Any, **fields: Any) -> Any:
    """Have `echo` answer."""
    await peer.send(events=[event("say", data)], **fields)
    (command,) = await peer.receive_commands(1)
    return value(command)


async def assert_nothing_follows(peer: Peer, closed: pb.Closed) -> None:
    """After `closed` a plain stream ends by itself, a resumable one when it has been acknowledged; OK either way."""
    if peer.opened.resume_token:
        await peer.send(ack=closed.sequence)
    assert await peer.receive_all() == []
    assert (await peer.status()).code is grpc.StatusCode.OK


# --- E1 ---------------------------------------------------------------------------------------------------------------


@BOTH
async def test_E1_events_before_close_are_still_taken_and_then_waiting_raises(serve: Serve, resumable: bool) -> None:
    async def app() -> None:
        session = get_current_session()
        got = []
        try:
            while True:
                await asyncio.sleep(0)
                got.append((await session.next_client_event())["data"])
        except SessionClosedException:
            session.send_task_command({"command": "all", "spec": got})
            raise

    service = await serve({"app": app})
    peer = await service.open("app", resumable=resumable, command_format=JSON)
    await peer.send(events=[event(data=n) for n in range(10)], first_sequence=1)
    await peer.send(close=pb.Close())
    responses = await until_closed(peer)
    assert values(responses) == [list(range(10))]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT
    await assert_nothing_follows(peer, responses[-1].closed)


async def test_E1_close_is_met_by_a_thread_that_waits(serve: Serve) -> None:
    def app() -> None:
        session = get_current_session()
        while True:
            session.send_task_command({"command": "echo", "spec": session.next_client_event()["data"]})

    service = await serve({"app": app})
    peer = await service.open("app", command_format=JSON)
    await peer.send(events=[event(data=1)], close=pb.Close())
    responses = await until_closed(peer)
    assert values(responses) == [1]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT


@BOTH
async def test_E1_after_close_registered_callbacks_no_longer_keep_the_session_open(
    serve: Serve, resumable: bool
) -> None:
    async def app() -> None:
        session = get_current_session()

        async def clicked(data: Any) -> None:
            session.send_task_command({"command": "clicked", "spec": data})

        session.send_task_command({"command": "id", "spec": session.register_callback(clicked)})

    service = await serve({"app": app})
    peer = await service.open("app", resumable=resumable, command_format=JSON)
    callback = value((await peer.receive_commands(1))[0])
    await peer.send(events=[event("callback", "x", task_id=callback)], first_sequence=1, close=pb.Close())
    responses = await until_closed(peer)
    assert values(responses) == ["x"]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED


async def test_E1_after_close_tasks_may_finish_what_they_do(serve: Serve) -> None:
    go = asyncio.Event()

    async def app() -> None:
        session = get_current_session()
        first = await session.next_client_event()
        await go.wait()
        session.send_task_command({"command": "late", "spec": first["data"]})

    service = await serve({"app": app}, heartbeat_interval=0.05)
    peer = await service.open("app", command_format=JSON)
    await peer.send(events=[event(data="work")], close=pb.Close())
    assert await peer.receive() == pb.AttachResponse()  # a heartbeat: the session goes on
    go.set()
    responses = await until_closed(peer)
    assert values(responses) == ["work"]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED


@BOTH
async def test_E1_close_now_cancels_the_tasks_and_still_makes_deferred_calls_and_delivers_what_is_left(
    serve: Serve, resumable: bool
) -> None:
    order: list[str] = []

    async def app() -> None:
        session = get_current_session()
        session.defer_call(lambda: order.append("first"))

        @session.defer_call
        async def second() -> None:
            await asyncio.sleep(0)
            order.append("second")

        for n in range(50):
            session.send_task_command({"command": "count", "spec": n})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            order.append("cancelled")
            raise

    service = await serve({"app": app})
    peer = await service.open("app", resumable=resumable, command_format=JSON)
    assert values([await peer.receive()]) == list(range(50))
    await peer.send(close=pb.Close(now=True, reason="had enough"))
    responses = await until_closed(peer)
    assert order == ["cancelled", "first", "second"]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT
    await assert_nothing_follows(peer, responses[-1].closed)


async def test_E1_close_now_may_follow_close(serve: Serve) -> None:
    async def app() -> None:
        get_current_session().send_task_command({"command": "ready"})
        await asyncio.Event().wait()

    service = await serve({"app": app}, heartbeat_interval=0.05)
    peer = await service.open("app")
    await peer.send(close=pb.Close())
    await peer.receive_commands(1)
    assert await peer.receive() == pb.AttachResponse()
    await peer.send(close=pb.Close(now=True))
    assert (await until_closed(peer))[-1].closed.reason == pb.CLOSE_REASON_CLIENT


async def test_E1_deferred_calls_run_after_a_graceful_close_too_in_order(serve: Serve) -> None:
    order: list[int] = []

    async def app() -> None:
        for n in range(5):
            get_current_session().defer_call(lambda n=n: order.append(n))
        await get_current_session().next_client_event()

    service = await serve({"app": app})
    peer = await service.open("app")
    await peer.send(close=pb.Close())
    await until_closed(peer)
    assert order == [0, 1, 2, 3, 4]


async def test_E1_a_full_command_window_and_a_graceful_close_go_on_when_the_client_acknowledges(serve: Serve) -> None:
    async def app() -> None:
        session = get_current_session()
        for n in range(100):
            session.send_task_command({"command": "count", "spec": n})
            await session.drain()
        await session.next_client_event()

    service = await serve({"app": app}, command_window=Window(8, 1 << 20))
    peer = await service.open("app", resumable=True, command_format=JSON)
    await peer.send(close=pb.Close())
    got: list[Any] = []
    while True:
        response = await peer.receive()
        got += values([response])
        if response.HasField("closed"):
            break
        await peer.send(ack=len(got))
    assert got == list(range(100))
    assert response.closed == pb.Closed(reason=pb.CLOSE_REASON_CLIENT, sequence=101)


async def test_E1_a_client_that_lost_its_stream_after_close_resumes_and_sends_it_again(serve: Serve) -> None:
    service = await serve({"echo": echo}, event_window=Window(16, 1 << 20))
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=[event(data=1)], first_sequence=1, close=pb.Close())
    peer.cancel()
    again = await service.resume(peer)
    rest = range(again.resumed.received + 1, 2)
    await again.send(events=[event(data=n) for n in rest], first_sequence=1 if rest else 0, close=pb.Close())
    responses = await until_closed(again)
    assert values(responses) == [1]
    assert responses[-1].closed == pb.Closed(reason=pb.CLOSE_REASON_CLIENT, sequence=2)


# --- E2 ---------------------------------------------------------------------------------------------------------------


async def test_E2_closed_comes_after_every_command_with_the_next_sequence_and_the_status_is_ok(serve: Serve) -> None:
    async def app() -> None:
        for n in range(1000):
            get_current_session().send_task_command({"command": "count", "spec": n})

    service = await serve({"app": app})
    peer = await service.open("app", resumable=True, command_format=JSON)
    responses = await until_closed(peer)
    assert values(responses) == list(range(1000))
    assert responses[-1].closed == pb.Closed(reason=pb.CLOSE_REASON_COMPLETED, sequence=1001)
    await assert_nothing_follows(peer, responses[-1].closed)
    assert len(service.server.manager) == 0


async def test_E2_the_closed_of_a_session_that_sent_nothing_has_sequence_1(serve: Serve) -> None:
    async def app() -> None:
        pass

    service = await serve({"app": app})
    peer = await service.open("app", resumable=True)
    assert (await until_closed(peer))[-1].closed.sequence == 1
    await peer.half_close()
    assert await peer.receive_all() == []
    assert (await peer.status()).code is grpc.StatusCode.OK


def fail() -> None:
    raise ValueError("the secret of the app")


async def fail_in_a_coroutine() -> None:
    fail()


FAILING = pytest.mark.parametrize("app", [fail_in_a_coroutine, fail], ids=["coroutine", "thread"])


@FAILING
async def test_E2_a_failed_app_closes_with_an_error_id_that_the_log_explains_and_no_traceback(
    serve: Serve, app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service = await serve({"app": app})
    peer = await service.open("app", command_format=JSON)
    responses = await peer.receive_all()
    assert (await peer.status()).code is grpc.StatusCode.OK
    closed = responses[-1].closed
    assert closed.reason == pb.CLOSE_REASON_FAILED
    (exception,) = [command for response in responses for command in response.commands]
    assert exception.command == "task_exception"
    assert value(exception).keys() == {"id", "message"}
    error_id = value(exception)["id"]
    assert error_id in closed.message
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error_id in record.getMessage()
    assert record.exc_info is not None
    for response in responses:
        assert b"secret" not in response.SerializeToString()
        assert b"Traceback" not in response.SerializeToString()


@FAILING
async def test_E2_in_debug_mode_the_client_gets_the_traceback(serve: Serve, app: Any) -> None:
    service = await serve({"app": app}, debug=True)
    peer = await service.open("app", command_format=JSON)
    responses = await peer.receive_all()
    assert responses[-1].closed.reason == pb.CLOSE_REASON_FAILED
    text = b"".join(response.SerializeToString() for response in responses).decode(errors="replace")
    assert "Traceback" in text
    assert "the secret of the app" in text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
async def test_E2_not_even_system_exit_reaches_the_server(serve: Serve, error: BaseException) -> None:
    async def app() -> None:
        raise error

    service = await serve({"app": app, "echo": echo})
    other = await service.open("echo", command_format=JSON)
    peer = await service.open("app")
    assert (await peer.receive_all())[-1].closed.reason == pb.CLOSE_REASON_FAILED
    assert await say(other, "still served") == "still served"


async def test_E2_a_callback_that_fails_is_told_and_the_session_goes_on(serve: Serve) -> None:
    async def app() -> None:
        session = get_current_session()

        def clicked(data: Any) -> None:
            session.send_task_command({"command": "clicked", "spec": 1 // data})

        session.send_task_command({"command": "id", "spec": session.register_callback(clicked)})

    service = await serve({"app": app})
    peer = await service.open("app", command_format=JSON)
    callback = value((await peer.receive_commands(1))[0])
    await peer.send(events=[event("callback", 0, task_id=callback)])
    (exception,) = await peer.receive_commands(1)
    assert exception.command == "task_exception"
    assert exception.task_id.startswith(callback)
    await peer.send(events=[event("callback", 1, task_id=callback)])
    (clicked,) = await peer.receive_commands(1)
    assert (clicked.command, value(clicked)) == ("clicked", 1)


# --- E3 ---------------------------------------------------------------------------------------------------------------


async def health(service: Service, name: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(service.channel)  # the stubs do not know its methods
    response: health_pb2.HealthCheckResponse = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    return response.status


async def drain(service: Service, grace: float, *peers: Peer) -> asyncio.Task[Drained]:
    """Begin to drain, and wait until the peers have been told."""
    draining = asyncio.create_task(service.server.drain(grace))
    for peer in peers:
        response = await peer.receive()
        assert response.HasField("draining"), response
        assert response.draining.grace.ToTimedelta().total_seconds() == grace
    return draining


async def result(draining: asyncio.Task[Drained]) -> Drained:
    async with asyncio.timeout(PATIENCE):
        return await draining


@BOTH
async def test_E3_draining_is_told_and_sessions_go_on_until_they_end(serve: Serve, resumable: bool) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=resumable, command_format=JSON)
    draining = await drain(service, 60, peer)
    assert await say(peer, "still served", first_sequence=1) == "still served"
    await peer.send(close=pb.Close())
    closed = (await until_closed(peer))[-1].closed
    assert closed.reason == pb.CLOSE_REASON_CLIENT
    await assert_nothing_follows(peer, closed)
    assert await result(draining) == Drained(closed=0, undelivered=0, commands=0)


async def test_E3_health_goes_not_serving_and_an_open_is_refused(serve: Serve) -> None:
    service = await serve({"echo": echo})
    assert await health(service, "") == health_pb2.HealthCheckResponse.SERVING
    assert await health(service, SERVICE_NAME) == health_pb2.HealthCheckResponse.SERVING
    peer = await service.open("echo")
    draining = await drain(service, 60, peer)
    assert await health(service, "") == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await health(service, SERVICE_NAME) == health_pb2.HealthCheckResponse.NOT_SERVING
    late = service.attach()
    await late.send(open=pb.Open(app="echo", resumable=True, request_id=REQUEST_ID))
    status = await late.status()
    assert (status.code, status.reason, status.retry) == (grpc.StatusCode.UNAVAILABLE, "DRAINING", "REOPEN")
    await peer.send(close=pb.Close())
    assert await result(draining) == Drained(closed=0, undelivered=0, commands=0)


async def test_E3_resumes_and_repeats_of_an_open_are_served_while_the_server_drains(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON, request_id=REQUEST_ID)
    witness = await service.open("echo")
    peer.cancel()
    draining = await drain(service, 60, witness)
    again = await service.resume(peer)
    assert 0 < (await again.receive()).draining.grace.ToTimedelta().total_seconds() <= 60
    assert await say(again, 1, first_sequence=1) == 1
    repeated = await service.open("echo", resumable=True, command_format=JSON, request_id=REQUEST_ID)
    assert repeated.opened.session_id == peer.opened.session_id
    assert (await repeated.receive()).HasField("draining")
    assert values([(await repeated.receive_until(lambda r: r.commands))[-1]]) == [1]
    await repeated.send(close=pb.Close(), ack=1)
    await until_closed(repeated)
    await repeated.send(ack=2)
    await witness.send(close=pb.Close())
    assert await result(draining) == Drained(closed=0, undelivered=0, commands=0)


@BOTH
async def test_E3_sessions_that_are_left_when_the_grace_is_over_close_with_shutdown_and_run_deferred_calls(
    serve: Serve, resumable: bool
) -> None:
    ran: list[str] = []

    async def app() -> None:
        session = get_current_session()

        @session.defer_call
        async def deferred() -> None:
            await asyncio.sleep(0)
            ran.append(session.id)

        session.send_task_command({"command": "ready"})
        await asyncio.Event().wait()

    service = await serve({"app": app})
    peer = await service.open("app", resumable=resumable)
    await peer.receive_commands(1)
    draining = await drain(service, 0.05, peer)
    responses = await until_closed(peer)
    assert responses[-1].closed.reason == pb.CLOSE_REASON_SHUTDOWN
    assert ran == [peer.opened.session_id]
    await assert_nothing_follows(peer, responses[-1].closed)
    assert await result(draining) == Drained(closed=1, undelivered=0, commands=0)


async def test_E3_a_thread_that_waits_for_an_event_is_closed_with_shutdown(serve: Serve) -> None:
    unwound = threading.Event()

    def app() -> None:
        get_current_session().send_task_command({"command": "ready"})
        try:
            get_current_session().next_client_event()
        finally:
            unwound.set()

    service = await serve({"app": app})
    peer = await service.open("app")
    await peer.receive_commands(1)
    draining = await drain(service, 0, peer)
    assert (await until_closed(peer))[-1].closed.reason == pb.CLOSE_REASON_SHUTDOWN
    assert await result(draining) == Drained(closed=1, undelivered=0, commands=0)
    assert unwound.is_set()


async def test_E3_what_detached_clients_lost_is_logged_with_counts(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    detached: asyncio.Queue[str] = asyncio.Queue()

    async def app() -> None:
        session = get_current_session()
        session.on_detach(lambda session: detached.put_nowait(session.id))
        for n in range(3):
            session.send_task_command({"command": "count", "spec": n})
        await session.next_client_event()

    service = await serve({"app": app})
    for _ in range(2):
        peer = await service.open("app", resumable=True)
        await peer.receive_commands(3)
        await peer.send(events=[event(task_id="nobody")], first_sequence=1, ack=1)
        await peer.receive_until(lambda response: response.ack)
        peer.cancel()
        async with asyncio.timeout(PATIENCE):
            await detached.get()
    lost = Drained(closed=2, undelivered=2, commands=4)  # of 3 each one was acknowledged
    assert await result(await drain(service, 0)) == lost
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.args == (2, 4)
    assert AbstractSession.active_session_count() == 0


async def test_E3_a_session_that_was_lost_before_the_drain_began_ends_without_delay(serve: Serve) -> None:
    service = await serve({"echo": echo})
    for _ in range(20):
        (await service.open("echo", resumable=True)).cancel()
    assert (await result(await drain(service, 0))).closed == 20
    assert AbstractSession.active_session_count() == 0


async def test_E3_draining_is_over_at_once_when_there_is_no_session(serve: Serve) -> None:
    service = await serve({"echo": echo})
    assert await result(await drain(service, 60)) == Drained(closed=0, undelivered=0, commands=0)
    status = await service.attach().status()
    assert status.code is grpc.StatusCode.UNAVAILABLE


# --- E4 ---------------------------------------------------------------------------------------------------------------


async def wait_for_events() -> None:
    while True:
        await get_current_session().next_client_event()


async def return_at_once() -> None:
    pass


async def return_when_the_events_end() -> None:
    try:
        await wait_for_events()
    except SessionClosedException:
        return


async def close_itself() -> None:
    get_current_session().close()


async def close_itself_in_a_callback() -> None:
    session = get_current_session()
    session.register_callback(lambda data: None)
    session.run_task(close_itself)


@pytest.mark.parametrize(
    ("app", "act", "reason"),
    [
        (return_at_once, None, pb.CLOSE_REASON_COMPLETED),
        (return_when_the_events_end, "close", pb.CLOSE_REASON_COMPLETED),
        (return_when_the_events_end, "half-close", pb.CLOSE_REASON_COMPLETED),
        (wait_for_events, "close", pb.CLOSE_REASON_CLIENT),
        (wait_for_events, "half-close", pb.CLOSE_REASON_CLIENT),
        (wait_for_events, "now", pb.CLOSE_REASON_CLIENT),
        (close_itself, None, pb.CLOSE_REASON_SERVER),
        (close_itself_in_a_callback, None, pb.CLOSE_REASON_SERVER),
        (fail_in_a_coroutine, None, pb.CLOSE_REASON_FAILED),
    ],
)
async def test_E4_closed_says_why(serve: Serve, app: Any, act: str | None, reason: int) -> None:
    service = await serve({"app": app})
    peer = await service.open("app")
    if act == "half-close":
        await peer.half_close()
    elif act is not None:
        await peer.send(close=pb.Close(now=act == "now"))
    responses = await until_closed(peer)
    assert responses[-1].closed.reason == reason
    await assert_nothing_follows(peer, responses[-1].closed)


async def test_E4_an_exception_group_of_nothing_but_the_end_is_the_client_s_doing_too(serve: Serve) -> None:
    async def app() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for_events())
            group.create_task(wait_for_events())

    service = await serve({"app": app})
    peer = await service.open("app")
    await peer.send(close=pb.Close())
    assert (await until_closed(peer))[-1].closed.reason == pb.CLOSE_REASON_CLIENT


async def test_E4_a_detached_session_expires(serve: Serve) -> None:
    closed: asyncio.Queue[str] = asyncio.Queue()

    async def app() -> None:
        session = get_current_session()
        session.defer_call(lambda: closed.put_nowait(session.close_reason.name if session.close_reason else "none"))
        await wait_for_events()

    service = await serve({"app": app}, resume_window=0.2)
    peer = await service.open("app", resumable=True)
    peer.cancel()
    async with asyncio.timeout(PATIENCE):
        assert await closed.get() == "EXPIRED"
    again = await service.resume(peer)
    assert (await until_closed(again))[-1].closed == pb.Closed(reason=pb.CLOSE_REASON_EXPIRED, sequence=1)


@pytest.mark.parametrize("now", [False, True])
async def test_E1_the_reason_of_a_close_is_logged_shortened(
    serve: Serve, caplog: pytest.LogCaptureFixture, now: bool
) -> None:
    caplog.set_level("INFO", "session_service")
    service = await serve({"echo": echo})
    peer = await service.open("echo")
    await peer.send(close=pb.Close(reason="the shop\nshuts" + "!" * 1000, now=now))
    await peer.receive_until(lambda response: response.HasField("closed"))
    [log] = [record.getMessage() for record in caplog.records if "closes it" in record.getMessage()]
    assert "'the shop\\nshuts!!!" in log
    assert len(log) < 300
