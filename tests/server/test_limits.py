"""What a server limits, each limit reached by a real client; tests/protocol has those of the protocol itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from session_service import Principal, Window, get_current_session
from session_service.config import Config
from session_service.errors import ProtocolError
from session_service.host import App, ManagedSession, SessionManager
from session_service.server import Peer as Caller
from session_service.session import CloseReason, SessionInfo
from session_service.testing.clock import VirtualLoop
from session_service.v1 import session_pb2 as pb

from ..cli.program import Program
from ..protocol.peer import PATIENCE, Peer, Serve, Service, event, value
from ..robustness.frames import PREFACE, Frames

JSON = pb.PAYLOAD_FORMAT_JSON
ADA, BOB = [("name", "ada")], [("name", "bob")]


def by_name(metadata: Mapping[str, str], _: Caller) -> Principal:
    return Principal(metadata.get("name", ""))


async def echo() -> None:
    session = get_current_session()
    while True:
        event = await session.next_client_event()
        session.send_task_command({"command": "echo", "spec": event["data"]})


def echo_in_thread() -> None:
    session = get_current_session()
    while True:
        session.send_task_command({"command": "echo", "spec": session.next_client_event()["data"]})


async def echoed(peer: Peer, data: object, sequence: int = 0) -> object:
    await peer.send(events=[event("say", data)], first_sequence=sequence)
    (command,) = await peer.receive_commands(1)
    return value(command)


async def check_refused(service: Service, metadata: list[tuple[str, str]], text: str, app: str = "echo") -> None:
    peer = service.attach(metadata)
    await peer.send(open=pb.Open(app=app))
    status = await peer.status()
    assert (status.code, status.reason, status.retry) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "SESSION_LIMIT",
        "REOPEN",
    )
    assert text in status.message
    assert (status.retry_delay or 0) > 0


# --- of one principal -------------------------------------------------------------------------------------------------


async def test_a_principal_has_so_many_sessions_and_others_have_theirs(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=by_name, max_principal_sessions=2)
    first = await service.open("echo", metadata=ADA)
    kept = await service.open("echo", metadata=ADA, resumable=True)
    await check_refused(service, ADA, "you have 2 sessions, and no more are allowed")
    await service.open("echo", metadata=BOB)
    await service.resume(kept, metadata=ADA)

    await first.send(close=pb.Close())
    await first.receive_all()
    await service.open("echo", metadata=ADA)
    await check_refused(service, ADA, "you have 2 sessions")


async def test_without_authentication_all_are_one_principal(serve: Serve) -> None:
    service = await serve({"echo": echo}, max_principal_sessions=1)
    await service.open("echo")
    await check_refused(service, [], "you have 1 sessions")


async def test_a_principal_opens_so_many_sessions_a_second_and_others_open_theirs(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=by_name, principal_open_rate=0.001)
    request = {"resumable": True, "request_id": "0b0a7d80-7c5c-4c6e-8a3e-9d2a2f3f1f55"}
    peer = await service.open("echo", metadata=ADA, **request)
    await check_refused(service, ADA, "you open more than 0.001 sessions a second")
    await service.open("echo", metadata=BOB)
    await service.open("echo", metadata=ADA, **request)  # a repeat opens nothing,
    await service.resume(peer, metadata=ADA)  # nor does a resume


async def test_events_beyond_the_rate_of_a_principal_wait_and_are_not_refused(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=by_name, principal_event_rate=50_000)
    peers = [await service.open("echo", metadata=ADA, command_format=JSON) for _ in range(2)]
    texts = ["a" * 20_000, "b" * 20_000, "c" * 20_000]
    for peer in peers:
        for text in texts:
            await peer.send(events=[event("say", text)])
    for peer in peers:
        assert [value(command) for command in await peer.receive_commands(3)] == texts


@pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])
async def test_a_principal_who_waits_for_its_rate_holds_nobody_up_and_is_not_taken_for_silent(
    serve: Serve, resumable: bool
) -> None:
    settings = {"principal_event_rate": 1000, "heartbeat_interval": 0.1}
    service = await serve({"echo": echo}, authenticate=by_name, **settings)
    peer = await service.open("echo", metadata=ADA, resumable=resumable, command_format=JSON)
    await peer.send(events=[event("say", "x" * 100_000)], first_sequence=1)  # 99 seconds' worth
    for _ in range(6):  # three intervals without a request would end it
        assert await peer.receive() == pb.AttachResponse()
    other = await service.open("echo", metadata=BOB, command_format=JSON)
    assert await echoed(other, "hello") == "hello"


async def test_what_a_lost_stream_still_waited_for_does_not_hold_up_the_next(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=by_name, principal_event_rate=1000)
    peer = await service.open("echo", metadata=ADA, resumable=True, command_format=JSON)
    await peer.send(events=[event("say", "x" * 100_000)], first_sequence=1)
    rate = service.server.manager._quotas.of("ada").events
    assert rate is not None
    async with asyncio.timeout(PATIENCE):
        while rate._paid_at < rate._clock() + 90:  # noqa: ASYNC110 - nothing tells that it has been read
            await asyncio.sleep(0.001)
    peer.cancel()
    peer = await service.resume(peer, metadata=ADA)
    assert peer.resumed.received == 0
    assert await echoed(peer, "short", sequence=1) == "short"


async def test_a_first_request_may_wait_for_the_rate_longer_than_it_may_be_missing(serve: Serve) -> None:
    settings = {"principal_event_rate": 1000, "first_request_timeout": 0.1}
    service = await serve({"echo": echo}, authenticate=by_name, **settings)
    peer = service.attach(ADA)
    await peer.send(
        open=pb.Open(app="echo", command_format=JSON), events=[event("say", "x" * 1300)]
    )  # 0.3 seconds more
    (command,) = await peer.receive_commands(1)
    assert value(command) == "x" * 1300


# --- of the server ----------------------------------------------------------------------------------------------------


async def test_a_connection_carries_so_many_streams_and_the_next_waits(serve: Serve) -> None:
    service = await serve({"echo": echo}, max_connection_streams=1)
    first = await service.open("echo")
    second = asyncio.create_task(service.open("echo", command_format=JSON))
    async with service.connect() as other:
        await other.open("echo")
    assert not second.done()
    await first.send(close=pb.Close())
    await first.receive_all()
    assert await echoed(await second, "at last") == "at last"


@pytest.mark.parametrize("limit", [16 * 1024, 40_000])
async def test_metadata_up_to_the_limit_passes_each_time_and_more_never(serve: Serve, limit: int) -> None:
    service = await serve({"echo": echo}, max_metadata_bytes=limit)
    for _ in range(200):
        peer = await service.open("echo", metadata=[("authorization", "x" * (limit - 1500))])
        peer.cancel()
    for _ in range(50):
        peer = service.attach([("authorization", "x" * limit)])
        await peer.send(open=pb.Open(app="echo"))
        status = await peer.status()
        assert (status.code, status.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")


async def test_the_admin_service_takes_as_much_metadata(serve: Serve) -> None:
    service = await serve({"echo": echo}, admin_listen="127.0.0.1:0")
    check = health_pb2.HealthCheckRequest()
    async with grpc.aio.insecure_channel(service.server.admin_address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # the stubs do not know its methods
        for _ in range(200):
            await stub.Check(check, metadata=[("authorization", "x" * 14_000)])
        for _ in range(50):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Check(check, metadata=[("authorization", "x" * 16_384)])
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_client_that_pings_as_often_as_it_likes_keeps_its_connection(serve: Serve) -> None:
    service = await serve({"echo": echo})
    host, port = service.server.address.split(":")
    reader, writer = await asyncio.open_connection(host, port)
    settings, ping, acknowledged, goaway = b"\0\0\0\4\0\0\0\0\0", b"\0\0\x08\6\0\0\0\0\0", b"\6\1", 7
    writer.write(PREFACE + settings)
    pongs, frames = 0, Frames("down")
    for number in range(20):
        writer.write(ping + number.to_bytes(8))
        async with asyncio.timeout(PATIENCE):
            while pongs <= number:
                for frame in frames.split(await reader.read(1 << 16)):
                    assert frame[3] != goaway, frame
                    pongs += frame[3:5] == acknowledged
    writer.close()


async def test_apps_get_no_more_threads_than_there_may_be(serve: Serve) -> None:
    service = await serve({"thread": echo_in_thread, "coroutine": echo}, max_threads=1)
    await check_refused(service, [], "no thread for the session: the process has its 1 threads", app="thread")
    assert len(service.server.manager) == 0
    assert await echoed(await service.open("coroutine", command_format=JSON), 1) == 1


async def test_a_callback_that_gets_no_thread_is_reported_and_its_session_goes_on(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    most = 0

    def app() -> None:
        nonlocal most
        session = get_current_session()
        session.register_callback(lambda _: None)
        object.__setattr__(session.options, "max_threads", 1)  # from now on there are none
        echo_in_thread()

    service = await serve({"app": app})
    peer = await service.open("app", command_format=JSON)
    assert await echoed(peer, 1) == 1
    await peer.send(events=[pb.Event(event="callback", task_id="callback-2")])
    assert await echoed(peer, 2) == 2
    assert "a run of callback-2 could not start" in caplog.text


async def test_where_the_system_has_no_more_threads_a_session_is_refused(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    service = await serve({"echo": echo_in_thread})
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        await check_refused(service, [], "no thread for the session: can't start new thread")
    assert await echoed(await service.open("echo", command_format=JSON), 1) == 1


async def test_a_deferred_call_has_so_many_seconds(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    async def app() -> None:
        session = get_current_session()
        session.defer_call(asyncio.Event().wait)
        session.defer_call(lambda: ran.append("next"))

    service = await serve({"app": app}, deferred_timeout=0.05)
    (response,) = await (await service.open("app")).receive_all()
    assert response.closed.reason == pb.CLOSE_REASON_COMPLETED
    assert ran == ["next"]
    assert "it took longer than 0.05 s" in str(caplog.records[0].exc_info)


# --- of one session ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", [echo, echo_in_thread])
@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("session_lifetime", "the session has had its lifetime of 0.2 s"),
        ("idle_timeout", "the session has been idle for 0.2 s"),
    ],
    ids=["lifetime", "idle"],
)
async def test_a_client_is_told_that_its_session_is_over_and_why(
    serve: Serve, app: App, limit: str, message: str
) -> None:
    service = await serve({"app": app}, **{limit: 0.2})
    peer = await service.open("app", resumable=True)
    (response,) = await peer.receive_until(lambda response: response.HasField("closed"))
    assert (response.closed.reason, response.closed.message) == (pb.CLOSE_REASON_EXPIRED, message)
    await peer.send(ack=response.closed.sequence)
    assert (await peer.status()).code is grpc.StatusCode.OK


class Silent:
    """A stream that does nothing."""

    client_id = ""

    def wake(self) -> None: ...
    def events_taken(self) -> None: ...
    def fail(self, error: ProtocolError) -> None: ...
    def forgotten(self) -> None: ...
    def announce_draining(self, grace: float) -> None: ...


def in_virtual_time(scenario: Any, **settings: Any) -> None:
    """Run a scenario with a session that has a stream, by a clock that jumps."""
    loop = VirtualLoop(limit=1e6)

    async def run() -> None:
        manager = SessionManager({"echo": echo}, Config(**settings))
        managed = manager.open("echo", info=SessionInfo(), params={}, resumable=True)
        managed.attach(Silent(), received=0, command_window=Window())
        await scenario(managed)

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


async def say(managed: ManagedSession, data: object = None) -> None:
    """Send an event, and feed what comes of it to the stream."""
    managed.inbox.put({"event": "say", "task_id": "", "data": data}, 1)
    managed.take_over()
    await asyncio.sleep(0)
    managed.feed()


def test_a_lifetime_is_over_whatever_the_session_does() -> None:
    async def scenario(managed: ManagedSession) -> None:
        for _ in range(59):
            await asyncio.sleep(10)
            await say(managed)
        assert not managed.session.closed()
        await asyncio.sleep(10.001)
        assert managed.session.close_reason is CloseReason.EXPIRED

    in_virtual_time(scenario, session_lifetime=600)


def test_a_session_is_idle_when_neither_side_has_said_a_thing_for_so_long() -> None:
    async def scenario(managed: ManagedSession) -> None:
        for number in range(20):
            await asyncio.sleep(99)
            await say(managed, number)
            assert not managed.session.closed()
        for _ in range(20):
            await asyncio.sleep(99)
            managed.session.send_task_command({"command": "tick", "spec": None})
            assert not managed.session.closed()
        await asyncio.sleep(100 - 0.001)
        assert not managed.session.closed()
        await asyncio.sleep(25 + 0.002)  # at most a quarter more
        assert managed.session.close_reason is CloseReason.EXPIRED

    in_virtual_time(scenario, idle_timeout=100)


def test_a_client_that_takes_commands_or_comes_back_is_not_idle() -> None:
    async def scenario(managed: ManagedSession) -> None:
        for number in range(10):
            await say(managed, number)
        managed.outbox.take(1 << 20)
        for sequence in range(1, 11):
            await asyncio.sleep(99)
            managed.ack(sequence)
            assert not managed.session.closed()
        for _ in range(10):
            await asyncio.sleep(99)
            managed.attach(Silent(), received=10, command_window=Window(), resuming=True)
            assert not managed.session.closed()
        await asyncio.sleep(125 + 0.001)
        assert managed.session.close_reason is CloseReason.EXPIRED

    in_virtual_time(scenario, idle_timeout=100)


def test_of_a_session_that_has_ended_no_timer_is_left() -> None:
    async def scenario(managed: ManagedSession) -> None:
        managed.session.close()
        await asyncio.sleep(10)
        assert managed.session.ended
        expiry = managed._host.expiry
        assert (expiry._lifetimes, expiry._idle) == ({}, {})
        assert managed.session.close_reason is CloseReason.SERVER

    in_virtual_time(scenario, idle_timeout=100, session_lifetime=50)


# --- as options -------------------------------------------------------------------------------------------------------


async def test_each_limit_is_an_option(program: Program) -> None:
    program.write("""
        import asyncio
        from session_service import get_current_session

        async def waits():
            await get_current_session().next_client_event()

        def waits_in_thread():
            get_current_session().next_client_event()

        async def defers():
            get_current_session().defer_call(asyncio.Event().wait)

        apps = {"waits": waits, "thread": waits_in_thread, "defers": defers}
    """)
    served = await program.serve(
        *("--max-message-bytes", "100000", "--event-window", "20,70000", "--command-window", "7,5000"),
        *("--max-threads", "1", "--deferred-timeout", "0.1", "--session-lifetime", "2.5"),
        *("--max-principal-sessions", "2", "--max-connection-streams", "5"),
        "apps:apps",
    )
    peer = await served.open("waits", resumable=True)
    limits = peer.opened.limits
    assert limits.max_message_bytes == 100_000
    assert (limits.event_window.messages, limits.event_window.bytes) == (20, 70_000)
    assert (limits.command_window.messages, limits.command_window.bytes) == (7, 5000)
    await check_refused(served, [], "the process has its 1 threads", app="thread")
    assert (await (await served.open("defers")).receive()).closed.reason == pb.CLOSE_REASON_COMPLETED
    assert "it took longer than 0.1 s" in served.log()
    await served.open("waits")
    await check_refused(served, [], "you have 2 sessions", app="waits")
    (response,) = await peer.receive_until(lambda response: response.HasField("closed"))
    assert response.closed.message == "the session has had its lifetime of 2.5 s"


async def test_rates_and_the_idle_timeout_are_options(program: Program) -> None:
    program.write("""
        from session_service import get_current_session

        async def waits():
            await get_current_session().next_client_event()
    """)
    options = ("--principal-open-rate", "0.001", "--principal-event-rate", "100", "--idle-timeout", "0.5")
    served = await program.serve(*options, "apps:waits")
    peer = await served.open("waits", resumable=True)
    await check_refused(served, [], "you open more than 0.001 sessions a second", app="waits")
    await peer.send(events=[event("say", "x" * 10_000)], first_sequence=1)  # it waits for the rate: the session is idle
    (response,) = await peer.receive_until(lambda response: response.HasField("closed"))
    assert response.closed.message == "the session has been idle for 0.5 s"
