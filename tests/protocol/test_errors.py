"""The error table: what happened, and the status, reason and retry that a client reads through grpc_status."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from session_service import Principal, Window, get_current_session, payload
from session_service.delivery import Outbox
from session_service.errors import Unauthenticated
from session_service.examples.echo import echo
from session_service.host import SessionManager
from session_service.server import service as service_module
from session_service.v1 import info_pb2
from session_service.v1 import session_pb2 as pb

from .peer import PATIENCE, Peer, Serve, Status, event, resume_of, value

JSON = pb.PAYLOAD_FORMAT_JSON
REQUEST_ID = "3f0c7a52-9d3e-4c0e-8e3a-6f1d2b7c9a10"
SECRET = "the text of the exception"

Code = grpc.StatusCode


@pytest.fixture(autouse=True)
def tracebacks(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """Collect what was logged with a traceback: nothing, but for the tests of INTERNAL, which take it out."""
    expected: list[logging.LogRecord] = []
    yield expected
    records = [record for record in caplog.get_records("call") if record.exc_info or record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in records] == [record.getMessage() for record in expected]


def check(status: Status, code: grpc.StatusCode, reason: str, retry: str, **metadata: str) -> None:
    """Compare a status with a row of the table; the metadata must be exactly this."""
    assert (status.code, status.reason, status.retry, status.domain) == (code, reason, retry, "session_service"), status
    assert status.metadata == metadata
    assert status.message
    assert (status.retry_delay is not None) == (reason in {"SESSION_LIMIT", "DRAINING"})


async def say(peer: Peer, data: Any, **fields: Any) -> Any:
    """Have `echo` answer."""
    await peer.send(events=[event("say", data)], **fields)
    (command,) = await peer.receive_commands(1)
    return value(command)


# --- the client's violations ------------------------------------------------------------------------------------------


async def test_neither_open_nor_resume_first(serve: Serve) -> None:
    peer = (await serve({"echo": echo})).attach()
    await peer.send(close=pb.Close())
    check(await peer.status(), Code.INVALID_ARGUMENT, "PROTOCOL_VIOLATION", "NEVER")


async def test_a_second_open(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    assert await say(peer, 1, first_sequence=1) == 1
    await peer.send(open=pb.Open(app="echo"))
    check(await peer.status(), Code.INVALID_ARGUMENT, "PROTOCOL_VIOLATION", "NEVER", received="1")


async def test_an_ack_from_the_future(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    assert await say(peer, 1, first_sequence=1) == 1
    await peer.send(ack=2)
    check(await peer.status(), Code.INVALID_ARGUMENT, "PROTOCOL_VIOLATION", "NEVER", received="1", sent="1")
    assert (await service.resume(peer)).resumed.received == 1


async def test_no_first_request(serve: Serve) -> None:
    service = await serve({"echo": echo}, first_request_timeout=0.05)
    check(await service.attach().status(), Code.DEADLINE_EXCEEDED, "FIRST_REQUEST_TIMEOUT", "RESUME")


async def test_a_gap_in_the_sequences(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    assert await say(peer, 1, first_sequence=1) == 1
    await peer.send(events=[event()], first_sequence=3)
    check(await peer.status(), Code.OUT_OF_RANGE, "SEQUENCE_GAP", "RESUME", expected="2", received="1")
    assert await say(await service.resume(peer, received=1), 2, first_sequence=2) == 2


async def test_more_events_than_the_window(serve: Serve) -> None:
    service = await serve({"stuck": asyncio.Event().wait}, event_window=Window(16, 64 * 1024))
    peer = await service.open("stuck", resumable=True)
    await peer.send(events=[event() for _ in range(100)], first_sequence=1)
    status = await peer.status()
    check(status, Code.RESOURCE_EXHAUSTED, "WINDOW_EXCEEDED", "NEVER", received="16")
    assert (await service.resume(peer)).resumed.received == 16


@pytest.mark.parametrize(
    "bad",
    [
        pb.Event(json="{'no': json}"),
        pb.Event(data=struct_pb2.Value(number_value=float("nan"))),
        pb.Event(json="[NaN]"),
        pb.Event(json=str(2**64)),
    ],
    ids=["no JSON", "NaN in data", "NaN in JSON", "an integer beyond 64 bits"],
)
async def test_a_payload_that_is_refused(serve: Serve, bad: pb.Event) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True)
    await peer.send(events=[event(), bad], first_sequence=1)
    status = await peer.status()
    check(status, Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", "NEVER", sequence="2", received="1")


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x7fshort", os.urandom(2000) + b"\xff\xff"])
async def test_a_request_that_cannot_be_decoded(serve: Serve, data: bytes) -> None:
    service = await serve({"echo": echo})
    other = await service.open("echo", command_format=JSON)
    peer = service.attach(raw=True)
    await peer.send_bytes(data)
    check(await peer.status(), Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", "NEVER")
    assert await say(other, "undisturbed") == "undisturbed"


async def test_a_request_that_cannot_be_decoded_later_in_the_stream(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach(raw=True)
    await peer.send_bytes(pb.AttachRequest(open=pb.Open(app="echo", resumable=True)).SerializeToString())
    peer.opened = (await peer.receive()).opened
    await peer.send_bytes(b"\xff\xff")
    check(await peer.status(), Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", "NEVER", received="0")
    assert (await service.resume(peer)).resumed.received == 0


async def test_text_that_is_not_utf_8(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach(raw=True)
    good = pb.AttachRequest(open=pb.Open(app="echo")).SerializeToString()
    await peer.send_bytes(good.replace(b"echo", b"\xff\xfe\xfd\xfc"))
    check(await peer.status(), Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", "NEVER")


async def test_a_message_over_the_limit(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True)
    await peer.send(events=[pb.Event(blob=bytes(4_000_001))], first_sequence=1)
    status = await peer.status()
    assert (status.code, status.reason, status.retry) == (Code.RESOURCE_EXHAUSTED, "", "")


async def test_three_intervals_of_silence(serve: Serve) -> None:
    service = await serve({"echo": echo}, heartbeat_interval=0.05)
    peer = await service.open("echo", resumable=True)
    check(await peer.status(), Code.UNAVAILABLE, "HEARTBEAT_LOST", "RESUME", received="0")


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_an_unknown_app(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach()
    await peer.send(open=pb.Open(app="ehco"))
    status = await peer.status()
    check(status, Code.NOT_FOUND, "APP_NOT_FOUND", "NEVER")
    assert "ehco" in status.message
    assert len(service.server.manager) == 0


async def test_an_unknown_session_a_wrong_token_and_a_forgotten_session_look_the_same(serve: Serve) -> None:
    service = await serve({"echo": echo})
    living = await service.open("echo", resumable=True)
    plain = await service.open("echo")
    ended = await service.open("echo", resumable=True)
    await ended.send(close=pb.Close(now=True))
    await ended.receive_until(lambda response: response.HasField("closed"))
    await ended.send(ack=1)
    await ended.receive_all()
    statuses = []
    for resume in (
        pb.Resume(),
        pb.Resume(session_id="never was", resume_token="some"),
        resume_of(living, resume_token="guessed"),
        resume_of(living, resume_token=""),
        resume_of(living, resume_token="naïve"),
        resume_of(living, session_id=ended.opened.session_id),
        resume_of(ended),
        resume_of(plain),
    ):
        peer = service.attach()
        await peer.send(resume=resume)
        statuses.append(await peer.status())
    check(statuses[0], Code.NOT_FOUND, "SESSION_NOT_FOUND", "REOPEN")
    assert statuses == [statuses[0]] * len(statuses)


def tokens(metadata: Mapping[str, str], _peer: object) -> Principal:
    """Authenticate: the principal's name is the credential."""
    name = metadata.get("authorization", "")
    if not name:
        raise Unauthenticated("send the metadata `authorization`")
    return Principal(name)


