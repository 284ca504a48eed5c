"""A command is written once, and stands as it was at the call (docs/protocol.md F4, F7, D5)."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pb2, duration_pb2, wrappers_pb2

from session_service import CloseReason
from session_service.errors import PayloadError
from session_service.payload import (
    Format,
    command_encoder,
    copy_command,
    encode_closed,
)
from session_service.v1 import session_pb2 as pb
from tests.payload.carried import (
    MAX_SIZE,
    NAN,
    Colour,
    both_formats,
    commands_in,
    echo,
    encode,
    nested,
)


@both_formats
def test_a_command_carries_its_name_and_its_task(fmt: Format) -> None:
    (command,) = commands_in(encode(1, fmt).data)
    assert (command.command, command.task_id) == ("show", "main-1")


@both_formats
@pytest.mark.parametrize("name", ["\ud800", 7, None, b"\xff"])
@pytest.mark.parametrize("which", ["command", "task_id"])
def test_a_name_that_is_no_text_is_refused(name: Any, which: str, fmt: Format) -> None:
    arguments = {"command": "show", "task_id": "main-1", which: name}
    with pytest.raises(PayloadError):
        command_encoder(fmt, MAX_SIZE)(arguments["command"], arguments["task_id"], None)


@both_formats
@pytest.mark.parametrize("spec", ["x" * 1000, b"x" * 1000, wrappers_pb2.StringValue(value="x" * 1000)], ids=type)
def test_a_command_of_exactly_the_largest_size_goes_out_and_a_larger_one_is_refused(spec: Any, fmt: Format) -> None:
    size = encode(spec, fmt).size
    assert encode(spec, fmt, max_size=size).size == size
    with pytest.raises(PayloadError, match=f"{size} bytes, of at most {size - 1}"):
        encode(spec, fmt, max_size=size - 1)


@both_formats
@pytest.mark.parametrize("spec", [None, 1, {"a": ["x" * 300]}, b"", b"x" * 70_000, duration_pb2.Duration(seconds=5)])
def test_the_size_of_a_command_is_that_of_its_encoding_d5(spec: Any, fmt: Format) -> None:
    encoded = encode(spec, fmt)
    (command,) = commands_in(encoded.data)
    assert encoded.size == command.ByteSize() == len(command.SerializeToString())


@both_formats
def test_commands_of_one_session_each_carry_their_own_name_and_task(fmt: Format) -> None:
    encode_one = command_encoder(fmt, MAX_SIZE)
    sent = [("show", "main-1"), ("show", "main-1"), ("show", "task-2"), ("hide", "task-2"), ("show", "main-1")]
    commands = commands_in(b"".join(encode_one(name, task_id, 1)[0].data for name, task_id in sent))
    assert [(command.command, command.task_id) for command in commands] == sent


@both_formats
def test_encoded_commands_joined_are_one_response_that_holds_them_all_in_order(fmt: Format) -> None:
    specs: list[Any] = [None, 1, "two", [3, {"four": 5.5}], b"six", {}]
    commands = commands_in(b"".join(encode(spec, fmt).data for spec in specs))
    assert [echo(command) for command in commands] == specs


@both_formats
def test_joined_commands_keep_what_is_joined_to_them(fmt: Format) -> None:
    rest = pb.AttachResponse(first_sequence=7, ack=3, draining=pb.Draining()).SerializeToString()
    response = pb.AttachResponse.FromString(rest + encode(1, fmt).data + encode(2, fmt).data)
    assert (response.first_sequence, response.ack, response.WhichOneof("control")) == (7, 3, "draining")
    assert [echo(command) for command in response.commands] == [1, 2]


# --- bytes and messages (F4) ---


@both_formats
@pytest.mark.parametrize("blob", [b"", b"\x00\xff", b"null"])
def test_bytes_go_out_as_they_are(blob: bytes, fmt: Format) -> None:
    (command,) = commands_in(encode(blob, fmt).data)
    assert command.WhichOneof("payload") == "blob"
    assert echo(command) == blob


@both_formats
def test_a_message_arrives_as_a_message_of_its_type(fmt: Format) -> None:
    message = duration_pb2.Duration(seconds=3, nanos=4)
    (command,) = commands_in(encode(message, fmt).data)
    assert command.message.type_url == "type.googleapis.com/google.protobuf.Duration"
    arrived = echo(command)
    assert type(arrived) is duration_pb2.Duration
    assert arrived == message


@both_formats
def test_a_message_that_is_packed_already_is_not_packed_twice(fmt: Format) -> None:
    packed = any_pb2.Any()
    packed.Pack(duration_pb2.Duration(seconds=3))
    (command,) = commands_in(encode(packed, fmt).data)
    assert command.message == packed
    assert echo(command) == duration_pb2.Duration(seconds=3)


@both_formats
def test_a_message_that_is_not_complete_is_refused(fmt: Format) -> None:
    with pytest.raises(PayloadError, match="required"):
        encode(descriptor_pb2.UninterpretedOption.NamePart(), fmt)


# --- taken as they stand at the call ---


@both_formats
def test_a_spec_is_taken_as_it_stands_at_the_call(fmt: Format) -> None:
    inner = [1]
    spec: dict[str, Any] = {"inner": inner}
    encoded = encode(spec, fmt)
    inner.append(2)
    spec["new"] = object()
    (command,) = commands_in(encoded.data)
    assert echo(command) == {"inner": [1]}


@both_formats
def test_a_message_is_taken_as_it_stands_at_the_call(fmt: Format) -> None:
    message = duration_pb2.Duration(seconds=1)
    encoded = encode(message, fmt)
    message.seconds = 2
    (command,) = commands_in(encoded.data)
    assert echo(command) == duration_pb2.Duration(seconds=1)


def test_without_a_server_a_command_is_a_copy_as_it_stands_at_the_call() -> None:
    inner = [1]
    spec: dict[str, Any] = {"inner": inner, "tuple": (1, Colour.RED)}
    message = duration_pb2.Duration(seconds=1)
    command, size = copy_command("show", "main-1", spec)
    with_message, _ = copy_command("show", "main-1", message)
    inner.append(2)
    message.seconds = 2
    assert command == {"command": "show", "task_id": "main-1", "spec": {"inner": [1], "tuple": [1, "red"]}}
    assert size == len("show") + len("main-1") + len('{"inner":[1],"tuple":[1,"red"]}')
    assert with_message["spec"] == duration_pb2.Duration(seconds=1)


def test_without_a_server_bytes_are_bytes() -> None:
    command, size = copy_command("show", "main-1", b"xyz")
    assert command == {"command": "show", "task_id": "main-1", "spec": b"xyz"}
    assert size == len("show" + "main-1" + "xyz")


@pytest.mark.parametrize(
    "spec", [NAN, [2**64], {1: 2}, {"a": {1}}, nested(201), "\ud800"], ids=lambda spec: repr(spec)[:9]
)
def test_without_a_server_a_command_is_checked_all_the_same(spec: Any) -> None:
    with pytest.raises(PayloadError):
        copy_command("show", "main-1", spec)


# --- closed ---


@pytest.mark.parametrize("reason", CloseReason)
def test_closed_says_why_and_counts_as_a_command_e2(reason: CloseReason) -> None:
    closed = pb.AttachResponse.FromString(encode_closed(reason.name, "that is all", 7)).closed
    assert pb.CloseReason.Name(closed.reason) == f"CLOSE_REASON_{reason.name}"
    assert (closed.message, closed.sequence) == ("that is all", 7)
