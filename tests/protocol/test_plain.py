"""Rules P1 to P4: what a client gets that implements nothing, and what it cannot do to others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from session_service import CommandBufferFull, SessionClosedException, Window, get_current_session
from session_service.examples.echo import echo
from session_service.host import Drained
from session_service.v1 import session_pb2 as pb

from .peer import PATIENCE, Peer, Serve, Service, connect, event, resume_of, value

JSON = pb.PAYLOAD_FORMAT_JSON


async def say(peer: Peer, data: Any) -> Any:
    """Have `echo` answer."""
    await peer.send(events=[event("say", data)])
    (command,) = await peer.receive_commands(1)
    return value(command)


def values(responses: list[pb.AttachResponse]) -> list[Any]:
    return [value(command) for response in responses for command in response.commands]


class Ending:
    """An app that waits, and tells how it ended."""

    def __init__(self) -> None:
        self.session: Any = None
        self.deferred = asyncio.Event()

    async def app(self) -> None:
        self.session = get_current_session()
        self.session.defer_call(self.deferred.set)
        self.session.send_task_command({"command": "ready"})
        await self.session.next_client_event()

    async def reason(self) -> str:
        """Wait for the deferred calls, and return why they came."""
        async with asyncio.timeout(PATIENCE):
            await self.deferred.wait()
        return str(self.session.close_reason.name)


async def until_steady(progress: Callable[[], int], other: Peer) -> None:
    """Wait until something makes no progress any more while another session makes 50 round trips."""
    async with asyncio.timeout(PATIENCE * 2):
        before = -1
        while before != progress():
            before = progress()
            for n in range(50):
                assert await say(other, n) == n


# --- P1 ---------------------------------------------------------------------------------------------------------------


async def test_P1_sequences_and_acks_are_absent_and_ignored(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach()
    await peer.send(open=pb.Open(app="echo", command_format=JSON), events=[event(data=1)], first_sequence=77, ack=99)
    await peer.send(events=[event(data=2)], first_sequence=1)
    await peer.send(events=[event(data=3)], close=pb.Close(), ack=2**64 - 1)
    responses = await peer.receive_all()
    assert values(responses) == [1, 2, 3]
    opened = responses[0].opened
    assert opened.resume_token == ""
    assert not opened.limits.HasField("resume_window")
    assert {(response.first_sequence, response.ack) for response in responses} == {(0, 0)}
    assert (await peer.status()).code is grpc.StatusCode.OK


async def test_P1_what_only_resumable_sessions_have_is_ignored_in_an_open(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach()
    window = pb.Window(messages=1, bytes=1)
    await peer.send(
        open=pb.Open(app="echo", command_format=JSON, command_window=window, client_id="me"), first_sequence=5, ack=7
    )
    assert (await peer.receive()).HasField("opened")
    await peer.send(events=[event(data=n) for n in range(100)])
    assert [value(command) for command in await peer.receive_commands(100)] == list(range(100))


async def test_P1_a_request_id_in_a_plain_open_is_refused(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach()
    await peer.send(open=pb.Open(app="echo", request_id="0123456789abcdef"))
    status = await peer.status()
    assert (status.code, status.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROTOCOL_VIOLATION")


async def test_P1_a_plain_session_cannot_be_resumed(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", command_format=JSON)
    thief = service.attach()
    await thief.send(resume=resume_of(peer))
    assert (await thief.status()).reason == "SESSION_NOT_FOUND"
    assert await say(peer, "undisturbed") == "undisturbed"


async def test_P1_more_events_than_the_window_in_one_request_are_no_violation(serve: Serve) -> None:
    service = await serve({"echo": echo}, event_window=Window(16, 64 * 1024))
    peer = await service.open("echo", command_format=JSON)
    await peer.send(events=[event(data=n) for n in range(1000)])
    await peer.half_close()
    responses = await peer.receive_all()
    assert (await peer.status()).code is grpc.StatusCode.OK
    assert values(responses) == list(range(1000))


# --- P2 ---------------------------------------------------------------------------------------------------------------


async def test_P2_half_close_shows_the_whole_answer(serve: Serve) -> None:
    """As `grpcurl -d @` does with a file of a few lines."""

    async def app() -> None:
        session = get_current_session()
        while True:
            data = (await session.next_client_event())["data"]
            await asyncio.sleep(0)
            for part in range(3):
                session.send_task_command({"command": "part", "spec": [data, part]})

    service = await serve({"app": app})
    peer = service.attach()
    await peer.send(open=pb.Open(app="app", command_format=JSON))
    await peer.send(events=[event(data="a"), event(data="b")])
    await peer.send(events=[event(data="c")])
    await peer.half_close()
    responses = await peer.receive_all()
    assert responses[0].HasField("opened")
    assert values(responses) == [[data, part] for data in "abc" for part in range(3)]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT
    assert (await peer.status()).code is grpc.StatusCode.OK


async def test_P2_the_answers_to_what_waits_in_the_window_come_too(serve: Serve) -> None:
    service = await serve({"echo": echo}, event_window=Window(16, 64 * 1024))
    peer = await service.open("echo", command_format=JSON)
    for n in range(500):
        await peer.send(events=[event(data=n)])
    await peer.half_close()
    responses = await peer.receive_all()
    assert values(responses) == list(range(500))
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT


async def test_P2_an_app_in_a_thread_answers_after_half_close_too(serve: Serve) -> None:
    def app() -> None:
        session = get_current_session()
        while True:
            session.send_task_command({"command": "echo", "spec": session.next_client_event()["data"]})

    service = await serve({"app": app})
    peer = await service.open("app", command_format=JSON)
    await peer.send(events=[event(data=n) for n in range(10)])
    await peer.half_close()
    responses = await peer.receive_all()
    assert values(responses) == list(range(10))
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT


async def test_P2_an_app_may_finish_in_its_own_way_when_the_events_have_ended(serve: Serve) -> None:
    async def app() -> None:
        session = get_current_session()
        got = []
        try:
            while True:
                got.append((await session.next_client_event())["data"])
        except SessionClosedException:
            session.send_task_command({"command": "all", "spec": got})

    service = await serve({"app": app})
    peer = await service.open("app", command_format=JSON)
    await peer.send(events=[event(data=n) for n in range(3)])
    await peer.half_close()
    responses = await peer.receive_all()
    assert values(responses) == [[0, 1, 2]]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED
    assert (await peer.status()).code is grpc.StatusCode.OK


# --- P3 ---------------------------------------------------------------------------------------------------------------


async def test_P3_a_cancelled_stream_closes_the_session(serve: Serve) -> None:
    ending = Ending()
    service = await serve({"app": ending.app})
    peer = await service.open("app")
    await peer.receive_commands(1)
    peer.cancel()
    assert await ending.reason() == "CLIENT"
    assert (await peer.status()).code is grpc.StatusCode.CANCELLED


async def test_P3_a_cancelled_stream_interrupts_an_app_that_waits_for_something_else(serve: Serve) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def app() -> None:
        get_current_session().send_task_command({"command": "ready"})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put_nowait("cancelled")
            raise

    service = await serve({"app": app})
    peer = await service.open("app")
    await peer.receive_commands(1)
    peer.cancel()
    async with asyncio.timeout(PATIENCE):
        assert await ended.get() == "cancelled"


async def test_P3_half_close_and_then_cancel_closes_as_well(serve: Serve) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def app() -> None:
        get_current_session().send_task_command({"command": "ready"})
        try:
            await asyncio.Event().wait()
        finally:
            ended.put_nowait("interrupted")

    service = await serve({"app": app})
    peer = await service.open("app")
    await peer.receive_commands(1)
    await peer.half_close()
    peer.cancel()
    async with asyncio.timeout(PATIENCE):
        assert await ended.get() == "interrupted"


async def test_P3_a_closed_channel_closes_all_of_its_sessions(serve: Serve) -> None:
    endings = [Ending(), Ending()]
    service = await serve({"0": endings[0].app, "1": endings[1].app, "echo": echo})
    other = await service.open("echo", command_format=JSON)
    async with service.connect() as second:
        for name in "01":
            await (await second.open(name)).receive_commands(1)
    assert [await ending.reason() for ending in endings] == ["CLIENT", "CLIENT"]
    assert await say(other, "on another channel") == "on another channel"


async def test_P3_a_connection_that_breaks_closes_the_session(serve: Serve) -> None:
    ending = Ending()
    service = await serve({"app": ending.app, "echo": echo})
    other = await service.open("echo", command_format=JSON)
    async with wire(service) as (second, cut):
        peer = await second.open("app")
        await peer.receive_commands(1)
        cut()
        assert await ending.reason() == "CLIENT"
        assert (await peer.status()).code is grpc.StatusCode.UNAVAILABLE
    assert await say(other, "on another connection") == "on another connection"


async def test_P3_nothing_is_left_of_a_session_whose_stream_is_gone(serve: Serve) -> None:
    ending = Ending()
    service = await serve({"app": ending.app})
    peer = await service.open("app")
    await peer.receive_commands(1)
    assert len(service.server.manager) == 1
    peer.cancel()
    assert await service.server.drain(PATIENCE) == Drained(closed=0, undelivered=0, commands=0)
    assert len(service.server.manager) == 0
    assert await ending.reason() == "CLIENT"


@asynccontextmanager
async def wire(service: Service) -> AsyncIterator[tuple[Service, Callable[[], None]]]:
    """Connect through a relay whose connections can be cut, as by a router that lost its power."""
    host, port = service.server.address.rsplit(":", 1)
    transports: list[asyncio.WriteTransport] = []
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(host, int(port))
        transports.extend((writer.transport, server_writer.transport))
        pumps.add(asyncio.create_task(pump(reader, server_writer)))
        pumps.add(asyncio.create_task(pump(server_reader, writer)))

    def cut() -> None:
        for transport in transports:
            transport.abort()

    relay = await asyncio.start_server(accept, "127.0.0.1", 0)
    relay_port = relay.sockets[0].getsockname()[1]
    try:
        async with connect(f"127.0.0.1:{relay_port}") as channel:
            yield Service(service.server, channel), cut
    finally:
        relay.close()
        cut()
        await asyncio.gather(*pumps)


# --- P4 ---------------------------------------------------------------------------------------------------------------


async def test_P4_a_task_that_takes_no_events_stops_the_client_and_disturbs_no_other_session(serve: Serve) -> None:
    go = asyncio.Event()

    async def app() -> None:
        session = get_current_session()
        await go.wait()
        got = []
        try:
            while True:
                got.append((await session.next_client_event())["data"][0])
        finally:
            session.send_task_command({"command": "got", "spec": got})

    service = await serve({"app": app, "echo": echo}, event_window=Window(16, 64 * 1024))
    other = await service.open("echo", command_format=JSON)
    peer = await service.open("app", command_format=JSON)
    size, count, sent = 8 * 1024, 1000, 0

    async def flood() -> None:
        nonlocal sent
        for n in range(count):
            assert await peer.send(events=[event(data=[n, "x" * size])]), await peer.status()
            sent += 1
        await peer.half_close()

    flooding = asyncio.create_task(flood())
    await until_steady(lambda: sent, other)
    assert sent * size < 1_000_000  # two windows, and what the HTTP/2 of either side holds: the server stopped reading
    go.set()
    await flooding
    responses = await peer.receive_all()
    assert values(responses) == [list(range(count))]


async def test_P4_events_of_one_byte_stop_at_the_messages_of_the_window(serve: Serve) -> None:
    service = await serve({"stuck": asyncio.Event().wait, "echo": echo}, event_window=Window(16, 64 * 1024))
    other = await service.open("echo", command_format=JSON)
    peer = await service.open("stuck")
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while await peer.send(events=[pb.Event()] * 16):
            sent += 1

    flooding = asyncio.create_task(flood())
    await until_steady(lambda: sent, other)
    (managed,) = [m for m in service.server.manager if m.app == "stuck"]
    assert managed.inbox.taken == 16
    assert managed.inbox.expected - 1 <= 16 + 16 + 16
    flooding.cancel()


async def test_P4_a_client_whose_events_wait_can_still_break_the_stream(serve: Serve) -> None:
    ending = Ending()

    async def app() -> None:
        ending.session = get_current_session()
        ending.session.defer_call(ending.deferred.set)
        await asyncio.Event().wait()

    service = await serve({"app": app}, event_window=Window(16, 64 * 1024))
    peer = await service.open("app")
    for _ in range(80):
        await peer.send(events=[pb.Event()])
    peer.cancel()
    assert await ending.reason() == "CLIENT"


async def not_reading(
    serve: Serve, app: Callable[[], Awaitable[None] | None], progress: Callable[[], int]
) -> tuple[Peer, int]:
    """Open an app that sends and sends, read only `opened`, and return how far it got."""
    service = await serve({"app": app, "echo": echo}, command_window=Window(64, 256 * 1024))
    other = await service.open("echo", command_format=JSON)
    peer = await service.open("app")
    await until_steady(progress, other)
    return peer, progress()


SIZE, COUNT = 16 * 1024, 2000  # 32 MB


async def test_P4_an_app_that_drains_waits_for_a_client_that_does_not_read(serve: Serve) -> None:
    sent = 0

    async def app() -> None:
        nonlocal sent
        session = get_current_session()
        for n in range(COUNT):
            session.send_task_command({"command": str(n), "spec": bytes(SIZE)})
            sent += 1
            await session.drain()

    peer, stopped_at = await not_reading(serve, app, lambda: sent)
    # The client's HTTP/2 window may have grown to some MiB; the rest is the server's, and two windows.
    assert stopped_at < COUNT / 2
    responses = await peer.receive_all()
    assert [c.command for response in responses for c in response.commands] == [str(n) for n in range(COUNT)]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED


async def test_P4_a_thread_blocks_for_a_client_that_does_not_read(serve: Serve) -> None:
    sent = 0

    def app() -> None:
        nonlocal sent
        session = get_current_session()
        for n in range(COUNT):
            session.send_task_command({"command": str(n), "spec": bytes(SIZE)})
            sent += 1

    peer, stopped_at = await not_reading(serve, app, lambda: sent)
    assert stopped_at < COUNT / 2
    responses = await peer.receive_all()
    assert [c.command for response in responses for c in response.commands] == [str(n) for n in range(COUNT)]


async def test_P4_an_app_that_never_drains_gets_an_error_and_nothing_is_dropped(serve: Serve) -> None:
    sent = 0
    windows = 8 * 256 * 1024 // SIZE

    async def app() -> None:
        nonlocal sent
        try:
            for n in range(COUNT):
                get_current_session().send_task_command({"command": str(n), "spec": bytes(SIZE)})
                sent += 1
        except CommandBufferFull:
            return

    peer, stopped_at = await not_reading(serve, app, lambda: sent)
    assert windows / 2 < stopped_at <= windows  # the app gave the loop no turn
    responses = await peer.receive_all()
    assert [c.command for response in responses for c in response.commands] == [str(n) for n in range(stopped_at)]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED


async def test_P4_a_client_that_does_not_read_can_still_be_got_rid_of(serve: Serve) -> None:
    ending = Ending()
    sent = 0

    async def app() -> None:
        nonlocal sent
        ending.session = get_current_session()
        ending.session.defer_call(ending.deferred.set)
        while True:
            ending.session.send_task_command({"command": "more", "spec": bytes(SIZE)})
            sent += 1
            await ending.session.drain()

    peer, _ = await not_reading(serve, app, lambda: sent)
    peer.cancel()
    assert await ending.reason() == "CLIENT"