ADA, BOB = [("authorization", "ada")], [("authorization", "bob")]


async def test_no_credentials_for_attach(serve: Serve) -> None:
    """They are checked before anything is read, whatever the first request would be."""
    service = await serve({"echo": echo}, authenticate=tokens)
    check(await service.attach().status(), Code.UNAUTHENTICATED, "UNAUTHENTICATED", "RESUME")


async def test_no_credentials_for_parse_session_info(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=tokens)
    call = service.stub.ParseSessionInfo(info_pb2.ParseSessionInfoRequest())
    async with asyncio.timeout(PATIENCE):
        assert await call.code() is Code.UNAUTHENTICATED
        rich = await rpc_status.aio.from_call(call)
    info = error_details_pb2.ErrorInfo()
    assert rich is not None
    assert rich.details[0].Unpack(info)
    assert (info.reason, info.metadata["retry"]) == ("UNAUTHENTICATED", "RESUME")


async def test_the_session_of_another_principal(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=tokens)
    peer = await service.open("echo", resumable=True, metadata=ADA, command_format=JSON)
    assert await say(peer, 1, first_sequence=1) == 1
    thief = service.attach(BOB)
    await thief.send(resume=resume_of(peer))
    check(await thief.status(), Code.PERMISSION_DENIED, "PRINCIPAL_MISMATCH", "NEVER", received="1")
    guesser = service.attach(BOB)
    await guesser.send(resume=resume_of(peer, resume_token="guessed"))
    check(await guesser.status(), Code.NOT_FOUND, "SESSION_NOT_FOUND", "REOPEN")
    assert await say(peer, "undisturbed", first_sequence=2) == "undisturbed"


