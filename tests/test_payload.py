"""Python values to payloads and back (docs/protocol.md F4, F7): exactly, or not at all."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pb2, duration_pb2, struct_pb2, wrappers_pb2
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from session_service import CloseReason
from session_service.errors import PayloadError
from session_service.payload import (
    EncodedCommand,
    Format,
    command_encoder,
    copy_command,
    decode_command_spec,
    decode_event,
    decode_struct,
    encode_closed,
    encode_event,
    encode_struct,
)
from session_service.v1 import session_pb2 as pb

MAX_SIZE = 4_000_000
NAN = math.nan
INFINITY = math.inf

both_formats = pytest.mark.parametrize("fmt", Format)


class Colour(enum.Enum):
    RED = "red"
    NUMBER = 7
    NESTED = [1, {"a": None}]  # noqa: RUF012 # a value that could be changed is the point
    BAD = NAN
    WORSE = {1, 2}  # noqa: RUF012


class Alias(enum.Enum):
    RED = Colour.RED


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int


Pair = namedtuple("Pair", "a b")


def encode(spec: Any, fmt: Format, max_size: int = MAX_SIZE) -> EncodedCommand:
    encoded, size = command_encoder(fmt, max_size)("show", "main-1", spec)
    assert encoded.size == size
    return encoded


def commands_in(data: bytes) -> list[pb.Command]:
    return list(pb.AttachResponse.FromString(data).commands)


def echo(command: pb.Command) -> Any:
    """Return the command's payload as an app would see it, were it sent back as an event."""
    event = pb.Event(event=command.command, task_id=command.task_id)
    kind = command.WhichOneof("payload")
    if kind == "spec":
        event.data.CopyFrom(command.spec)
    elif kind == "json":
        event.json = command.json
    elif kind == "blob":
        event.blob = command.blob
    elif kind == "message":
        event.message.CopyFrom(command.message)
    received = decode_event(pb.Event.FromString(event.SerializeToString()))
    assert (received["event"], received["task_id"]) == (command.command, command.task_id)
    assert text_or_itself(decode_command_spec(command)) == text_or_itself(received["data"])
    return received["data"]


def text_or_itself(payload: Any) -> Any:
    return payload if isinstance(payload, (bytes, Message)) else text_of(payload)


def carried(spec: Any, fmt: Format) -> Any:
    (command,) = commands_in(encode(spec, fmt).data)
    return echo(command)


def fault(spec: Any, fmt: Format) -> PayloadError:
    with pytest.raises(PayloadError) as caught:
        encode(spec, fmt)
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    return caught.value


def nested(levels: int, *, mapping: bool = False) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"k": value} if mapping else [value]
    return value


def text_of(value: Any) -> str:
    """Return JSON text in which 1, 1.0 and -0.0 differ, unlike in Python's equality."""
    return json.dumps(value, sort_keys=True)


# --- commands: JSON values (F4) ---


@both_formats
@pytest.mark.parametrize(
    "spec",
    [
        None,
        True,
        False,
        0,
        -7,
        1.5,
        -1.5e-300,
        1.7976931348623157e308,
        5e-324,
        "",
        "naïve \U0001f600 \x00 \u2028",
        "null",
        "12345678901234567890",
        [],
        {},
        [[], {}, [None]],
        {"": None, "a b": [1, "2", 3.5], "nested": {"null": None}},
    ],
)
def test_a_plain_json_value_arrives_as_it_was(spec: Any, fmt: Format) -> None:
    assert text_of(carried(spec, fmt)) == text_of(spec)


def test_a_json_value_goes_out_as_spec_or_as_json_whichever_the_client_asked_for() -> None:
    (as_value,) = commands_in(encode({"a": [1]}, Format.VALUE).data)
    (as_json,) = commands_in(encode({"a": [1]}, Format.JSON).data)
    assert as_value.WhichOneof("payload") == "spec"
    assert as_json.WhichOneof("payload") == "json"
    assert as_json.json == '{"a":[1]}'


@both_formats
def test_a_command_carries_its_name_and_its_task(fmt: Format) -> None:
    (command,) = commands_in(encode(1, fmt).data)
    assert (command.command, command.task_id) == ("show", "main-1")


