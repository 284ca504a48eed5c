"""What docs/proxies.md says of nginx and HAProxy with the configurations of deploy/proxies."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import pytest
from google.rpc import error_details_pb2
from session_client import Attachment, AttachmentState, PoisonedEvent, SessionClient

from session_service import get_current_session
from session_service.examples.echo import echo
from session_service.v1 import session_pb2 as pb
from tests.protocol.peer import PATIENCE, Peer, event, value

from .conftest import Serve
from .proxy import Nginx, Proxy

JSON = pb.PAYLOAD_FORMAT_JSON
COUNT = 100

# A heartbeat, in seconds, that is so to the silence that a changed configuration stands as ours to a proxy's minute.
HEARTBEAT = 0.5


def reason_of(peer: Peer) -> str:
    """Return why a stream failed, as its last message says."""
    info = error_details_pb2.ErrorInfo()
    return info.reason if peer.failed is not None and peer.failed.details[0].Unpack(info) else "none came"


async def said(peer: Peer, data: object, **fields: int) -> object:
    """Return what the app `echo` answers."""
    await peer.send(events=[event("say", data)], **fields)
    (command,) = await peer.receive_commands(1)
    return value(command)


async def test_plain_sessions_all_end_with_closed_and_ok(serve: Serve) -> None:
    service = await serve({"echo": echo})
    ends: Counter[tuple[bool, grpc.StatusCode]] = Counter()
    for number in range(COUNT):
        peer = await service.open("echo", command_format=JSON)
        assert await said(peer, number) == number
        await peer.send(close=pb.Close())
        responses = await peer.receive_all()
        ends[responses[-1].HasField("closed"), await peer.call.code()] += 1
    assert ends == {(True, grpc.StatusCode.OK): COUNT}


async def test_resumable_sessions_all_end_with_closed_and_ok(serve: Serve) -> None:
    service = await serve({"echo": echo})
    ends: Counter[tuple[bool, grpc.StatusCode]] = Counter()
    for number in range(1, COUNT + 1):
        peer = await service.open("echo", resumable=True, command_format=JSON)
        assert await said(peer, number, first_sequence=1) == number
        await peer.send(close=pb.Close(), ack=1)
        closed = (await peer.receive_until(lambda response: response.HasField("closed")))[-1].closed
        await peer.send(ack=closed.sequence)
        await peer.receive_all()
        ends[closed.sequence == 2, await peer.call.code()] += 1
    assert ends == {(True, grpc.StatusCode.OK): COUNT}


async def test_the_reason_of_each_refusal_arrives(serve: Serve) -> None:
    service = await serve({"echo": echo})
    reasons: Counter[str] = Counter()
    for _ in range(COUNT):
        peer = service.attach()
        await peer.send(open=pb.Open(app="nobody"))
        await peer.receive_all()
        reasons[reason_of(peer)] += 1
    assert reasons == {"APP_NOT_FOUND": COUNT}


async def test_the_reason_of_each_takeover_arrives(serve: Serve) -> None:
    service = await serve({"echo": echo})
    reasons: Counter[str] = Counter()
    peer = await service.open("echo", resumable=True)
    for _ in range(COUNT):
        newer = await service.resume(peer)
        await peer.receive_all()
        reasons[reason_of(peer)] += 1
        peer = newer
    assert reasons == {"TAKEN_OVER": COUNT}


async def test_a_connection_carries_more_streams_than_by_default(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peers = [await service.open("echo", command_format=JSON) for _ in range(service.proxy.default_streams + 20)]
    for number, peer in enumerate(peers):
        assert await said(peer, number) == number


@pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])
async def test_a_large_event_passes_and_so_do_many(serve: Serve, resumable: bool) -> None:
    async def app() -> None:
        session = get_current_session()
        while True:
            event = await session.next_client_event()
            session.send_task_command({"command": "size", "spec": len(event["data"])})

    service = await serve({"app": app})
    peer = await service.open("app", resumable=resumable, command_format=JSON)
    for number in range(1, 4):
        assert await said(peer, "x" * 1_500_000, first_sequence=number) == 1_500_000


@pytest.mark.parametrize("kind", [Nginx], ids=["nginx"])
async def test_what_nginx_never_lets_through_by_default_is_named_by_the_client(serve: Serve) -> None:
    service = await serve({"echo": echo}, {"client_max_body_size 0": "client_max_body_size 1m"})
    client = SessionClient(service.proxy.address, channel_credentials=service.credentials)
    async with client, client.open("echo") as session:
        await session.send_event("say", "x" * 1_500_000)
        with pytest.raises(PoisonedEvent) as caught:
            await anext(session)
    assert caught.value.sequence == 1
    assert caught.value.size > 1_500_000


async def test_a_large_command_passes(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", command_format=JSON)
    assert await said(peer, "x" * 1_500_000) == "x" * 1_500_000


async def test_a_long_token_passes_each_time(serve: Serve) -> None:
    service = await serve({"echo": echo})
    for _ in range(20):
        peer = await service.open("echo", metadata=[("authorization", "x" * 14_000)], command_format=JSON)
        assert await said(peer, 1) == 1


async def test_an_idle_session_keeps_its_stream_by_heartbeats(serve: Serve, kind: type[Proxy]) -> None:
    gate = asyncio.Event()

    async def app() -> None:
        await gate.wait()
        get_current_session().send_task_command({"command": "awake"})
        await get_current_session().next_client_event()

    service = await serve({"app": app}, kind.silence, heartbeat_interval=HEARTBEAT)
    changes: list[AttachmentState] = []
    client = SessionClient(
        service.proxy.address,
        channel_credentials=service.credentials,
        on_attachment=lambda change: changes.append(change.state),
    )
    async with client, client.open("app") as session:
        plain = await service.open("app")
        for _ in range(10):  # more than twice as long as the proxy stands silence
            assert await plain.receive() == pb.AttachResponse()
            await plain.send()
        assert changes == [AttachmentState.ATTACHED]
        gate.set()
        assert (await anext(session)).command == "awake"
        assert (await plain.receive()).commands[0].command == "awake"


async def test_a_resumable_session_outlives_a_reload(serve: Serve) -> None:
    service = await serve({"echo": echo})
    changes: asyncio.Queue[Attachment] = asyncio.Queue()
    client = SessionClient(
        service.proxy.address, channel_credentials=service.credentials, on_attachment=changes.put_nowait
    )
    async with client, client.open("echo") as session:
        await session.send_event("say", 0)
        assert (await anext(session)).spec == 0
        await service.proxy.reload()
        number = 0
        async with asyncio.timeout(2 * PATIENCE):
            while (await changes.get()).state is not AttachmentState.RESUMED:
                number += 1
                await session.send_event("say", number)
                assert (await anext(session)).spec == number
        await session.send_event("say", "after")
        assert (await anext(session)).spec == "after"
