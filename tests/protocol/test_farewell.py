"""Rule E2, when everything is said: the call stands until the client half-closes, and nothing waits for that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from session_service import AbstractSession, get_current_session
from session_service.errors import Unauthenticated
from session_service.examples.echo import echo
from session_service.server import farewell
from session_service.session import Principal
from session_service.v1 import info_pb2
from session_service.v1 import session_pb2 as pb
from tests.session.kinds import eventually

from .peer import PATIENCE, Peer, Serve, Service, event

BOTH = pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])


@pytest.fixture
def for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls stand for so long that a test fails which waits for it."""
    monkeypatch.setattr(farewell, "LINGER", 20 * PATIENCE)


async def is_served(service: Service) -> None:
    """Hold a conversation, to and fro, on the same connection: what was under way before has arrived."""
    for _ in range(3):
        peer = await service.open("echo")
        await peer.send(events=[event("say", 1)], close=pb.Close())
        assert (await peer.status()).code is grpc.StatusCode.OK


async def finished(service: Service, *, resumable: bool) -> Peer:
    """Return a peer that has been told everything, and has not half-closed."""
    peer = await service.open("echo", resumable=resumable)
    peer.lingers = True
    await peer.send(close=pb.Close())
    closed = (await peer.receive_until(lambda response: response.HasField("closed")))[-1].closed
    if resumable:
        await peer.send(ack=closed.sequence)
    return peer


@BOTH
@pytest.mark.usefixtures("for_long")
async def test_E2_the_call_stands_until_the_half_close_and_the_session_is_gone(serve: Serve, resumable: bool) -> None:
    service = await serve({"echo": echo}, max_sessions=1)
    peer = await finished(service, resumable=resumable)
    await is_served(service)  # there is room for it
    assert len(service.server.manager) == 0
    assert AbstractSession.active_session_count() == 0
    assert not peer.call.done()
    await peer.half_close()
    assert (await peer.status()).code is grpc.StatusCode.OK


@BOTH
async def test_E2_a_client_that_never_half_closes_gets_the_status_all_the_same(serve: Serve, resumable: bool) -> None:
    service = await serve({"echo": echo})
    peer = await finished(service, resumable=resumable)
    assert (await peer.status()).code is grpc.StatusCode.OK


