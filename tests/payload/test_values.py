"""Events and parameters, as an app and as a client see them (docs/protocol.md F4, F7)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import any_pb2, duration_pb2, struct_pb2

from session_service.errors import PayloadError
from session_service.payload import (
    decode_event,
    decode_struct,
    encode_event,
    encode_struct,
)
from session_service.v1 import session_pb2 as pb
from tests.payload.carried import (
    INFINITY,
    MAX_SIZE,
    NAN,
    nested,
    text_of,
    text_or_itself,
)

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
