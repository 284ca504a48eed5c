"""Rules F0 to F7: what a message may hold, and what its parts do."""

from __future__ import annotations

import asyncio
import datetime
import enum
import json
import math
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.internal import encoder
from google.protobuf.json_format import MessageToDict

from session_service import PayloadError, Window, get_current_session
from session_service.examples.echo import echo
from session_service.v1 import session_pb2 as pb

from .peer import PATIENCE, Peer, Serve, event, resume_of, value

JSON, VALUE = pb.PAYLOAD_FORMAT_JSON, pb.PAYLOAD_FORMAT_VALUE
MAX_BYTES = 4_000_000


async def say(peer: Peer, data: Any, **fields: Any) -> Any:
    """Have `echo` answer, in the format JSON."""
    await peer.send(events=[event("say", data)], **fields)
    (command,) = await peer.receive_commands(1)
    return value(command)


async def assert_violation(peer: Peer, about: str) -> None:
    status = await peer.status()
    assert (status.code, status.reason, status.retry) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PROTOCOL_VIOLATION",
        "NEVER",
    ), status
    assert about in status.message


def unknown_field(number: int, payload: bytes) -> bytes:
    """Return a length-delimited field as it stands on the wire."""
    tag = encoder.TagBytes(number, 2)
    return bytes(tag) + bytes([len(payload)]) + payload


# --- F0 ---------------------------------------------------------------------------------------------------------------


async def test_F0_initial_metadata_comes_before_the_client_has_sent_anything(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach()
    async with asyncio.timeout(PATIENCE):
        await peer.call.initial_metadata()


# --- F1 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        pb.AttachRequest(),
        pb.AttachRequest(ack=1),
        pb.AttachRequest(events=[pb.Event(event="say")], first_sequence=1),
        pb.AttachRequest(close=pb.Close()),
    ],
    ids=["heartbeat", "ack", "events", "close"],
)
async def test_F1_a_stream_that_begins_with_anything_but_open_or_resume_is_refused(
    serve: Serve, request_: pb.AttachRequest
) -> None:
    service = await serve({"echo": echo})
    peer = service.attach(raw=True)
    await peer.send_bytes(request_.SerializeToString())
    await assert_violation(peer, "")