@pytest.mark.parametrize(
    ("number", "formats"),
    [
        (2**53, {Format.VALUE, Format.JSON}),
        (-(2**53), {Format.VALUE, Format.JSON}),
        (2**53 + 1, {Format.JSON}),
        (-(2**53) - 1, {Format.JSON}),
        (2**53 + 2, {Format.JSON}),  # a double could hold it, but who reads 2^53 + 2 cannot know that it was not + 1
        (2**63 - 1, {Format.JSON}),
        (2**63, {Format.JSON}),
        (-(2**63), {Format.JSON}),
        (2**64 - 1, {Format.JSON}),
        (-(2**63) - 1, set()),
        (2**64, set()),
        (10**30, set()),
        (-(10**100), set()),
    ],
)
@both_formats
@pytest.mark.parametrize("wrap", [lambda number: number, lambda number: {"a": [number]}], ids=["bare", "nested"])
def test_an_integer_arrives_exactly_or_is_refused(number: int, formats: set[Format], fmt: Format, wrap: Any) -> None:
    spec = wrap(number)
    if fmt in formats:
        assert text_of(carried(spec, fmt)) == text_of(spec)
    else:
        limit = "2^53" if fmt is Format.VALUE else "64 bits"
        assert f"an integer beyond {limit}" in str(fault(spec, fmt))


def test_json_keeps_floats_apart_from_integers() -> None:
    arrived = carried([1, 1.0, 2.0**53, 1e22, -0.0], Format.JSON)
    assert [type(number) for number in arrived] == [int, float, float, float, float]
    assert math.copysign(1, arrived[-1]) == -1


def test_a_whole_number_in_a_value_is_an_int_up_to_2_to_the_53_and_a_float_beyond() -> None:
    arrived = carried([1, 1.0, 2.0**53, -(2.0**53), 2.0**53 + 2, 1e22, 0.5], Format.VALUE)
    assert text_of(arrived) == text_of([1, 1, 2**53, -(2**53), 2.0**53 + 2, 1e22, 0.5])


@both_formats
@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda number: number, "spec"),
        (lambda number: [1, number], "spec[1]"),
        (lambda number: {"a": {"b": (number,)}}, "spec.a.b[0]"),
        (lambda number: ["null", None, number], "spec[2]"),
    ],
    ids=["bare", "in a list", "deep", "beside real nulls"],
)
def test_a_number_that_json_does_not_know_is_refused(number: float, wrap: Any, path: str, fmt: Format) -> None:
    assert fault(wrap(number), fmt).path == path


@both_formats
@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset(),
        datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
        datetime.date(2024, 1, 2),
        datetime.time(1, 2),
        datetime.timedelta(1),
        decimal.Decimal("1.5"),
        1j,
        Point(1),
        Pair(1, 2),
        b"bytes within a JSON value",
        bytearray(b"x"),
        memoryview(b"x"),
        range(3),
        object(),
        len,
        duration_pb2.Duration(seconds=1),
        Colour,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_json_value_is_refused_and_its_place_named(value: object, fmt: Format) -> None:
    error = fault({"items": ["x", {"it": value}]}, fmt)
    assert error.path == "spec.items[1].it"
    assert type(value).__name__ in str(error)


@both_formats
@pytest.mark.parametrize(
    "key", [1, 1.5, None, True, (1,), Colour.RED, uuid.UUID(int=1), b"k", datetime.date(2024, 1, 2)], ids=repr
)
def test_a_key_that_is_no_string_is_refused(key: object, fmt: Format) -> None:
    error = fault({"a": [{"fine": 1}, {key: 1}]}, fmt)
    assert error.path == "spec.a[1]"
    assert repr(key) in str(error)


@both_formats
def test_an_error_names_the_path_of_what_is_at_fault(fmt: Format) -> None:
    spec = {"items": [0, 1, 2, {"when": datetime.date(2024, 1, 2)}]}
    assert fault(spec, fmt).path == "spec.items[3].when"


@both_formats
def test_a_key_that_is_no_name_is_quoted_in_the_path(fmt: Format) -> None:
    assert fault({"two words": [NAN]}, fmt).path == "spec['two words'][0]"


@both_formats
def test_a_tuple_arrives_as_an_array(fmt: Format) -> None:
    assert carried((1, ("a", ()), [()]), fmt) == [1, ["a", []], [[]]]


