"""Whatever a client sends: it gets the status that docs/protocol.md has for it, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2, struct_pb2
from google.protobuf.message import DecodeError

from session_service import AbstractSession, Window
from session_service.v1 import session_pb2 as pb
from tests.session.kinds import CoroutineKind, Kind, ThreadKind, eventually

from .peer import Peer, Serve, Service, Status, event, resume_of, value

JSON = pb.PAYLOAD_FORMAT_JSON

INVALID = grpc.StatusCode.INVALID_ARGUMENT


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


@pytest.fixture
async def service(serve: Serve, kind: Kind) -> AsyncIterator[Service]:
    """A server whose app echoes, and a session on it that goes on whatever others do."""

    async def app(session: AbstractSession) -> None:
        while True:
            session.send_task_command({"command": "echo", "spec": await kind.event(session)})
            await kind.drain(session)

    service = await serve({"echo": kind.app(app)})
    bystander = await service.open("echo", resumable=True, command_format=JSON)
    await echoes(bystander, 1)
    yield service
    await echoes(bystander, 2)
    bystander.cancel()


async def echoes(peer: Peer, sequence: int) -> None:
    await peer.send(events=[event("say", sequence)], first_sequence=sequence)
    assert [value(command) for command in await peer.receive_commands(1)] == [sequence]


async def opened(service: Service) -> Peer:
    return await service.open("echo", resumable=True, command_format=JSON)


async def refusal(service: Service, **fields: Any) -> Status:
    """Return how a stream ends that begins with this request."""
    peer = service.attach()
    await peer.send(**fields)
    assert await peer.receive_all() == []
    return await peer.status()


async def answer(peer: Peer, **payload: Any) -> Status | pb.Command:
    """Send an event with this payload; return its echo, or how the stream ended instead."""
    await peer.send(events=[pb.Event(event="say", **payload)], first_sequence=1)
    responses = []
    while (response := await peer._read()) is not None:
        responses.append(response)
        if response.commands:
            [command] = response.commands
            return command
    return await peer.status()


async def is_invalid(service: Service, **payload: Any) -> None:
    """Fail unless an event with this payload is refused for it, and its session can be resumed."""
    peer = await opened(service)
    status = await answer(peer, **payload)
    assert isinstance(status, Status)
    assert (status.code, status.reason, status.retry) == (INVALID, "PAYLOAD_INVALID", "NEVER")
    assert (status.metadata["sequence"], status.metadata["received"]) == ("1", "0")
    peer = await service.resume(peer)
    await echoes(peer, 1)
    peer.cancel()


# --- requests ---------------------------------------------------------------------------------------------------------


async def test_random_bytes_are_no_request(service: Service) -> None:
    noise = random.Random(1)
    seen = set()
    for _ in range(150):
        peer = service.attach(raw=True)
        await peer.send_bytes(noise.randbytes(noise.randrange(1, 60)))
        await peer.half_close()
        status = await peer.status()
        seen.add((status.code, status.reason))
    # Some of it is a request of unknown fields, which is a heartbeat, and that comes too early.
    assert seen <= {(INVALID, "PAYLOAD_INVALID"), (INVALID, "PROTOCOL_VIOLATION")}
    assert (INVALID, "PAYLOAD_INVALID") in seen


async def test_random_bytes_in_the_middle_of_a_session_detach_it(service: Service) -> None:
    noise = random.Random(2)
    peer = await opened(service)
    for _ in range(50):
        raw = service.attach(raw=True)
        await raw.send_bytes(pb.AttachRequest(resume=resume_of(peer)).SerializeToString())
        assert (await raw.receive()).HasField("resumed")
        await raw.send_bytes(undecodable(noise))
        status = await raw.status()
        assert (status.code, status.reason) == (INVALID, "PAYLOAD_INVALID")
    await echoes(await service.resume(peer), 1)


def undecodable(noise: random.Random) -> bytes:
    """Return random bytes that are no request, not even one of unknown fields."""
    while True:
        data = noise.randbytes(noise.randrange(1, 60))
        try:
            pb.AttachRequest.FromString(data)
        except DecodeError:
            return data


async def test_a_valid_request_with_any_byte_changed_gets_an_answer(service: Service) -> None:
    noise = random.Random(3)
    good = pb.AttachRequest(
        open=pb.Open(app="echo", resumable=True, request_id="a-request-id-of-some-length"),
        events=[event("say", {"a": [1, 2.5, None]}), pb.Event(event="say", blob=b"\0\1"), event("callback")],
        first_sequence=1,
    ).SerializeToString()
    for _ in range(150):
        bad = bytearray(good)
        bad[noise.randrange(len(bad))] = noise.randrange(256)
        peer = service.attach(raw=True)
        await peer.send_bytes(bytes(bad))
        response = await peer._read()
        if response is None:
            assert (await peer.status()).reason in {
                "PAYLOAD_INVALID",
                "PROTOCOL_VIOLATION",
                "APP_NOT_FOUND",
                "SEQUENCE_GAP",
                "REQUEST_ID_REUSED",
            }
        peer.cancel()


async def test_an_empty_first_request_is_refused(service: Service) -> None:
    status = await refusal(service)
    assert (status.code, status.reason, status.retry) == (INVALID, "PROTOCOL_VIOLATION", "NEVER")


async def test_a_second_open_is_refused_and_opens_nothing(service: Service) -> None:
    before = len(service.server.manager)
    peer = await opened(service)
    await peer.send(open=pb.Open(app="echo", resumable=True))
    status = await peer.status()
    assert (status.code, status.reason, status.retry) == (INVALID, "PROTOCOL_VIOLATION", "NEVER")
    assert len(service.server.manager) == before + 1
    await echoes(await service.resume(peer), 1)


async def test_unknown_fields_and_control_parts_are_ignored(service: Service) -> None:
    unknown = b"\xc2\x3e\x03abc\xc8\x3e\x07"  # fields 1000 and 1001
    peer = service.attach(raw=True)
    await peer.send_bytes(pb.AttachRequest(open=pb.Open(app="echo", command_format=JSON)).SerializeToString() + unknown)
    assert (await peer.receive()).HasField("opened")
    await peer.send_bytes(unknown)
    await peer.send_bytes(unknown + pb.AttachRequest(events=[event("say", 1)]).SerializeToString())
    assert [value(command) for command in await peer.receive_commands(1)] == [1]
    peer.cancel()


async def test_a_message_beyond_the_limit_is_refused_by_grpc(service: Service) -> None:
    peer = await opened(service)
    await peer.send(events=[pb.Event(event="say", blob=b"x" * 10_000_000)], first_sequence=1)
    status = await peer.status()
    assert (status.code, status.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")
    await echoes(await service.resume(peer), 1)


@pytest.mark.parametrize("resumable", [True, False])
async def test_a_message_of_the_greatest_size_is_taken(service: Service, resumable: bool) -> None:
    peer = await service.open("echo", resumable=resumable)
    blob = b"x" * (peer.opened.limits.max_message_bytes - 2000)
    command = await answer(peer, blob=blob)
    assert isinstance(command, pb.Command)
    assert command.blob == blob
    peer.cancel()


async def test_ten_thousand_tiny_events_in_one_request(service: Service) -> None:
    events = [event("say", number) for number in range(10_000)]
    plain = await service.open("echo", command_format=JSON)
    await plain.send(events=events)
    await plain.half_close()
    responses = await plain.receive_all()  # P4: a plain client knows of no window
    assert [value(command) for response in responses for command in response.commands] == list(range(10_000))
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT

    peer = await opened(service)
    await peer.send(events=events, first_sequence=1)
    status = await peer.status()
    assert (status.code, status.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WINDOW_EXCEEDED")
    peer = await service.resume(peer)
    assert peer.resumed.received <= 1024


async def test_a_name_of_a_megabyte_is_refused_with_the_status_that_it_deserves(service: Service) -> None:
    """A status has to fit into the few kilobytes that HTTP/2 trailers may have."""
    long = "x" * 1_000_000
    assert (await refusal(service, open=pb.Open(app=long))).reason == "APP_NOT_FOUND"
    assert (await refusal(service, resume=pb.Resume(session_id=long, resume_token=long))).reason == "SESSION_NOT_FOUND"
    open_ = pb.Open(app="echo", resumable=True, request_id=long)
    peer = service.attach()
    await peer.send(open=open_)
    await peer.receive()
    open_.app = long
    assert (await refusal(service, open=open_)).reason == "REQUEST_ID_REUSED"
    params = struct_pb2.Struct(fields={long: struct_pb2.Value(number_value=math.nan)})
    assert (await refusal(service, open=pb.Open(app="echo", params=params))).reason == "PAYLOAD_INVALID"
    data = struct_pb2.Value(struct_value=params)
    await is_invalid(service, data=data)
    await is_invalid(service, json=long)


@pytest.mark.parametrize(
    "window",
    [
        duration_pb2.Duration(seconds=-1),
        duration_pb2.Duration(seconds=2**62, nanos=2**31 - 1),
        duration_pb2.Duration(seconds=-(2**63), nanos=-(2**31)),
        duration_pb2.Duration(nanos=-1),
    ],
)
async def test_a_resume_window_of_any_length_opens_a_session(service: Service, window: duration_pb2.Duration) -> None:
    peer = await service.open("echo", resumable=True, resume_window=window, command_format=JSON)
    assert peer.opened.limits.resume_window == duration_pb2.Duration(seconds=120)
    await echoes(peer, 1)
    peer.cancel()


# --- payloads ---------------------------------------------------------------------------------------------------------


async def test_random_text_as_json_is_taken_or_refused(service: Service) -> None:
    noise = random.Random(4)
    alphabet = '[]{}:,"\\/tfn0123456789.eE+- \n\x00\N{SNOWMAN}ulaNIy'
    peer = await opened(service)
    valid = 0
    for _ in range(150):
        text = "".join(noise.choices(alphabet, k=noise.randrange(1, 8)))
        peer = await opened(service)
        outcome = await answer(peer, json=text)
        if isinstance(outcome, Status):
            assert (outcome.code, outcome.reason) == (INVALID, "PAYLOAD_INVALID"), text
        else:
            assert value(outcome) == json.loads(text), text
            valid += 1
        peer.cancel()
    assert valid


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "nul",
        "[1,]",
        "NaN",
        "Infinity",
        "1e999",
        "-1e999",
        "1" * 100_000,
        "18446744073709551616",
        "-9223372036854775809",
        '{"a": [18446744073709551616]}',
        '"\\ud800"',
        "1 2",
        "\ufeff1",
        "[" * 1_000_000,
        '{"a":' * 100_000,
    ],
    ids=lambda text: text[:12],
)
async def test_what_is_no_json_or_cannot_be_kept_is_refused(service: Service, text: str) -> None:
    await is_invalid(service, json=text)


@pytest.mark.parametrize(("levels", "fits"), [(200, True), (201, False), (1000, False), (100_000, False)])
@pytest.mark.parametrize("shape", [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
async def test_json_nests_to_200_levels(service: Service, shape: tuple[str, str], levels: int, fits: bool) -> None:
    begin, end = shape
    text = begin * (levels - 1) + begin.rstrip('"a:') + end * levels
    if not fits:
        await is_invalid(service, json=text)
        return
    peer = await opened(service)
    command = await answer(peer, json=text)
    assert isinstance(command, pb.Command)
    assert command.json == text
    peer.cancel()


def nested(levels: int) -> bytes:
    """Return the bytes of an Event whose `data` holds lists in lists."""
    inner = b""
    for _ in range(levels):
        value = b"\x32" + varint(len(inner)) + inner  # Value.list_value
        inner = b"\x0a" + varint(len(value)) + value  # ListValue.values
    value = b"\x32" + varint(len(inner)) + inner
    return b"\x1a" + varint(len(value)) + value  # Event.data


def varint(number: int) -> bytes:
    parts = b""
    while number > 127:
        parts, number = parts + bytes([number & 127 | 128]), number >> 7
    return parts + bytes([number])


@pytest.mark.parametrize(("levels", "fits"), [(29, True), (30, False), (45, False), (1000, False), (20_000, False)])
async def test_data_nests_to_30_levels(service: Service, levels: int, fits: bool) -> None:
    peer = await opened(service)
    raw = service.attach(raw=True)
    await raw.send_bytes(pb.AttachRequest(resume=resume_of(peer)).SerializeToString())
    await raw.receive()
    deep = nested(levels)
    await raw.send_bytes(b"\x22" + varint(len(deep)) + deep + b"\x28\x01")  # events, first_sequence
    if fits:
        assert value((await raw.receive_commands(1))[0]) == json.loads("[" * (levels + 1) + "]" * (levels + 1))
    else:
        status = await raw.status()
        assert (status.code, status.reason) == (INVALID, "PAYLOAD_INVALID")
    raw.cancel()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
async def test_a_number_that_is_none_is_refused(service: Service, number: float) -> None:
    bad = struct_pb2.Value(number_value=number)
    await is_invalid(service, data=bad)
    await is_invalid(service, data=struct_pb2.Value(list_value=struct_pb2.ListValue(values=[bad])))
    params = struct_pb2.Struct(fields={"a": bad})
    status = await refusal(service, open=pb.Open(app="echo", params=params))
    assert (status.code, status.reason) == (INVALID, "PAYLOAD_INVALID")


@pytest.mark.parametrize("name", ["", "/", "x", "type.googleapis.com/", "type.googleapis.com/no.such.Type", "a/b/\0"])
async def test_a_message_of_an_unknown_type_passes_as_it_is(service: Service, name: str) -> None:
    peer = await opened(service)
    message = any_pb2.Any(type_url=name, value=b"\xff\xff")
    command = await answer(peer, message=message)
    assert isinstance(command, pb.Command)
    assert command.message == message
    peer.cancel()


async def test_a_message_that_is_not_of_its_type_is_refused(service: Service) -> None:
    name = "type.googleapis.com/google.protobuf.Duration"
    await is_invalid(service, message=any_pb2.Any(type_url=name, value=b"\xff\xff"))


# --- what does not belong here ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["say", "callback"])
@pytest.mark.parametrize("task", ["task-999", "main-0", "callback-7", "../../etc/passwd", "x" * 10_000, "\0\n"])
async def test_an_event_for_a_task_that_never_was_is_dropped(service: Service, task: str, name: str) -> None:
    peer = await opened(service)
    await peer.send(events=[event(name, 1, task_id=task), event("say", 2)], first_sequence=1)
    [command] = await peer.receive_commands(1)
    assert value(command) == 2
    await echoes(peer, 3)
    peer.cancel()


async def test_a_callback_event_without_an_id_is_for_the_main_task(service: Service) -> None:
    peer = await opened(service)
    await peer.send(events=[event("callback", 1)], first_sequence=1)
    await peer.receive_until(lambda response: response.ack == 1 or response.commands)
    peer.cancel()


@pytest.mark.parametrize("ack", [1, 2**32, 2**63, 2**64 - 1])
async def test_an_ack_from_the_future_is_refused(service: Service, ack: int) -> None:
    peer = await opened(service)
    await peer.send(ack=ack)
    status = await peer.status()
    assert (status.code, status.reason, status.retry) == (INVALID, "PROTOCOL_VIOLATION", "NEVER")
    await echoes(await service.resume(peer), 1)
    plain = await service.open("echo", command_format=JSON)
    await plain.send(ack=ack)  # where nobody acknowledges it means nothing
    await echoes(plain, 1)
    plain.cancel()


async def test_a_resume_of_garbage_finds_nothing(service: Service) -> None:
    noise = random.Random(5)
    peer = await opened(service)
    garbage = ["", "\0", "x" * 8000, "\N{SNOWMAN}", "../" * 9, "%s%n{0}", noise.randbytes(16).hex()]
    for junk in garbage:
        for resume in (
            pb.Resume(session_id=junk, resume_token=junk, received=2**64 - 1),
            resume_of(peer, resume_token=junk),
            resume_of(peer, session_id=junk),
        ):
            status = await refusal(service, resume=resume)
            assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
            assert status.retry == "REOPEN"
    await echoes(peer, 1)


# --- vanishing --------------------------------------------------------------------------------------------------------


async def test_a_call_that_is_cancelled_at_once_leaves_nothing(service: Service) -> None:
    before = len(service.server.manager)
    for _ in range(50):
        service.attach().cancel()
    peer = service.attach()
    await peer.send(open=pb.Open(app="echo"))
    peer.cancel()
    await eventually(lambda: len(service.server.manager) == before)


@pytest.mark.parametrize("resumable", [False, True])
async def test_a_storm_of_opens_that_are_cancelled_leaves_nothing(serve: Serve, kind: Kind, resumable: bool) -> None:
    async def app(session: AbstractSession) -> None:
        while True:
            session.send_task_command({"command": "echo", "spec": await kind.event(session)})

    service = await serve({"echo": kind.app(app)}, resume_window=0.2)
    bystander = await service.open("echo", resumable=True, command_format=JSON)
    await echoes(bystander, 1)
    threads, tasks = threading.active_count(), len(asyncio.all_tasks())
    active = AbstractSession.active_session_count()

    async def storm(number: int) -> None:
        peer = service.attach()
        await peer.send(open=pb.Open(app="echo", resumable=resumable), events=[event()], first_sequence=1)
        for _ in range(number % 5):
            await asyncio.sleep(0)
        peer.cancel()

    await asyncio.gather(*(storm(number) for number in range(500)))
    await eventually(lambda: len(service.server.manager) == 1)
    await eventually(lambda: AbstractSession.active_session_count() == active)
    await eventually(lambda: threading.active_count() <= threads)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    await echoes(bystander, 2)


async def test_streams_that_break_while_much_is_written_leave_nothing(serve: Serve, kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        for _ in range(1000):
            session.send_task_command({"command": "item", "spec": "x" * 10_000})
            await kind.drain(session)

    service = await serve({"app": kind.app(app)}, command_window=Window(64))

    async def one(number: int) -> None:
        peer = await service.open("app")
        for _ in range(number % 4):
            await peer.receive()
        peer.cancel()

    await asyncio.gather(*(one(number) for number in range(40)))
    await eventually(lambda: len(service.server.manager) == 0)