async def test_a_request_id_belongs_to_its_principal(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=tokens)
    ada = await service.open("echo", resumable=True, metadata=ADA, request_id=REQUEST_ID)
    bob = await service.open("echo", resumable=True, metadata=BOB, request_id=REQUEST_ID)
    assert ada.opened.session_id != bob.opened.session_id


async def test_a_request_id_with_another_app(serve: Serve) -> None:
    service = await serve({"echo": echo, "other": echo})
    await service.open("echo", resumable=True, request_id=REQUEST_ID)
    peer = service.attach()
    await peer.send(open=pb.Open(app="other", resumable=True, request_id=REQUEST_ID))
    status = await peer.status()
    assert (status.code, status.reason, status.retry) == (Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", "NEVER")


@pytest.mark.parametrize("received", [0, 3], ids=["acknowledged long ago", "never sent"])
async def test_a_place_that_cannot_be_resumed_from(serve: Serve, received: int) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    assert await say(peer, 1, first_sequence=1) == 1
    assert await say(peer, 2, first_sequence=2, ack=1) == 2
    again = service.attach()
    await again.send(resume=resume_of(peer, received=received))
    status = await again.status()
    check(status, Code.OUT_OF_RANGE, "RESUME_IMPOSSIBLE", "REOPEN", received="2", acked="1", sent="2")
    assert await say(peer, "undisturbed", first_sequence=3) == "undisturbed"


@pytest.mark.parametrize(
    ("older", "newer", "retry"),
    [("me", "me", "RESUME"), ("me", "you", "NEVER"), ("", "", "NEVER"), ("me", "", "NEVER"), ("", "me", "NEVER")],
)
async def test_a_newer_attachment(serve: Serve, older: str, newer: str, retry: str) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, client_id=older)
    await service.resume(peer, client_id=newer)
    check(await peer.status(), Code.ABORTED, "TAKEN_OVER", retry, received="0")


async def test_too_many_sessions(serve: Serve) -> None:
    service = await serve({"echo": echo}, max_sessions=2)
    first = await service.open("echo")
    second = await service.open("echo", resumable=True, request_id=REQUEST_ID)
    third = service.attach()
    await third.send(open=pb.Open(app="echo"))
    status = await third.status()
    check(status, Code.RESOURCE_EXHAUSTED, "SESSION_LIMIT", "REOPEN")
    assert (status.retry_delay or 0) > 0
    repeated = await service.open("echo", resumable=True, request_id=REQUEST_ID)
    assert repeated.opened.session_id == second.opened.session_id
    await first.send(close=pb.Close())
    await first.receive_all()
    await service.open("echo")


