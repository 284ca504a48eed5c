"""Never stuck: whoever only writes, or never reads, holds up nobody but itself (docs/protocol.md, D6 and P4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from session_service import AbstractSession, Window, get_current_session
from session_service.v1 import session_pb2 as pb
from tests.session.kinds import CoroutineKind, Kind, ThreadKind, eventually

from .peer import Peer, Serve, Service, event, value

JSON = pb.PAYLOAD_FORMAT_JSON

SMALL = Window(16, 64 * 1024)

HEARTBEAT = pb.AttachResponse()

# Two of them are more than a call buffers for a client that does not read and has narrow windows.
CHUNK = "x" * 50_000


@pytest.fixture(params=[CoroutineKind, ThreadKind], ids=["coroutine", "thread"])
async def kind(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[Kind]:
    """Either kind of session; its gates open before the server stops."""
    kind: Kind = request.param()
    yield kind
    await kind.finish()


@pytest.fixture(autouse=True)
def no_errors_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelname == "ERROR"]
    # All loops of a process share one completion queue of grpc.aio, which reports what came for an earlier test's loop.
    assert [error for error in errors if "PollerCompletionQueue" not in error] == []


def say(*data: object) -> list[pb.Event]:
    return [event("say", item) for item in data]


def echo_of(kind: Kind) -> Any:
    async def app(session: AbstractSession) -> None:
        while True:
            session.send_task_command({"command": "echo", "spec": await kind.event(session)})
            await kind.drain(session)

    return kind.app(app)


def narrow(service: Service) -> grpc.aio.Channel:
    """Connect once more, such that only 64 KiB a call are under way to a client that does not read."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    return grpc.aio.insecure_channel(service.server.address, options)


async def values(peer: Peer, count: int) -> list[Any]:
    return [value(command) for command in await peer.receive_commands(count)]


class Writers:
    """An app that at first only writes, and takes its events when ``take`` opens."""

    def __init__(self, kind: Kind, spec: Any = None, count: int = 100) -> None:
        self.take = kind.gate()
        self.taken: list[Any] = []

        async def write() -> None:
            session = get_current_session()
            for number in range(1, count + 1):
                session.send_task_command({"command": "item", "spec": [number, spec]})
                await kind.drain(session)

        async def app(session: AbstractSession) -> None:
            session.run_task(kind.function(write))
            await kind.at(self.take)
            while True:
                self.taken.append(await kind.event(session))

        self.app = kind.app(app)


async def at_rest(service: Service, peer: Peer) -> None:
    """Fill both windows: 16 events taken over and 16 waiting, 4 commands written."""
    assert [number for number, _ in await values(peer, 4)] == [1, 2, 3, 4]
    await peer.send(events=say(*range(1, 17)), first_sequence=1)
    await peer.receive_until(lambda response: response.ack == 16)
    await peer.send(events=say(*range(17, 33)), first_sequence=17)


@pytest.fixture
async def writers(serve: Serve, kind: Kind) -> tuple[Writers, Peer]:
    """Both sides of a session have written all they may, and neither reads."""
    writers = Writers(kind)
    service = await serve({"app": writers.app}, event_window=SMALL, command_window=Window(4), heartbeat_interval=0.1)
    peer = await service.open("app", resumable=True, command_format=JSON)
    await at_rest(service, peer)
    return writers, peer


async def test_two_sides_that_only_write_come_to_rest_at_their_windows(writers: tuple[Writers, Peer]) -> None:
    app, peer = writers
    for _ in range(3):
        assert await peer.receive() == HEARTBEAT  # which still pass
        await peer.send()
    assert app.taken == []


async def test_both_go_on_as_soon_as_the_app_reads(writers: tuple[Writers, Peer]) -> None:
    app, peer = writers
    app.take.open()
    await peer.receive_until(lambda response: response.ack == 32)  # acks pass a full window of commands
    await peer.send(events=say(33), first_sequence=33)
    await peer.receive_until(lambda response: response.ack == 33)
    await eventually(lambda: app.taken == list(range(1, 34)))


async def test_both_go_on_as_soon_as_the_client_reads(writers: tuple[Writers, Peer]) -> None:
    app, peer = writers
    for ack in range(4, 101, 4):  # acks pass a full window of events
        await peer.send(ack=ack)
        if ack < 100:
            assert [number for number, _ in await values(peer, 4)] == [ack + 1, ack + 2, ack + 3, ack + 4]
    assert app.taken == []


async def test_close_ends_a_session_that_is_full_both_ways(writers: tuple[Writers, Peer]) -> None:
    app, peer = writers
    await peer.send(close=pb.Close(now=True))
    app.take.open()
    acked = 0
    while not (response := await peer.receive()).HasField("closed"):
        acked += len(response.commands)
        await peer.send(ack=4 + acked)  # after it has sent close, a client acknowledges at once
    assert response.closed.reason == pb.CLOSE_REASON_CLIENT


async def test_a_graceful_close_of_a_session_that_is_full_both_ways_takes_every_event(
    writers: tuple[Writers, Peer],
) -> None:
    app, peer = writers
    await peer.send(close=pb.Close())
    app.take.open()
    received, closed = 4, None
    while closed is None:
        await peer.send(ack=received)
        response = await peer.receive()
        received += len(response.commands)
        closed = response.closed if response.HasField("closed") else None
    assert (received, app.taken) == (100, list(range(1, 33)))
    assert closed.sequence == 101