@both_formats
@pytest.mark.parametrize(
    ("member", "value"), [(Colour.RED, "red"), (Colour.NUMBER, 7), (Colour.NESTED, [1, {"a": None}]), (Level.HIGH, 3)]
)
def test_an_enum_arrives_as_its_value(member: enum.Enum, value: Any, fmt: Format) -> None:
    assert carried({"bare": member, "listed": [member, None]}, fmt) == {"bare": value, "listed": [value, None]}


@both_formats
def test_an_enum_of_an_enum_arrives_as_the_innermost_value_whatever_stands_beside_it(fmt: Format) -> None:
    assert carried([Alias.RED], fmt) == ["red"]
    assert carried([Alias.RED, None], fmt) == ["red", None]


@both_formats
def test_an_enum_is_refused_where_its_value_would_be(fmt: Format) -> None:
    assert fault([Colour.BAD], fmt).path == "spec[0]"
    assert fault({"a": Colour.WORSE}, fmt).path == "spec.a"


@both_formats
def test_a_uuid_arrives_as_text(fmt: Format) -> None:
    value = uuid.UUID("12345678-1234-5678-1234-567812345678")
    assert carried([value, None], fmt) == [str(value), None]


@both_formats
def test_subclasses_of_the_plain_types_arrive_as_the_plain_types(fmt: Format) -> None:
    class Text(str):
        __slots__ = ()

    assert carried(OrderedDict(b=1, a=[Text("x"), None]), fmt) == {"b": 1, "a": ["x", None]}


@both_formats
@pytest.mark.parametrize(
    ("spec", "path"), [("\ud800", "spec"), (["fine", "a\udfffb"], "spec[1]"), ({"a": {"\ud800": 1}}, "spec.a")]
)
def test_a_lone_surrogate_is_refused(spec: Any, path: str, fmt: Format) -> None:
    error = fault(spec, fmt)
    assert error.path == path
    str(error).encode()


@both_formats
@pytest.mark.parametrize("name", ["\ud800", 7, None, b"\xff"])
@pytest.mark.parametrize("which", ["command", "task_id"])
def test_a_name_that_is_no_text_is_refused(name: Any, which: str, fmt: Format) -> None:
    arguments = {"command": "show", "task_id": "main-1", which: name}
    with pytest.raises(PayloadError):
        command_encoder(fmt, MAX_SIZE)(arguments["command"], arguments["task_id"], None)


# --- commands: depth, cycles, size (F7) ---


@pytest.mark.parametrize("mapping", [False, True], ids=["arrays", "objects"])
@pytest.mark.parametrize(("fmt", "deepest"), [(Format.VALUE, 30), (Format.JSON, 200)])
def test_a_value_nests_to_the_deepest_level_of_its_format_and_arrives_and_no_deeper(
    fmt: Format, deepest: int, mapping: bool
) -> None:
    assert carried(nested(deepest, mapping=mapping), fmt) == nested(deepest, mapping=mapping)
    for levels in (deepest + 1, 254, 255, 5000):
        assert f"nested deeper than {deepest} levels" in str(fault(nested(levels, mapping=mapping), fmt))


@both_formats
def test_many_arrays_side_by_side_are_not_deep(fmt: Format) -> None:
    spec: list[Any] = [[] for _ in range(1000)] + ["[[[" * 200, {"{": "}"}]
    assert carried(spec, fmt) == spec


@both_formats
def test_a_cycle_is_refused(fmt: Format) -> None:
    array: list[Any] = []
    array.append({"again": array})
    mapping: dict[str, Any] = {}
    mapping["again"] = mapping
    for spec in (array, mapping):
        assert "nested deeper" in str(fault(spec, fmt))


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


# --- commands: bytes and messages (F4) ---


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


# --- commands: taken as they stand at the call ---


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


# --- events (F4) ---


def test_an_event_arrives_with_its_name_its_task_and_its_data() -> None:
    event = pb.Event(event="say", task_id="main-1", json='"hello"')
    assert decode_event(event) == {"event": "say", "task_id": "main-1", "data": "hello"}


def test_an_absent_payload_is_null() -> None:
    assert decode_event(pb.Event(event="say")) == {"event": "say", "task_id": "", "data": None}


