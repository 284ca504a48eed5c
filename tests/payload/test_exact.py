"""Values arrive exactly, or not at all (docs/protocol.md F4, F7)."""

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
from google.protobuf import duration_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from session_service.errors import PayloadError
from session_service.payload import (
    Format,
    decode_event,
)
from session_service.v1 import session_pb2 as pb
from tests.payload.carried import (
    INFINITY,
    NAN,
    Colour,
    both_formats,
    carried,
    commands_in,
    echo,
    encode,
    fault,
    nested,
    text_of,
)


class Alias(enum.Enum):
    RED = Colour.RED


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int


Pair = namedtuple("Pair", "a b")


# --- JSON values (F4) ---


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
def test_a_subclass_of_float_is_refused_for_it_may_say_another_number(fmt: Format) -> None:
    class Metres(float):
        pass

    assert "Metres" in str(fault({"height": Metres(1.5)}, fmt))


@both_formats
@pytest.mark.parametrize(
    ("spec", "path"), [("\ud800", "spec"), (["fine", "a\udfffb"], "spec[1]"), ({"a": {"\ud800": 1}}, "spec.a")]
)
def test_a_lone_surrogate_is_refused(spec: Any, path: str, fmt: Format) -> None:
    error = fault(spec, fmt)
    assert error.path == path
    str(error).encode()


# --- depth, cycles (F7) ---


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