async def test_a_server_that_shuts_down(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo")
    draining = asyncio.create_task(service.server.drain(60))
    await peer.receive()
    late = service.attach()
    await late.send(open=pb.Open(app="echo"))
    status = await late.status()
    check(status, Code.UNAVAILABLE, "DRAINING", "REOPEN")
    assert (status.retry_delay or 0) > 0
    peer.cancel()
    async with asyncio.timeout(PATIENCE):
        await draining


async def test_an_end_that_could_not_be_delivered(serve: Serve) -> None:
    async def app() -> None:
        for n in range(10):
            get_current_session().send_task_command({"command": "count", "spec": n})

    service = await serve({"app": app}, resume_window=0.2)
    peer = await service.open("app", resumable=True, command_window=pb.Window(messages=4))
    check(await peer.status(), Code.ABORTED, "ENDED_UNDELIVERED", "NEVER", received="0")
    again = service.attach()
    await again.send(resume=resume_of(peer))
    assert (await again.status()).reason == "SESSION_NOT_FOUND"


# --- what a status can carry ------------------------------------------------------------------------------------------


async def test_the_name_of_an_unknown_app_may_be_long(serve: Serve) -> None:
    """A status travels as HTTP/2 trailers, which clients limit to 8 or 16 kB."""
    peer = (await serve({"echo": echo})).attach()
    await peer.send(open=pb.Open(app="x" * 100_000))
    check(await peer.status(), Code.NOT_FOUND, "APP_NOT_FOUND", "NEVER")


async def test_a_server_may_have_many_apps(serve: Serve) -> None:
    peer = (await serve({f"application-{n}": echo for n in range(2000)})).attach()
    await peer.send(open=pb.Open(app="echo"))
    check(await peer.status(), Code.NOT_FOUND, "APP_NOT_FOUND", "NEVER")


async def test_a_payload_that_is_refused_may_have_long_names(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True)
    bad = pb.Event()
    bad.data.struct_value.fields["x" * 100_000].number_value = float("inf")
    await peer.send(events=[bad], first_sequence=1)
    check(await peer.status(), Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", "NEVER", sequence="1", received="0")


async def test_a_status_may_be_about_text_of_any_script(serve: Serve) -> None:
    peer = (await serve({"echo": echo})).attach()
    await peer.send(open=pb.Open(app="grüße 你好 \n\x00"))
    check(await peer.status(), Code.NOT_FOUND, "APP_NOT_FOUND", "NEVER")


# --- bugs of ours -----------------------------------------------------------------------------------------------------


def broken(*args: object, **kwargs: object) -> Any:
    raise RuntimeError(SECRET)


def check_internal(status: Status, caplog: pytest.LogCaptureFixture, expected: list[logging.LogRecord]) -> None:
    """An error id that finds the exception in the log, and not a word of it for the client."""
    assert (status.code, status.reason, status.retry) == (Code.INTERNAL, "INTERNAL", "RESUME"), status
    error_id = status.metadata["error_id"]
    assert re.fullmatch(r"[0-9a-f]{16}", error_id)
    assert error_id in status.message
    for text in (SECRET, "RuntimeError", "Traceback"):
        assert text not in status.message
        assert text not in str(status.metadata)
    records = [record for record in caplog.records if record.exc_info]
    assert len(records) == 1
    assert error_id in records[0].getMessage()
    assert SECRET in str(records[0].exc_info)
    expected += records


@pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])
async def test_a_bug_in_the_reader(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tracebacks: list[logging.LogRecord],
    resumable: bool,
) -> None:
    service = await serve({"echo": echo})
    other = await service.open("echo", command_format=JSON)
    peer = await service.open("echo", resumable=resumable, command_format=JSON)
    with monkeypatch.context() as patch:
        patch.setattr(payload, "decode_event", broken)
        await peer.send(events=[event()], first_sequence=1)
        check_internal(await peer.status(), caplog, tracebacks)
    assert await say(other, "undisturbed") == "undisturbed"
    if resumable:
        assert await say(await service.resume(peer), "resumed", first_sequence=1) == "resumed"


async def test_a_bug_in_the_writer(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tracebacks: list[logging.LogRecord],
) -> None:
    def broken_take(outbox: Outbox[bytes], size: int, frame: int) -> tuple[int, list[bytes]]:
        return broken() if outbox.waiting else (outbox.sent + 1, [])

    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    assert await say(peer, 1, first_sequence=1) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "take", broken_take)
        await peer.send(events=[event(data="kept")], first_sequence=2)
        check_internal(await peer.status(), caplog, tracebacks)
    again = await service.resume(peer, received=1)
    assert again.resumed.received == 2
    assert value((await again.receive_commands(1))[0]) == "kept"


async def test_a_bug_while_opening(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tracebacks: list[logging.LogRecord],
) -> None:
    service = await serve({"echo": echo})
    monkeypatch.setattr(SessionManager, "open", broken)
    peer = service.attach()
    await peer.send(open=pb.Open(app="echo"))
    check_internal(await peer.status(), caplog, tracebacks)


async def test_a_bug_in_the_authentication(
    serve: Serve, caplog: pytest.LogCaptureFixture, tracebacks: list[logging.LogRecord]
) -> None:
    service = await serve({"echo": echo}, authenticate=broken)
    check_internal(await service.attach().status(), caplog, tracebacks)


async def test_a_bug_in_parse_session_info(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tracebacks: list[logging.LogRecord],
) -> None:
    service = await serve({"echo": echo})
    monkeypatch.setattr(service_module, "get_session_info_from_headers", broken)
    call = service.stub.ParseSessionInfo(info_pb2.ParseSessionInfoRequest())
    async with asyncio.timeout(PATIENCE):
        assert await call.code() is Code.INTERNAL
        assert SECRET not in (await call.details() or "")
        rich = await rpc_status.aio.from_call(call)
    info = error_details_pb2.ErrorInfo()
    assert rich is not None
    assert rich.details[0].Unpack(info)
    assert info.metadata["retry"] == "NEVER"  # there is nothing to resume
    (record,) = [record for record in caplog.records if record.exc_info]
    assert info.metadata["error_id"] in record.getMessage()
    tracebacks.append(record)