@pytest.mark.parametrize("value", [struct_pb2.Value(), struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)])
def test_a_value_that_says_nothing_is_null(value: struct_pb2.Value) -> None:
    assert decode_event(pb.Event(data=value))["data"] is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "nul",
        "{",
        "[1,]",
        "{'a': 1}",
        "{1: 2}",
        "01",
        "+1",
        ".5",
        "1 2",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e999",
        "[-1e999]",
        "9" * 400,
        '"\\ud800"',
        '"\x01"',
        "\ufeff1",
        "// comment\n1",
    ],
)
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(PayloadError) as caught:
        decode_event(pb.Event(json=text))
    assert caught.value.path.startswith("json")


@pytest.mark.parametrize(
    "digits", ["0", "9007199254740993", "9223372036854775808", "18446744073709551615", "-9223372036854775808"]
)
def test_an_integer_of_64_bits_in_json_is_exact(digits: str) -> None:
    assert decode_event(pb.Event(json=f'{{"a":[{digits}]}}'))["data"] == {"a": [int(digits)]}


@pytest.mark.parametrize(
    "digits", ["18446744073709551616", "-9223372036854775809", "12345678901234567890123", "-" + "1" * 21, "9" * 250]
)
@pytest.mark.parametrize("text", ["{}", "[1, {}]", '{{"a": {}, "a": 1}}'])
def test_an_integer_beyond_64_bits_in_json_is_refused(digits: str, text: str) -> None:
    with pytest.raises(PayloadError, match="beyond 64 bits"):
        decode_event(pb.Event(json=text.format(digits)))


@pytest.mark.parametrize(
    "text",
    [
        '"12345678901234567890123"',
        '{"12345678901234567890123": "-99999999999999999999"}',
        "12345678901234567890123.0",
        "1.00000000000000000000000001",
        "12345678901234567890123e2",
        '["\\"18446744073709551616", 1]',
    ],
)
def test_many_digits_are_fine_where_they_are_no_integer(text: str) -> None:
    assert decode_event(pb.Event(json=text))["data"] == json.loads(text)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"k":', "}")], ids=["arrays", "objects"])
@pytest.mark.parametrize("leaf", ["1", "1234567890123456789"], ids=["leaf", "leaf of many digits"])
def test_json_nests_to_200_levels_and_no_deeper(opening: str, closing: str, leaf: str) -> None:
    decode_event(pb.Event(json=opening * 200 + leaf + closing * 200))
    for levels in (201, 1_000, 1_025, 100_000):
        with pytest.raises(PayloadError):
            decode_event(pb.Event(json=opening * levels + leaf + closing * levels))


@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
def test_a_value_with_a_number_that_json_does_not_know_is_refused(number: float) -> None:
    value = struct_pb2.Value()
    value.struct_value.fields["a"].list_value.values.add().number_value = number
    with pytest.raises(PayloadError) as caught:
        decode_event(pb.Event(data=value))
    assert caught.value.path == "data.a[0]"


@pytest.mark.parametrize("levels", [30, 31])
def test_a_value_nests_to_30_levels_and_no_deeper(levels: int) -> None:
    value = struct_pb2.Value(number_value=1)
    for _ in range(levels):
        value = struct_pb2.Value(list_value=struct_pb2.ListValue(values=[value]))
    if levels == 30:
        assert decode_event(pb.Event(data=value))["data"] == nested(30)
    else:
        with pytest.raises(PayloadError, match="deeper than 30"):
            decode_event(pb.Event(data=value))


def test_a_message_of_a_type_that_nobody_knows_here_arrives_packed() -> None:
    packed = any_pb2.Any(type_url="type.example.org/nobody.knows.This", value=b"\xff\xff")
    data = decode_event(pb.Event(message=packed))["data"]
    assert isinstance(data, any_pb2.Any)
    assert data == packed


@pytest.mark.parametrize(
    "type_url", ["", "/", "type.googleapis.com/", "nonsense", "\x00/\x00", "x/google.protobuf.Value.kind", "x/a..b"]
)
def test_a_message_of_a_type_that_makes_no_sense_arrives_packed(type_url: str) -> None:
    packed = any_pb2.Any(type_url=type_url, value=b"\xff")
    assert decode_event(pb.Event(message=packed))["data"] == packed