async def test_F1_a_stream_that_half_closes_before_it_opens_is_refused(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach()
    await peer.half_close()
    await assert_violation(peer, "F1")


async def test_F1_the_first_request_may_hold_events_and_close_too(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach()
    await peer.send(open=pb.Open(app="echo", command_format=JSON), events=[event(data=1), event(data=2)])
    opened, *rest = await peer.receive_until(lambda response: any(value(c) == 2 for c in response.commands))
    assert opened.HasField("opened")
    assert [value(command) for response in rest for command in response.commands] == [1, 2]


async def test_F1_a_resume_may_hold_events_too(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    peer.cancel()
    again = service.attach()
    await again.send(resume=resume_of(peer), events=[event(data="early")], first_sequence=1)
    resumed = await again.receive()
    assert resumed.resumed.received == 0
    (command,) = await again.receive_commands(1)
    assert value(command) == "early"


async def test_F1_a_stream_without_a_first_request_ends_after_a_while(serve: Serve) -> None:
    service = await serve({"echo": echo}, first_request_timeout=0.05)
    status = await service.attach().status()
    assert status.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (status.reason, status.retry) == ("FIRST_REQUEST_TIMEOUT", "RESUME")


async def test_F1_the_time_limit_is_for_the_first_request_only(serve: Serve) -> None:
    service = await serve({"echo": echo}, first_request_timeout=0.3, heartbeat_interval=0.1)
    peer = await service.open("echo", command_format=JSON)
    for _ in range(5):  # half a second
        assert await peer.receive() == pb.AttachResponse()
    assert await say(peer, "still here") == "still here"


# --- F2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["open", "resume"])
async def test_F2_a_second_open_or_resume_ends_the_stream_and_the_session_lives_on_detached(
    serve: Serve, control: str
) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    assert await say(peer, 1, first_sequence=1) == 1
    await peer.send(open=pb.Open(app="echo")) if control == "open" else await peer.send(resume=resume_of(peer))
    await assert_violation(peer, "F2")
    again = await service.resume(peer, received=1)
    assert again.resumed.received == 1
    assert await say(again, 2, first_sequence=2) == 2


async def test_F2_a_resumed_stream_takes_no_second_control_part_either(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    again = await service.resume(peer)
    await again.send(resume=resume_of(peer))
    await assert_violation(again, "F2")
    assert await say(await service.resume(peer), 1, first_sequence=1) == 1


async def test_F2_a_second_open_closes_a_plain_session(serve: Serve) -> None:
    reasons: asyncio.Queue[str] = asyncio.Queue()

    async def app() -> None:
        session = get_current_session()
        session.defer_call(lambda: reasons.put_nowait(session.close_reason.name if session.close_reason else "none"))
        await session.next_client_event()

    service = await serve({"app": app})
    peer = await service.open("app")
    await peer.send(open=pb.Open(app="app"))
    await assert_violation(peer, "F2")
    async with asyncio.timeout(PATIENCE):
        assert await reasons.get() == "CLIENT"


# --- F3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])
async def test_F3_the_server_sends_an_empty_response_when_it_has_sent_nothing_for_an_interval(
    serve: Serve, resumable: bool
) -> None:
    service = await serve({"echo": echo}, heartbeat_interval=0.1)
    peer = await service.open("echo", resumable=resumable)
    assert peer.opened.limits.heartbeat_interval == duration_pb2.Duration(nanos=100_000_000)
    for _ in range(2):
        assert await peer.receive() == pb.AttachResponse()


async def test_F3_three_silent_intervals_of_a_resumable_client_break_the_stream_and_not_the_session(
    serve: Serve,
) -> None:
    service = await serve({"echo": echo}, heartbeat_interval=0.1)
    peer = await service.open("echo", resumable=True, command_format=JSON)
    status = await peer.status()
    assert (status.code, status.reason, status.retry) == (
        grpc.StatusCode.UNAVAILABLE,
        "HEARTBEAT_LOST",
        "RESUME",
    )
    assert await say(await service.resume(peer), 1, first_sequence=1) == 1


async def test_F3_an_empty_request_is_a_sign_of_life(serve: Serve) -> None:
    service = await serve({"echo": echo}, heartbeat_interval=0.2)
    peer = await service.open("echo", resumable=True, command_format=JSON)
    for _ in range(6):  # twice as long as silence is borne
        await peer.receive()
        await peer.send()
    assert await say(peer, "alive", first_sequence=1) == "alive"


async def test_F3_a_half_closed_resumable_stream_lasts_three_intervals(serve: Serve) -> None:
    service = await serve({"echo": echo}, heartbeat_interval=0.1)
    peer = await service.open("echo", resumable=True)
    await peer.half_close()
    assert (await peer.status()).reason == "HEARTBEAT_LOST"


async def test_F3_a_plain_client_may_be_silent_as_long_as_it_likes(serve: Serve) -> None:
    service = await serve({"echo": echo}, heartbeat_interval=0.05)
    peer = await service.open("echo", command_format=JSON)
    for _ in range(6):
        assert await peer.receive() == pb.AttachResponse()
    assert await say(peer, "hello again") == "hello again"


# --- F4: events -------------------------------------------------------------------------------------------------------


async def received_by_app(serve: Serve, *events: pb.Event) -> list[Any]:
    """Return what an app gets as the data of these events."""
    got: list[Any] = []

    async def app() -> None:
        session = get_current_session()
        for _ in events:
            got.append((await session.next_client_event())["data"])

    service = await serve({"app": app})
    peer = await service.open("app")
    await peer.send(events=events)
    assert (await peer.receive_all())[-1].closed.reason == pb.CLOSE_REASON_COMPLETED
    return got


async def refused(serve: Serve, bad: pb.Event) -> str:
    """Have an event refused as the second of a batch, and return the message of the status."""
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=[event("say", "good"), bad, event("say", "never")], first_sequence=1)
    status = await peer.status()
    assert (status.code, status.reason, status.retry) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PAYLOAD_INVALID",
        "NEVER",
    ), status
    assert status.metadata == {"sequence": "2", "received": "1"}
    again = await service.resume(peer)
    assert again.resumed.received == 1  # what came before it was taken, and it was not
    assert await say(again, "next", first_sequence=2) == "good"
    return status.message


def data_value(payload: Any) -> struct_pb2.Value:
    made = struct_pb2.ListValue()
    made.append(payload)
    return made.values[0]


async def test_F4_data_and_json_are_the_same_thing_in_two_encodings(serve: Serve) -> None:
    document = {"text": "grüße", "yes": True, "no": False, "nothing": None, "list": [1, 2.5, "x", []], "object": {}}
    got = await received_by_app(serve, pb.Event(data=data_value(document)), pb.Event(json=json.dumps(document)))
    assert got == [document, document]
    assert [type(item) for item in got[0]["list"]] == [type(item) for item in got[1]["list"]] == [int, float, str, list]


async def test_F4_blob_is_bytes_and_an_absent_payload_is_null(serve: Serve) -> None:
    blob = bytes(range(256))
    got = await received_by_app(
        serve, pb.Event(blob=blob), pb.Event(blob=b""), pb.Event(), pb.Event(data=struct_pb2.Value())
    )
    assert got == [blob, b"", None, None]


async def test_F4_message_arrives_as_the_typed_message_where_the_type_is_known_and_else_as_it_is(serve: Serve) -> None:
    known, unknown = timestamp_pb2.Timestamp(seconds=7), any_pb2.Any(type_url="example.org/no.Such", value=b"\xff")
    packed = any_pb2.Any()
    packed.Pack(known)
    assert await received_by_app(serve, pb.Event(message=packed), pb.Event(message=unknown)) == [known, unknown]


async def test_F4_json_keeps_integers_of_64_bits_and_tells_floats_from_integers(serve: Serve) -> None:
    numbers = [2**64 - 1, -(2**63), 2**53 + 1, 1, 1.0, -0.0, 1e300, 0.1]
    (got,) = await received_by_app(serve, pb.Event(json=json.dumps(numbers)))
    assert [repr(number) for number in got] == [repr(number) for number in numbers]


async def test_F4_a_whole_number_within_2_53_in_data_is_an_int_and_any_other_a_float(serve: Serve) -> None:
    numbers = [3.0, -(2.0**53), 2.0**53, 2.0**53 + 2, 2.5, 1e300]
    (got,) = await received_by_app(serve, pb.Event(data=data_value(numbers)))
    assert [repr(number) for number in got] == ["3", str(-(2**53)), str(2**53), "9007199254740994.0", "2.5", "1e+300"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,]",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e400",
        "[-1e999]",
        str(2**64),
        f'{{"a": [{-(2**63) - 1}]}}',
        "9" * 5000,
        '"\\ud800"',
        "1 2",
        "nul",
    ],
)
async def test_F4_json_that_is_none_or_not_exact_is_refused_with_its_sequence(serve: Serve, text: str) -> None:
    await refused(serve, pb.Event(event="say", json=text))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