@pytest.mark.usefixtures("for_long")
async def test_E2_what_comes_after_the_end_is_dropped_and_the_half_close_behind_it_heard(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await finished(service, resumable=False)
    for _ in range(100):
        assert await peer.send(events=[event("say", "x" * 100_000)])
    await peer.half_close()
    status = await peer.status()
    assert status.code is grpc.StatusCode.OK


@pytest.mark.usefixtures("for_long")
async def test_E2_a_client_that_has_half_closed_before_gets_its_end_at_once(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo")
    peer.lingers = True
    await peer.send(events=[event("say", 1)])
    await peer.half_close()
    assert (await peer.status()).code is grpc.StatusCode.OK
    refused = service.attach()
    refused.lingers = True
    await refused.send(open=pb.Open(app="nobody"))
    await refused.half_close()
    assert (await refused.status()).reason == "APP_NOT_FOUND"


@BOTH
@pytest.mark.usefixtures("for_long")
async def test_E2_a_client_that_cancels_meanwhile_leaves_nothing(serve: Serve, resumable: bool) -> None:
    service = await serve({"echo": echo})
    await is_served(service)
    before = len(asyncio.all_tasks())
    peers = [await finished(service, resumable=resumable) for _ in range(20)]
    for peer in peers:
        peer.cancel()
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


@pytest.mark.usefixtures("for_long")
async def test_E2_a_drain_waits_for_no_half_close_and_the_status_arrives(serve: Serve) -> None:
    service = await serve({"echo": echo})
    plain, resumable = [await finished(service, resumable=resumable) for resumable in (False, True)]
    refused = service.attach()
    refused.lingers = True
    await refused.send(open=pb.Open(app="nobody"))
    reading = [asyncio.create_task(peer.status()) for peer in (plain, resumable, refused)]
    await is_served(service)
    async with asyncio.timeout(PATIENCE):
        await service.server.drain(20 * PATIENCE)
    statuses = [await status for status in reading]
    assert [status.code for status in statuses] == [
        grpc.StatusCode.OK,
        grpc.StatusCode.OK,
        grpc.StatusCode.NOT_FOUND,
    ]


# --- errors -----------------------------------------------------------------------------------------------------------


async def no_first_request(service: Service) -> Peer:
    peer = service.attach()
    await peer.send(ack=1)
    return peer


async def no_credentials(service: Service) -> Peer:
    return service.attach(metadata=[("who", "nobody")])


async def a_bug(service: Service) -> Peer:
    return service.attach(metadata=[("who", "bug")])


async def no_such_app(service: Service) -> Peer:
    peer = service.attach()
    await peer.send(open=pb.Open(app="nobody"))
    return peer


async def gap(service: Service) -> Peer:
    peer = await service.open("echo", resumable=True)
    await peer.send(events=[event("say", 1)], first_sequence=7)
    return peer


async def takeover(service: Service) -> Peer:
    peer = await service.open("echo", resumable=True)
    again = await service.resume(peer)
    again.cancel()
    return peer


async def no_request_at_all(service: Service) -> Peer:
    peer = service.attach(raw=True)
    await peer.send_bytes(b"\xff\xff")
    return peer


def authenticate(metadata: Mapping[str, str], _: object) -> Principal:
    if metadata.get("who") == "bug":
        raise RuntimeError("a bug")
    if metadata.get("who") == "nobody":
        raise Unauthenticated("who are you?")
    return Principal("somebody")


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (no_first_request, "PROTOCOL_VIOLATION"),
        (no_credentials, "UNAUTHENTICATED"),
        (a_bug, "INTERNAL"),
        (no_such_app, "APP_NOT_FOUND"),
        (gap, "SEQUENCE_GAP"),
        (takeover, "TAKEN_OVER"),
        (no_request_at_all, "PAYLOAD_INVALID"),
    ],
)
@pytest.mark.usefixtures("for_long")
async def test_E2_an_error_is_written_before_the_status_which_waits_for_the_half_close(
    serve: Serve, act: Callable[[Service], Coroutine[Any, Any, Peer]], reason: str
) -> None:
    service = await serve({"echo": echo}, authenticate=authenticate)
    peer = await act(service)
    peer.lingers = True
    reading = asyncio.create_task(peer.status())
    await eventually(lambda: peer.failed)
    await is_served(service)
    assert not peer.call.done()
    await peer.half_close()
    status = await reading
    assert status.reason == reason
    assert isinstance(peer.failed, status_pb2.Status)
    assert peer.failed.code == status.code.value[0]
    assert peer.failed.message == status.message


async def test_E2_the_refusal_of_a_unary_call_is_no_message(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=authenticate)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.ParseSessionInfo(info_pb2.ParseSessionInfoRequest(), metadata=(("who", "nobody"),))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.usefixtures("for_long")
async def test_E2_no_client_sends_faster_than_it_may_after_an_error(serve: Serve) -> None:
    service = await serve({"echo": echo}, principal_event_rate=100_000)
    peer = service.attach()
    peer.lingers = True
    await peer.send(open=pb.Open(app="nobody"))
    while await peer.send(events=[event("say", "x" * 50_000)]):
        pass
    with contextlib.suppress(AssertionError):  # grpc.aio has found out by the write, see peer.py
        await peer.status()
    assert peer.call.done()


async def test_A3_a_client_that_does_not_read_holds_no_session_by_an_error(serve: Serve) -> None:
    async def app() -> None:
        session = get_current_session()
        for _ in range(90):  # within the window, and far more than gRPC buffers
            session.send_task_command({"command": "item", "spec": "x" * 10_000})
        await session.next_client_event()

    service = await serve({"app": app, "echo": echo}, max_sessions=1)
    async with service.connect() as stuck:
        peer = await stuck.open("app", resumable=True)
        again = await service.resume(peer)
        await again.send(close=pb.Close(now=True))
        closed = (await again.receive_until(lambda response: response.HasField("closed")))[-1].closed
        await again.send(ack=closed.sequence)
        await is_served(service)
        assert (await peer.status()).reason == "TAKEN_OVER"