def test_a_message_that_is_not_of_its_type_is_refused() -> None:
    packed = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Duration", value=b"\xff\xff")
    with pytest.raises(PayloadError, match=r"google\.protobuf\.Duration"):
        decode_event(pb.Event(message=packed))


def hostile_events() -> list[pb.Event]:
    long_key = "k" * 1_000_000
    by_key = pb.Event()
    by_key.data.struct_value.fields[long_key].number_value = NAN
    deep = "[" * 201 + "]" * 201
    return [
        by_key,
        pb.Event(json=f'{{"{long_key}":{deep}}}'),
        pb.Event(json=f'{{"{long_key} ":{deep}}}'),
        pb.Event(json="7" * 1_000_000),
        pb.Event(json=deep),
    ]


@pytest.mark.parametrize("event", hostile_events(), ids=["value", "json", "quoted", "digits", "deep"])
def test_the_error_of_a_hostile_payload_is_short_enough_for_a_status(event: pb.Event) -> None:
    # It goes out twice in the trailers of the call, of which gRPC clients accept 8 KiB.
    with pytest.raises(PayloadError) as caught:
        decode_event(event)
    assert len(str(caught.value)) <= 2_000


# --- what a client sends ---


@pytest.mark.parametrize("data", [None, 1, 1.0, 2**64 - 1, "x", [{"a": ()}], b"", b"x", duration_pb2.Duration(nanos=1)])
def test_an_event_that_a_client_sends_arrives_exactly(data: Any) -> None:
    encoded, size = encode_event("say", "main-1", data, MAX_SIZE)
    (event,) = pb.AttachRequest.FromString(encoded).events
    received = decode_event(event)
    assert size == event.ByteSize()
    assert (received["event"], received["task_id"]) == ("say", "main-1")
    assert text_or_itself(received["data"]) == text_or_itself(data)


@pytest.mark.parametrize(
    ("data", "path"), [([NAN], "data[0]"), ({"a": 2**64}, "data.a"), ({1: 2}, "data"), ("\ud800", "data")]
)
def test_an_event_that_cannot_be_carried_exactly_is_refused_before_it_is_sent_f7(data: Any, path: str) -> None:
    with pytest.raises(PayloadError) as caught:
        encode_event("say", "main-1", data, MAX_SIZE)
    assert caught.value.path == path


def test_an_event_that_is_too_deep_or_too_large_is_refused_before_it_is_sent_f7() -> None:
    encode_event("say", "", nested(200), MAX_SIZE)
    with pytest.raises(PayloadError, match="deeper than 200"):
        encode_event("say", "", nested(201), MAX_SIZE)
    _, size = encode_event("say", "", "x" * 1000, MAX_SIZE)
    assert encode_event("say", "", "x" * 1000, size)[1] == size
    with pytest.raises(PayloadError, match=f"{size} bytes, of at most {size - 1}"):
        encode_event("say", "", "x" * 1000, size - 1)


def test_encoded_events_joined_are_one_request_that_holds_them_all_in_order() -> None:
    data = [None, "one", b"two"]
    head = pb.AttachRequest(first_sequence=4, ack=2).SerializeToString()
    request = pb.AttachRequest.FromString(head + b"".join(encode_event("say", "", item, MAX_SIZE)[0] for item in data))
    assert (request.first_sequence, request.ack) == (4, 2)
    assert [decode_event(event)["data"] for event in request.events] == data


@pytest.mark.parametrize("name", ["\ud800", 7, None])
def test_an_event_whose_name_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(PayloadError):
        encode_event(name, "", None, MAX_SIZE)


# --- closed ---


@pytest.mark.parametrize("reason", CloseReason)
def test_closed_says_why_and_counts_as_a_command_e2(reason: CloseReason) -> None:
    closed = pb.AttachResponse.FromString(encode_closed(reason.name, "that is all", 7)).closed
    assert pb.CloseReason.Name(closed.reason) == f"CLOSE_REASON_{reason.name}"
    assert (closed.message, closed.sequence) == ("that is all", 7)


# --- parameters ---


