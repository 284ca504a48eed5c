"""Who calls: what an authenticator is told, and credentials that expire while a stream lives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from session_service import Principal, get_current_session
from session_service.errors import ProtocolError, Unauthenticated
from session_service.server import Peer
from session_service.server.auth import ExpiryTimer, certificate_subject, expiry
from session_service.v1 import info_pb2
from session_service.v1 import session_pb2 as pb

from ..protocol.peer import PATIENCE, Serve, event, value

JSON = pb.PAYLOAD_FORMAT_JSON


async def echo() -> None:
    session = get_current_session()
    while True:
        event = await session.next_client_event()
        session.send_task_command({"command": "echo", "spec": event["data"]})


async def who() -> None:
    session = get_current_session()
    while True:
        spec = [session.principal.name, dict(session.principal.claims)]
        session.send_task_command({"command": "who", "spec": spec})
        await session.next_client_event()


def who_in_thread() -> None:
    session = get_current_session()
    session.send_task_command({"command": "who", "spec": [session.principal.name, dict(session.principal.claims)]})


# --- what it is told, and who is told what it says --------------------------------------------------------------------


async def test_an_authenticator_is_given_metadata_and_peer_at_each_call(serve: Serve) -> None:
    calls: list[tuple[Mapping[str, str], Peer]] = []

    def authenticate(metadata: Mapping[str, str], peer: Peer) -> Principal:
        calls.append((metadata, peer))
        return Principal("ada")

    service = await serve({"echo": echo}, authenticate=authenticate)
    peer = await service.open("echo", metadata=[("key", "1")], resumable=True)
    await service.resume(peer, metadata=[("key", "2")])
    await service.stub.ParseSessionInfo(info_pb2.ParseSessionInfoRequest(), metadata=(("key", "3"),))
    assert [metadata["key"] for metadata, _ in calls] == ["1", "2", "3"]
    assert all(peer.address.startswith("ipv4:127.0.0.1:") and not peer.certificate for _, peer in calls)


@pytest.mark.parametrize("app", [who, who_in_thread])
async def test_an_app_sees_who_opened_its_session(serve: Serve, app: Any) -> None:
    service = await serve({"who": app}, authenticate=lambda *_: Principal("ada", {"roles": ["admin"]}))
    peer = await service.open("who", command_format=JSON)
    assert [value(command) for command in await peer.receive_commands(1)] == [["ada", {"roles": ["admin"]}]]


async def test_without_authentication_the_principal_has_no_name(serve: Serve) -> None:
    service = await serve({"who": who})
    peer = await service.open("who", command_format=JSON)
    assert [value(command) for command in await peer.receive_commands(1)] == [["", {}]]


async def test_after_a_resume_an_app_sees_the_claims_of_that_call(serve: Serve) -> None:
    def authenticate(metadata: Mapping[str, str], _peer: Peer) -> Principal:
        return Principal("ada", {"role": metadata["role"]})

    service = await serve({"who": who}, authenticate=authenticate)
    peer = await service.open("who", metadata=[("role", "guest")], resumable=True, command_format=JSON)
    assert [value(command) for command in await peer.receive_commands(1)] == [["ada", {"role": "guest"}]]
    peer = await service.resume(peer, metadata=[("role", "admin")], received=1)
    await peer.send(events=[event()], first_sequence=1)
    assert [value(command) for command in await peer.receive_commands(1)] == [["ada", {"role": "admin"}]]


async def test_a_repeated_open_brings_its_claims_as_well(serve: Serve) -> None:
    roles = iter(["guest", "admin"])
    service = await serve({"who": who}, authenticate=lambda *_: Principal("ada", {"role": next(roles)}))
    request_id = "f6a4c7b2-0d55-4f29-8f3e-1b1f5a3a9a77"
    request: dict[str, Any] = {"resumable": True, "request_id": request_id, "command_format": JSON}
    await (await service.open("who", **request)).receive_commands(1)
    peer = await service.open("who", **request)
    await peer.send(events=[event()], first_sequence=1)
    assert [value(command)[1]["role"] for command in await peer.receive_commands(2)] == ["guest", "admin"]


def test_a_certificate_names_by_its_spiffe_id_else_by_its_subject() -> None:
    both = {"x509_subject": ("CN=many",), "peer_spiffe_id": ("spiffe://example.org/one",)}
    assert certificate_subject({}, Peer("", both)).name == "spiffe://example.org/one"
    assert certificate_subject({}, Peer("", {"x509_subject": ("CN=ada,O=Example",)})).name == "CN=ada,O=Example"
    for certificate in ({}, {"x509_subject": ("",)}, {"x509_subject": ("CN=" + "x" * 1024,)}):
        with pytest.raises(Unauthenticated):
            certificate_subject({}, Peer("", certificate))


# --- credentials that expire ------------------------------------------------------------------------------------------


async def test_when_credentials_expire_the_stream_ends_and_the_session_waits(serve: Serve) -> None:
    lifetimes = iter([1.0, 3600.0])

    def authenticate(_metadata: Mapping[str, str], _peer: Peer) -> Principal:
        return Principal("ada", expires_at=time.time() + next(lifetimes))

    service = await serve({"echo": echo}, authenticate=authenticate)
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=[event("say", "before")], first_sequence=1)
    assert [value(command) for command in await peer.receive_commands(1)] == ["before"]

    status = await peer.status()
    assert (status.code, status.reason, status.retry) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "RESUME")
    assert status.message == "the credentials have expired: attach again with fresh ones"
    assert status.metadata == {"received": "1"}

    peer = await service.resume(peer, received=1)
    assert peer.resumed.received == 1
    await peer.send(events=[event("say", "after")], first_sequence=2)
    assert [value(command) for command in await peer.receive_commands(1)] == ["after"]


async def test_a_plain_session_ends_with_the_credentials(serve: Serve) -> None:
    ended = asyncio.Event()

    async def app() -> None:
        get_current_session().defer_call(ended.set)
        await echo()

    service = await serve({"app": app}, authenticate=lambda *_: Principal("ada", expires_at=time.time() + 0.1))
    peer = await service.open("app")
    assert (await peer.status()).code is grpc.StatusCode.UNAUTHENTICATED
    async with asyncio.timeout(PATIENCE):
        await ended.wait()


async def test_credentials_that_have_expired_already_open_nothing(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=lambda *_: Principal("ada", expires_at=time.time() - 1))
    peer = service.attach()
    await peer.send(open=pb.Open(app="echo"))
    assert (await peer.status()).code is grpc.StatusCode.UNAUTHENTICATED
    assert len(service.server.manager) == 0


@pytest.mark.parametrize("expires_at", [None, 1e300])
async def test_credentials_that_never_expire_leave_no_timer_behind(expires_at: float | None) -> None:
    failed: list[ProtocolError] = []
    with ExpiryTimer(Principal("ada", expires_at=expires_at), failed.append):
        await asyncio.sleep(0)
    assert failed == []


async def test_a_clock_that_is_set_forward_ends_the_credentials_it_overtakes(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: asyncio.Future[ProtocolError] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(expiry, "LONGEST_SLEEP", 0.01)
    now = time.time()
    with ExpiryTimer(Principal("ada", expires_at=now + 3600), failed.set_result):
        monkeypatch.setattr(time, "time", lambda: now + 7200)
        async with asyncio.timeout(PATIENCE):
            assert isinstance(await failed, Unauthenticated)