async def test_F4_data_that_is_no_number_is_refused_with_its_sequence(serve: Serve, number: float) -> None:
    nested = struct_pb2.Value(list_value=struct_pb2.ListValue(values=[struct_pb2.Value(number_value=number)]))
    assert "data[0]" in await refused(serve, pb.Event(event="say", data=nested))


async def test_F4_bytes_that_are_not_of_the_type_that_an_any_names_are_refused(serve: Serve) -> None:
    lie = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Timestamp", value=b"\xff\xff")
    await refused(serve, pb.Event(event="say", message=lie))


@pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])
async def test_F4_a_payload_that_is_refused_in_the_first_request_is_refused_alike(
    serve: Serve, resumable: bool
) -> None:
    service = await serve({"echo": echo})
    peer = service.attach()
    await peer.send(open=pb.Open(app="echo", resumable=resumable), events=[pb.Event(json="{")], first_sequence=1)
    status = await peer.status()
    assert (status.reason, status.metadata["sequence"]) == ("PAYLOAD_INVALID", "1")


async def test_F4_parameters_follow_the_rules_of_data_and_refused_ones_open_nothing(serve: Serve) -> None:
    got: list[Any] = []

    async def app() -> None:
        got.append(dict(get_current_session().params))

    service = await serve({"app": app})
    params = struct_pb2.Struct()
    params.update({"name": "Ada", "age": 36, "tags": ["a", None], "half": 0.5})
    peer = await service.open("app", params=params)
    assert (await peer.receive_all())[-1].closed.reason == pb.CLOSE_REASON_COMPLETED
    assert got == [{"name": "Ada", "age": 36, "tags": ["a", None], "half": 0.5}]
    assert type(got[0]["age"]) is int

    params.fields["age"].number_value = math.nan
    peer = service.attach()
    await peer.send(open=pb.Open(app="app", params=params, resumable=True))
    status = await peer.status()
    assert (status.code, status.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_INVALID")
    assert "params.age" in status.message
    assert len(service.server.manager) == 0
    assert len(got) == 1


# --- F4: commands -----------------------------------------------------------------------------------------------------


async def commands_of(serve: Serve, specs: list[Any], command_format: int) -> list[pb.Command]:
    """Return the commands that an app sends with these specs."""

    async def app() -> None:
        for spec in specs:
            get_current_session().send_task_command({"command": "show", "spec": spec})

    service = await serve({"app": app})
    peer = await service.open("app", command_format=command_format)
    responses = await peer.receive_all()
    assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED
    return [command for response in responses for command in response.commands]


class Colour(enum.Enum):
    RED = "red"


PLAIN_VALUES: list[Any] = [None, True, False, 0, -7, 2**53, 2.5, 1e300, "", "grüße", [], {}, [1, [2, {"a": None}]]]


async def test_F4_json_values_go_out_as_spec_where_the_client_asked_for_value(serve: Serve) -> None:
    commands = await commands_of(serve, PLAIN_VALUES, VALUE)
    assert {command.WhichOneof("payload") for command in commands} == {"spec"}
    assert [MessageToDict(command.spec) for command in commands] == PLAIN_VALUES


async def test_F4_an_unspecified_format_is_value(serve: Serve) -> None:
    (command,) = await commands_of(serve, ["hello"], pb.PAYLOAD_FORMAT_UNSPECIFIED)
    assert command.spec.string_value == "hello"


async def test_F4_json_values_go_out_as_text_where_the_client_asked_for_json(serve: Serve) -> None:
    values = [*PLAIN_VALUES, 2**64 - 1, -(2**63), 1, 1.0]
    commands = await commands_of(serve, values, JSON)
    assert [repr(value(command)) for command in commands] == [repr(item) for item in values]


@pytest.mark.parametrize("command_format", [VALUE, JSON])
async def test_F4_bytes_and_messages_go_out_as_they_are_in_either_format(serve: Serve, command_format: int) -> None:
    message, packed = timestamp_pb2.Timestamp(seconds=7), any_pb2.Any()
    packed.Pack(message)
    commands = await commands_of(serve, [b"\x00\xff", b"", message, packed], command_format)
    assert [command.WhichOneof("payload") for command in commands] == ["blob", "blob", "message", "message"]
    assert [command.blob for command in commands[:2]] == [b"\x00\xff", b""]
    assert [command.message for command in commands[2:]] == [packed, packed]


@pytest.mark.parametrize("command_format", [VALUE, JSON])
async def test_F4_a_tuple_an_enum_and_a_uuid_go_out_as_array_value_and_text(serve: Serve, command_format: int) -> None:
    name = uuid.UUID(int=7)
    (command,) = await commands_of(serve, [{"all": [(1, 2), Colour.RED, name]}], command_format)
    got = MessageToDict(command.spec) if command_format == VALUE else value(command)
    assert got == {"all": [[1, 2], "red", str(name)]}


@pytest.mark.parametrize(
    ("command_format", "bad", "path"),
    [
        (VALUE, math.nan, "spec"),
        (JSON, {"a": [0, math.inf]}, "spec.a[1]"),
        (VALUE, {"a": {1, 2}}, "spec.a"),
        (JSON, [datetime.datetime(2026, 1, 1)], "spec[0]"),
        (VALUE, {"a": {7: "x"}}, "spec.a"),
        (VALUE, [2**53 + 1], "spec[0]"),
        (VALUE, -(2**53) - 1, "spec"),
        (JSON, 2**64, "spec"),
        (JSON, -(2**63) - 1, "spec"),
        pytest.param(JSON, object(), "spec", id="object"),
        (JSON, "\ud800", "spec"),
    ],
    ids=repr,
)
async def test_F4_what_the_format_cannot_carry_is_refused_at_the_call_and_the_session_goes_on(
    serve: Serve, command_format: int, bad: Any, path: str
) -> None:
    paths: list[str] = []

    async def app() -> None:
        session = get_current_session()
        with pytest.raises(PayloadError) as caught:
            session.send_task_command({"command": "bad", "spec": bad})
        paths.append(caught.value.path)
        session.send_task_command({"command": "good"})

    service = await serve({"app": app})
    peer = await service.open("app", command_format=command_format)
    responses = await peer.receive_all()
    assert [command.command for response in responses for command in response.commands] == ["good"]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED
    assert paths == [path]


# --- F5 ---------------------------------------------------------------------------------------------------------------


async def test_F5_an_event_without_a_task_id_is_for_the_main_task_and_others_for_the_task_they_name(
    serve: Serve,
) -> None:
    async def app() -> None:
        session = get_current_session()

        async def ask() -> None:
            session.send_task_command({"command": "ask"})
            session.send_task_command({"command": "told", "spec": (await session.next_client_event())["data"]})

        session.run_task(ask)
        session.send_task_command({"command": "main"})
        session.send_task_command({"command": "main told", "spec": (await session.next_client_event())["data"]})

    service = await serve({"app": app})
    peer = await service.open("app", command_format=JSON)
    tasks = {command.command: command.task_id for command in await peer.receive_commands(2)}
    assert tasks["ask"].startswith("task-")
    assert tasks["main"].startswith("main-")
    await peer.send(events=[event(data="for the task", task_id=tasks["ask"]), event(data="for main")])
    told = {command.command: (command.task_id, value(command)) for command in await peer.receive_commands(2)}
    assert told == {"told": (tasks["ask"], "for the task"), "main told": (tasks["main"], "for main")}


async def test_F5_an_event_for_a_task_that_never_was_or_has_ended_is_taken_over_and_dropped(serve: Serve) -> None:
    sessions: list[Any] = []

    async def app() -> None:
        session = get_current_session()
        sessions.append(session)

        async def short() -> None:
            session.send_task_command({"command": "short"})

        session.run_task(short)
        session.send_task_command({"command": "got", "spec": (await session.next_client_event())["data"]})

    service = await serve({"app": app})
    peer = await service.open("app", resumable=True, command_format=JSON)
    (short,) = await peer.receive_commands(1)
    lost = [event(data=1, task_id="main-99"), event(data=2, task_id=short.task_id), event("callback", 3, task_id="cb")]
    await peer.send(events=[*lost, event(data="mine")], first_sequence=1)
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert [value(command) for response in responses for command in response.commands] == ["mine"]
    assert max(response.ack for response in responses) == 4
    assert sessions[0].dropped == 3


async def test_F5_a_callback_event_runs_that_callback_with_the_payload(serve: Serve) -> None:
    async def app() -> None:
        session = get_current_session()

        async def clicked(data: Any) -> None:
            answer = await session.next_client_event()
            session.send_task_command({"command": "clicked", "spec": [data, answer["data"]]})

        def typed(data: Any) -> None:
            session.send_task_command({"command": "typed", "spec": data})

        ids = [session.register_callback(clicked), session.register_callback(typed)]
        session.send_task_command({"command": "ids", "spec": ids})

    service = await serve({"app": app})
    peer = await service.open("app", command_format=JSON)
    clicked, typed = value((await peer.receive_commands(1))[0])
    assert clicked.startswith("callback-")
    await peer.send(events=[event("callback", {"n": 1}, task_id=typed)])
    (command,) = await peer.receive_commands(1)
    assert (command.command, value(command)) == ("typed", {"n": 1})
    assert command.task_id.startswith(typed)


# --- F6 ---------------------------------------------------------------------------------------------------------------


async def test_F6_an_ack_takes_effect_before_the_events_beside_it(serve: Serve) -> None:
    """A violation by the ack, in a request whose events would have been taken."""
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True)
    await peer.send(ack=5, events=[event(data=1)], first_sequence=1)
    await assert_violation(peer, "ack 5")
    assert (await service.resume(peer)).resumed.received == 0