def test_a_struct_is_read_as_a_value_is() -> None:
    struct = struct_pb2.Struct()
    struct.update({"whole": 3, "half": 0.5, "list": [None, True, "x"], "empty": {}})
    read = decode_struct(struct, "params")
    assert text_of(read) == text_of({"whole": 3, "half": 0.5, "list": [None, True, "x"], "empty": {}})


def test_a_fault_in_a_struct_names_the_path_from_where_it_is_called_what() -> None:
    struct = struct_pb2.Struct()
    struct.fields["a"].list_value.values.add().number_value = NAN
    with pytest.raises(PayloadError) as caught:
        decode_struct(struct, "params")
    assert caught.value.path == "params.a[0]"


def test_parameters_arrive_as_they_were() -> None:
    values = {"whole": 3, "half": 0.5, "list": [None, True, "x", (1,)], "empty": {}, "": "no name"}
    assert text_of(decode_struct(encode_struct(values, "params"), "params")) == text_of(values)


@pytest.mark.parametrize(
    ("values", "path"), [({"a": [NAN]}, "params.a[0]"), ({"a": 2**53 + 1}, "params.a"), ({1: 2}, "params")]
)
def test_parameters_that_cannot_be_carried_exactly_are_refused(values: Any, path: str) -> None:
    with pytest.raises(PayloadError) as caught:
        encode_struct(values, "params")
    assert caught.value.path == path


# --- the whole space ---

GOOD_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["null", "12345678901234567890", "[[[[{{{{" * 60, "-", "\\", '"']),
)
EDGES = st.sampled_from(
    [
        *(sign * (power + offset) for power in (2**53, 2**63, 2**64) for offset in (-1, 0, 1) for sign in (1, -1)),
        *(NAN, INFINITY, -INFINITY, "\ud800", Colour.BAD, frozenset(), b"", datetime.date(2024, 1, 2)),
    ]
)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    )


def as_read_from_a_value(value: Any) -> Any:
    """Return ``value`` as one that was carried by doubles: whole numbers within 2^53 are ints."""
    if isinstance(value, list):
        return [as_read_from_a_value(item) for item in value]
    if isinstance(value, dict):
        return {key: as_read_from_a_value(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return value


def can_be_carried(value: Any, fmt: Format) -> bool:
    """Tell what F4 says of a tree of leaves from above."""
    if isinstance(value, list):
        return all(can_be_carried(item, fmt) for item in value)
    if isinstance(value, dict):
        return all(can_be_carried(item, fmt) for item in value.values())
    if isinstance(value, str):
        return value != "\ud800"
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return abs(value) <= 2**53 if fmt is Format.VALUE else -(2**63) <= value < 2**64
    return isinstance(value, float) and math.isfinite(value)


@both_formats
@settings(max_examples=150, deadline=None)
@given(specs=st.lists(trees(GOOD_LEAVES), min_size=1, max_size=4))
def test_commands_that_can_be_carried_arrive_exactly_and_together(specs: list[Any], fmt: Format) -> None:
    commands = commands_in(b"".join(encode(spec, fmt).data for spec in specs))
    expected = specs if fmt is Format.JSON else [as_read_from_a_value(spec) for spec in specs]
    assert [text_of(echo(command)) for command in commands] == [text_of(spec) for spec in expected]


@both_formats
@settings(max_examples=150, deadline=None)
@given(spec=trees(GOOD_LEAVES | EDGES))
def test_a_command_arrives_exactly_or_is_refused_and_is_never_changed(spec: Any, fmt: Format) -> None:
    if isinstance(spec, bytes):
        assert carried(spec, fmt) == spec
    elif can_be_carried(spec, fmt):
        expected = spec if fmt is Format.JSON else as_read_from_a_value(spec)
        assert text_of(carried(spec, fmt)) == text_of(expected)
    else:
        fault(spec, fmt)


JSON_FRAGMENTS = st.sampled_from([*'[]{}:,"-.eE01 \\\x00', "12345678901234567890", "null", "true", "NaN", '"a"'])


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=20) | st.lists(JSON_FRAGMENTS, max_size=12).map("".join))
def test_whatever_text_comes_in_it_is_read_as_any_json_reader_would_or_refused(text: str) -> None:
    try:
        data = decode_event(pb.Event(json=text))["data"]
    except PayloadError:
        return
    assert data == json.loads(text)