async def test_a_server_reads_on_while_its_client_does_not(serve: Serve, kind: Kind) -> None:
    """Megabytes each way, and a client that writes all of it first: a reader that waited for its writer would hang."""
    writers = Writers(kind, CHUNK, 20)
    service = await serve({"app": writers.app}, event_window=Window(1024, 4 << 20))
    async with narrow(service) as channel:
        peer = await Service(service.server, channel).open("app", resumable=True, command_format=JSON)
        [managed] = service.server.manager
        await eventually(lambda: managed.outbox.sent)  # from here on the server's writer waits
        for sequence in range(1, 61):
            assert await peer.send(events=say(CHUNK), first_sequence=sequence)
        await eventually(lambda: managed.inbox.taken == 60)
        writers.take.open()
        numbers: list[int] = []
        while len(numbers) < 20:
            response = await peer.receive()
            numbers += [value(command)[0] for command in response.commands]
            await peer.send(ack=len(numbers))
        assert numbers == list(range(1, 21))
    await eventually(lambda: len(writers.taken) == 60)


async def test_a_plain_client_may_write_all_of_it_before_it_reads(serve: Serve, kind: Kind) -> None:
    service = await serve({"echo": echo_of(kind)})
    async with narrow(service) as channel:
        peer = await Service(service.server, channel).open("echo", command_format=JSON)

        async def write_all() -> None:
            for number in range(200):
                assert await peer.send(events=say([number, CHUNK]))
            await peer.half_close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write_all())
            responses = await peer.receive_until(lambda response: response.HasField("closed"))
        got = [value(command)[0] for response in responses for command in response.commands]
        assert got == list(range(200))
        assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT


async def test_a_plain_session_keeps_what_its_client_is_slow_to_read(serve: Serve, kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        for number in range(20):
            session.send_task_command({"command": "item", "spec": [number, CHUNK]})
            await kind.drain(session)

    service = await serve({"app": kind.app(app)}, resume_window=0.2)
    async with narrow(service) as channel:
        slow = await Service(service.server, channel).open("app", command_format=JSON)
        first = await slow.receive_until(lambda response: response.commands)
        [managed] = service.server.manager
        await eventually(lambda: managed.session.ended)
        for _ in range(2):  # two resume windows pass: it has none
            other = await service.open("app", resumable=True)
            other.cancel()
            await eventually(lambda: len(service.server.manager) == 1)
        responses = first + await slow.receive_all()
        assert [value(command)[0] for response in responses for command in response.commands] == list(range(20))
        assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED


async def test_a_task_that_never_takes_its_events_holds_up_no_command_and_no_close(serve: Serve, kind: Kind) -> None:
    go = kind.gate()

    async def app(session: AbstractSession) -> None:
        for number in range(50):
            session.send_task_command({"command": "item", "spec": number})
            await kind.drain(session)
        await kind.at(go)

    service = await serve({"app": kind.app(app)}, event_window=SMALL, command_window=Window(4))
    peer = await service.open("app", resumable=True, command_format=JSON)
    await peer.send(events=say(*range(1, 17)), first_sequence=1)
    await peer.send(events=say(*range(17, 33)), first_sequence=17)
    got: list[Any] = []
    while len(got) < 50:
        got += [value(command) for command in (await peer.receive()).commands]
        await peer.send(ack=len(got))
    assert got == list(range(50))
    go.open()
    closed = await peer.receive_until(lambda response: response.HasField("closed"))
    assert closed[-1].closed.reason == pb.CLOSE_REASON_COMPLETED


async def round_trips(peer: Peer, name: object, count: int) -> None:
    for sequence in range(1, count + 1):
        await peer.send(events=say([name, sequence]), first_sequence=sequence, ack=sequence - 1)
        assert await values(peer, 1) == [[name, sequence]]


async def test_one_deaf_client_holds_up_no_other_on_its_connection(serve: Serve, kind: Kind) -> None:
    writers = Writers(kind, CHUNK, 40)
    writers.take.open()
    service = await serve({"deaf": writers.app, "echo": echo_of(kind)})
    async with narrow(service) as channel:
        shared = Service(service.server, channel)
        deaf = await shared.open("deaf", resumable=True, command_format=JSON)
        plain_and_deaf = await shared.open("deaf", command_format=JSON)
        managed = list(service.server.manager)
        await eventually(lambda: all(one.outbox.sent for one in managed))
        peers = [await shared.open("echo", resumable=True, command_format=JSON) for _ in range(30)]
        await asyncio.gather(*(round_trips(peer, name, 10) for name, peer in enumerate(peers)))

        for peer in (deaf, plain_and_deaf):  # and it loses nothing itself
            numbers: list[int] = []
            while len(numbers) < 40:
                response = await peer.receive()
                numbers += [value(command)[0] for command in response.commands]
                await peer.send(ack=len(numbers))
            assert numbers == list(range(1, 41))


async def test_two_hundred_sessions_interleave_and_never_see_each_other(serve: Serve) -> None:
    kinds = [CoroutineKind(), ThreadKind()]
    service = await serve({"echo-0": echo_of(kinds[0]), "echo-1": echo_of(kinds[1])})

    async def session(number: int) -> None:
        peer = await service.open(f"echo-{number % 2}", resumable=number % 4 < 2, command_format=JSON)
        await round_trips(peer, number, 10)
        await peer.send(close=pb.Close())
        responses = await peer.receive_until(lambda response: response.HasField("closed"))
        if peer.opened.resume_token:
            await peer.send(ack=responses[-1].closed.sequence)
        assert (await peer.status()).code is grpc.StatusCode.OK

    await asyncio.gather(*(session(number) for number in range(200)))
    assert len(service.server.manager) == 0