async def test_F6_an_ack_takes_effect_before_open_so_one_of_a_session_that_is_not_there_opens_none(
    serve: Serve,
) -> None:
    runs: list[str] = []

    async def app() -> None:
        runs.append(get_current_session().id)
        await get_current_session().next_client_event()

    service = await serve({"app": app})
    peer = service.attach()
    await peer.send(open=pb.Open(app="app", resumable=True), ack=1)
    await assert_violation(peer, "ack 1")
    assert (runs, len(service.server.manager)) == ([], 0)


async def test_F6_an_ack_takes_effect_before_resume_and_one_that_is_refused_fences_nobody(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    assert await say(peer, 1, first_sequence=1) == 1
    again = service.attach()
    await again.send(resume=resume_of(peer, received=1), ack=2)
    await assert_violation(again, "ack 2")
    assert await say(peer, 2, first_sequence=2) == 2


async def test_F6_an_ack_beside_resume_acknowledges(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    assert [await say(peer, n, first_sequence=n) for n in (1, 2, 3)] == [1, 2, 3]
    peer.cancel()
    again = service.attach()
    await again.send(resume=resume_of(peer, received=2), ack=2)
    assert (await again.receive()).resumed.received == 3
    assert [value(command) for command in await again.receive_commands(1)] == [3]
    impossible = service.attach()
    await impossible.send(resume=resume_of(peer, received=1))
    status = await impossible.status()
    assert (status.reason, status.metadata["acked"]) == ("RESUME_IMPOSSIBLE", "2")


async def test_F6_events_take_effect_before_the_close_beside_them(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach()
    await peer.send(
        open=pb.Open(app="echo", command_format=JSON, resumable=True),
        events=[event(data="last words")],
        first_sequence=1,
    )
    assert (await peer.receive()).HasField("opened")
    await peer.send(events=[event(data="and more")], first_sequence=2, close=pb.Close())
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert [value(c) for response in responses for c in response.commands] == ["last words", "and more"]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT


async def test_F6_an_ack_of_0_or_lower_than_before_is_ignored(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    assert [await say(peer, n, first_sequence=n) for n in (1, 2, 3)] == [1, 2, 3]
    await peer.send(ack=2)
    await peer.send(ack=0)
    await peer.send(ack=1)
    assert await say(peer, 4, first_sequence=4) == 4
    peer.cancel()
    again = await service.resume(peer, received=2)  # 2 is still what was acknowledged
    assert [value(command) for command in await again.receive_commands(2)] == [3, 4]


async def test_F6_events_of_a_resumable_session_without_first_sequence_are_refused(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=[event(data=1)])
    await assert_violation(peer, "first_sequence")
    again = await service.resume(peer)
    assert again.resumed.received == 0
    assert await say(again, "with one", first_sequence=1) == "with one"


async def test_F6_unknown_fields_and_control_parts_are_ignored(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach(raw=True)
    future = unknown_field(99, b"what is to come")
    opened = pb.AttachRequest(open=pb.Open(app="echo", command_format=JSON))
    opened.open.MergeFromString(future)
    await peer.send_bytes(future + opened.SerializeToString() + future)
    assert (await peer.receive()).HasField("opened")
    await peer.send_bytes(unknown_field(15, b"a control part"))
    said = event(data="heard")
    said.MergeFromString(future)
    await peer.send_bytes(pb.AttachRequest(events=[said]).SerializeToString() + future)
    (command,) = await peer.receive_commands(1)
    assert value(command) == "heard"


async def test_F6_an_unknown_control_part_is_no_open(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = service.attach(raw=True)
    await peer.send_bytes(unknown_field(15, b"reopen"))
    await assert_violation(peer, "F1")


async def test_F6_close_waits_its_turn_behind_events_that_are_not_yet_taken_over(serve: Serve) -> None:
    go = asyncio.Event()

    async def app() -> None:
        session = get_current_session()
        await go.wait()
        while True:
            session.send_task_command({"command": "got", "spec": (await session.next_client_event())["data"]})
            await session.drain()

    service = await serve({"app": app}, event_window=Window(16, 1 << 20))
    peer = await service.open("app", resumable=True, command_format=JSON)
    await peer.send(events=[event(data=n) for n in range(1, 17)], first_sequence=1)
    await peer.receive_until(lambda response: response.ack == 16)  # the mailbox is full
    await peer.send(events=[event(data=n) for n in range(17, 27)], first_sequence=17, close=pb.Close())
    await peer.send(ack=0)
    go.set()
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert [value(c) for response in responses for c in response.commands] == list(range(1, 27))
    assert max(response.ack for response in responses) == 26
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT


async def test_F6_close_now_acts_when_it_is_read_and_events_not_taken_over_stay_unacknowledged(serve: Serve) -> None:
    async def app() -> None:
        await asyncio.Event().wait()

    service = await serve({"app": app}, event_window=Window(16, 1 << 20))
    peer = await service.open("app", resumable=True)
    await peer.send(events=[event(data=n) for n in range(1, 17)], first_sequence=1)
    await peer.receive_until(lambda response: response.ack == 16)  # the mailbox is full
    await peer.send(events=[event(data=n) for n in range(17, 27)], first_sequence=17, close=pb.Close(now=True))
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT
    assert {response.ack for response in responses} <= {0, 16}
    assert (await service.resume(peer)).resumed.received == 16


async def test_F6_events_after_close_are_ignored(serve: Serve) -> None:
    async def app() -> None:
        session = get_current_session()
        got = []
        try:
            while True:
                got.append((await session.next_client_event())["data"])
        finally:
            session.send_task_command({"command": "got", "spec": got})

    service = await serve({"app": app})
    peer = await service.open("app", resumable=True, command_format=JSON)
    await peer.send(events=[event(data=1)], first_sequence=1, close=pb.Close())
    await peer.send(events=[event(data=2)], first_sequence=2)
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert [value(c) for response in responses for c in response.commands] == [[1]]
    assert max(response.ack for response in responses) == 1
    assert (await service.resume(peer)).resumed.received == 1


async def test_F6_in_responses_the_control_part_that_opens_comes_before_commands_and_closed_after_them(
    serve: Serve,
) -> None:
    async def app() -> None:
        session = get_current_session()
        for n in range(100):
            session.send_task_command({"command": "count", "spec": n})

    service = await serve({"app": app})
    peer = service.attach()
    await peer.send(open=pb.Open(app="app", resumable=True, command_format=JSON))
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert responses[0].HasField("opened")
    assert [r.WhichOneof("control") for r in responses if r.HasField("opened") or r.HasField("closed")] == [
        "opened",
        "closed",
    ]
    assert [value(c) for response in responses for c in response.commands] == list(range(100))


# --- F7 ---------------------------------------------------------------------------------------------------------------


async def test_F7_a_request_of_10_megabytes_ends_its_stream_and_other_sessions_go_on(serve: Serve) -> None:
    service = await serve({"echo": echo})
    other = await service.open("echo", command_format=JSON)
    peer = await service.open("echo", resumable=True, command_format=JSON)
    assert peer.opened.limits.max_message_bytes == MAX_BYTES
    await peer.send(events=[pb.Event(blob=bytes(10_000_000))], first_sequence=1)
    status = await peer.status()
    assert (status.code, status.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")
    assert await say(other, "going on") == "going on"
    again = await service.resume(peer)
    assert again.resumed.received == 0
    assert await say(again, "mine, too", first_sequence=1) == "mine, too"


async def test_F7_a_request_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(serve: Serve) -> None:
    async def app() -> None:
        session = get_current_session()
        while True:
            session.send_task_command({"command": "size", "spec": len((await session.next_client_event())["data"])})

    service = await serve({"app": app}, max_message_bytes=100_000)
    peer = await service.open("app", command_format=JSON)
    assert peer.opened.limits.max_message_bytes == 100_000
    overhead = pb.AttachRequest(events=[pb.Event(blob=bytes(99_000))]).ByteSize() - 99_000
    await peer.send(events=[pb.Event(blob=bytes(100_000 - overhead))])
    (command,) = await peer.receive_commands(1)
    assert value(command) == 100_000 - overhead
    await peer.send(events=[pb.Event(blob=bytes(100_001 - overhead))])
    assert (await peer.status()).code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])
async def test_F7_a_command_too_large_is_a_payload_error_at_the_call_and_the_largest_that_is_not_arrives(
    serve: Serve, resumable: bool
) -> None:
    limit = 65_536
    sent: list[int] = []

    async def app() -> None:
        session = get_current_session()
        size = limit
        while not sent:
            try:
                session.send_task_command({"command": "blob", "spec": bytes(size)})
                sent.append(size)
            except PayloadError:
                size -= 1

    service = await serve({"app": app}, max_message_bytes=limit)
    peer = await service.open("app", resumable=resumable)
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert [len(command.blob) for response in responses for command in response.commands] == sent
    assert max(response.ByteSize() for response in responses) <= limit
    assert limit * 0.98 < sent[0] < limit


async def test_F7_batches_of_commands_are_cut_at_about_256_kib_and_a_larger_one_goes_alone(serve: Serve) -> None:
    sizes = [10_000] * 100 + [700_000] + [10_000] * 10

    async def app() -> None:
        for size in sizes:
            get_current_session().send_task_command({"command": "blob", "spec": bytes(size)})

    service = await serve({"app": app}, command_window=Window(1024, 4 << 20))
    peer = await service.open("app")
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    batches = [[len(command.blob) for command in response.commands] for response in responses if response.commands]
    assert [size for batch in batches for size in batch] == sizes
    assert [700_000] in batches
    small = [sum(batch) for batch in batches if batch != [700_000]]
    assert max(small) <= 256 * 1024
    assert max(small) > 128 * 1024  # they are batches


@pytest.mark.parametrize("size", [0, 10, 10_000, 60_000])
@pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])
async def test_F7_no_batch_of_commands_is_larger_than_a_message_may_be(
    serve: Serve, size: int, resumable: bool
) -> None:
    limit = 65_536
    count = min(20_000, 1_000_000 // (size + 10))

    async def app() -> None:
        for _ in range(count):
            get_current_session().send_task_command({"command": "", "spec": bytes(size)})

    service = await serve({"app": app}, max_message_bytes=limit, command_window=Window(100_000, 4 << 20))
    peer = await service.open("app", resumable=resumable)
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert sum(len(response.commands) for response in responses) == count
    assert max(response.ByteSize() for response in responses) <= limit


def nested(depth: int) -> Any:
    made: Any = []
    for _ in range(depth - 1):
        made = [made]
    return made


@pytest.mark.parametrize(("command_format", "most"), [(VALUE, 30), (JSON, 200)], ids=["value", "json"])
async def test_F7_a_command_nests_as_deep_as_its_format_can_and_no_deeper(
    serve: Serve, command_format: int, most: int
) -> None:
    async def app() -> None:
        session = get_current_session()
        with pytest.raises(PayloadError, match="deep"):
            session.send_task_command({"command": "deep", "spec": nested(most + 1)})
        session.send_task_command({"command": "deep", "spec": nested(most)})

    service = await serve({"app": app})
    peer = await service.open("app", command_format=command_format)
    responses = await peer.receive_all()
    (command,) = [command for response in responses for command in response.commands]
    assert (MessageToDict(command.spec) if command_format == VALUE else value(command)) == nested(most)
    assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED


async def test_F7_events_nest_as_deep_as_their_format_can(serve: Serve) -> None:
    deep = [pb.Event(data=data_value(nested(30))), pb.Event(json=json.dumps(nested(200)))]
    assert await received_by_app(serve, *deep) == [nested(30), nested(200)]


@pytest.mark.parametrize("payload", ["data", "json"])
async def test_F7_an_event_that_nests_deeper_is_refused(serve: Serve, payload: str) -> None:
    bad = pb.Event(data=data_value(nested(31))) if payload == "data" else pb.Event(json="[" * 201 + "]" * 201)
    assert "deeper" in await refused(serve, bad)


@pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])
async def test_F7_closed_fits_too_whatever_reason_the_client_gave(serve: Serve, resumable: bool) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=resumable)
    close = pb.AttachRequest(close=pb.Close(now=True, reason="x" * (MAX_BYTES - 12)))
    assert close.ByteSize() == MAX_BYTES
    await peer.send(close=close.close)
    await peer.half_close()
    responses = await peer.receive_all()
    assert (await peer.status()).code is grpc.StatusCode.OK
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT
    assert responses[-1].ByteSize() <= MAX_BYTES
