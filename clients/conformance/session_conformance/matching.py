"""Messages as data: literals to make them from, and patterns that they match or not.

Both are what protobuf's JSON makes of a message, as YAML: field names in either spelling, enum values by name, 64-bit
integers as numbers or text, durations as ``0.3s``, bytes in base64 or as YAML's ``!!binary``. A pattern is partial: of
a message and of a map it names what must be there, of a list it has every element. What a field holds is matched by

- a value, which must be equal; ``null`` where the field must be absent, or its default;
- ``{$as: name}``: the first one is kept under this name, all later ones must be equal to it. In a literal it stands for
  what was kept;
- ``{$any: true}``: anything but the default;
- ``{$not: pattern}``, ``{$at_least: number}``, ``{$at_most: number}``;
- ``{$json: value}``: a text that is JSON for this value.

Where a message has a payload, ``value`` stands for the JSON value in it, in whichever of the encodings it is; in a
literal it is sent as ``json``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf import (
    duration_pb2,
    json_format,
    message_factory,
    wrappers_pb2,  # noqa: F401  # so that literals of Any may hold them
)
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from .cases import CaseError

__all__ = ["Bindings", "differences", "fill", "is_json_value", "json_payload", "show"]

Bindings = dict[str, Any]
"""What ``$as`` has kept."""

M = TypeVar("M", bound=Message)

_ABSENT = object()
_WELL_KNOWN = {f"google.protobuf.{name}" for name in ("Duration", "Timestamp", "Struct", "Value", "ListValue")}


def differences(message: Message, pattern: Any, bindings: Bindings | None = None, where: str = "") -> list[str]:
    """Return where a message differs from a pattern, a line for each; nothing where it matches.

    Args:
        message: what came.
        pattern: what it should be.
        bindings: gets what ``$as`` keeps, even where the rest does not match.
        where: the path of the message, for the lines.

    Raises:
        CaseError: the pattern is none for such a message.
    """
    bindings = {} if bindings is None else bindings
    if _operator(pattern):
        return _operate(message, pattern, bindings, where)
    if not isinstance(pattern, Mapping):
        raise CaseError(f"{where or message.DESCRIPTOR.name}: a message is matched by a mapping, not by {pattern!r}")
    lines = []
    for name, wanted in pattern.items():
        path = f"{where}.{name}" if where else str(name)
        if name == "value" and _field(message, "value") is None and "payload" in message.DESCRIPTOR.oneofs_by_name:
            lines += _match_json(json_payload(message), wanted, bindings, path)
            continue
        field = _field(message, name)
        if field is None:
            raise CaseError(f"{path}: {message.DESCRIPTOR.name} has no such field")
        lines += _match_field(message, field, wanted, bindings, path)
    return lines


def fill(message: M, literal: Any, bindings: Bindings | None = None) -> M:
    """Set a message's fields from a literal, and return it.

    Raises:
        CaseError: the literal is none for such a message.
    """
    try:
        return json_format.ParseDict(_payloads(message, _bound(literal or {}, bindings or {})), message)
    except (json_format.ParseError, TypeError) as error:
        raise CaseError(f"no {message.DESCRIPTOR.name}: {error}") from error


def json_payload(message: Message) -> Any:
    """Return the JSON value that an Event, Command or the like holds; a bytes or message payload matches no value."""
    kind = message.WhichOneof("payload")
    if kind is None:
        return None
    payload = getattr(message, kind)
    if kind == "json":
        return _parse(payload)
    if kind in ("data", "spec"):
        return json_format.MessageToDict(payload)
    return _ABSENT


def is_json_value(value: Any, wanted: Any) -> bool:
    """Tell whether two JSON values are the same, as exactly as every language can tell: 1 is 1.0, but not true."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, dict) and isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(is_json_value(value[key], wanted[key]) for key in wanted)
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(is_json_value, value, wanted))
    return type(value) is not object and bool(value == wanted)


def show(message: Message) -> str:
    """Return a message on one line, for people."""
    try:
        text = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)
    except (TypeError, DecodeError, json_format.Error):  # an Any that cannot be shown, a NaN
        text = str(message).replace("\n", " ")
    return f"{text[:400]}... ({len(text)} characters)" if len(text) > 500 else text


# --- patterns ---------------------------------------------------------------------------------------------------------


def _field(message: Message, name: str) -> FieldDescriptor | None:
    descriptor: Any = message.DESCRIPTOR  # whose stubs know two classes of fields
    field: FieldDescriptor | None = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
    return field


def _match_field(message: Message, field: FieldDescriptor, wanted: Any, bindings: Bindings, path: str) -> list[str]:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if wanted is None:
            return [f"{path}: is there"] if value else []
        return [
            line
            for key, pattern in wanted.items()
            for line in (
                _match_value(field, value[key], pattern, bindings, f"{path}.{key}")
                if key in value
                else ([] if pattern is None else [f"{path}.{key}: is not there, expected {pattern!r}"])
            )
        ]
    if field.is_repeated:
        if _operator(wanted):
            return _operate(list(value), wanted, bindings, path)
        wanted = wanted or []
        if len(value) != len(wanted):
            return [f"{path}: {len(value)} elements, expected {len(wanted)}"]
        return [
            line
            for index, (item, pattern) in enumerate(zip(value, wanted, strict=True))
            for line in _match_value(field, item, pattern, bindings, f"{path}[{index}]")
        ]
    there = message.HasField(field.name) if field.has_presence else value != field.default_value
    if wanted is None:
        return [f"{path}: is there: {_text(value)}"] if there else []
    if field.has_presence and not there:
        if _operator(wanted) == "$not":
            return []
        return [f"{path}: is not there, expected {wanted!r}"]
    return _match_value(field, value, wanted, bindings, path)


def _match_value(field: FieldDescriptor, value: Any, wanted: Any, bindings: Bindings, path: str) -> list[str]:
    if _operator(wanted):
        return _operate(value, wanted, bindings, path, field)
    if field.message_type is not None:
        if field.message_type.full_name in _WELL_KNOWN:
            return _match_json(json_format.MessageToDict(value), _well_known(field, wanted), bindings, path)
        return differences(value, wanted, bindings, path)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        name = known.name if known is not None else str(value)
        return [] if str(wanted) == name else [f"{path}: {name}, expected {wanted}"]
    if isinstance(value, bytes):
        wanted = base64.b64decode(wanted) if isinstance(wanted, str) else wanted
    elif isinstance(value, int) and isinstance(wanted, str):
        wanted = int(wanted)
    same = value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
    return [] if same else [f"{path}: {_text(value)}, expected {wanted!r}"]


def _well_known(field: FieldDescriptor, wanted: Any) -> Any:
    """Bring a duration into the one form that protobuf writes."""
    if field.message_type is not None and field.message_type.full_name == "google.protobuf.Duration":
        duration = duration_pb2.Duration()
        duration.FromJsonString(str(wanted))
        return json_format.MessageToDict(duration)
    return wanted


def _match_json(value: Any, wanted: Any, bindings: Bindings, path: str) -> list[str]:
    if _operator(wanted):
        return _operate(value, wanted, bindings, path)
    if is_json_value(value, wanted):
        return []
    return [f"{path}: {'no JSON value' if value is _ABSENT else _text(value)}, expected {_text(wanted)}"]


def _operator(pattern: Any) -> str:
    if isinstance(pattern, Mapping) and len(pattern) == 1:
        name = next(iter(pattern))
        return name if isinstance(name, str) and name.startswith("$") else ""
    return ""


def _operate(
    value: Any, pattern: Mapping[str, Any], bindings: Bindings, path: str, field: FieldDescriptor | None = None
) -> list[str]:
    [(name, wanted)] = pattern.items()
    match name:
        case "$as":
            kept = bindings.setdefault(wanted, value)
            return [] if kept == value else [f"{path}: {_text(value)}, but {wanted} is {_text(kept)}"]
        case "$any":
            return [] if value else [f"{path}: is absent or the default"]
        case "$not":
            again = (
                _match_value(field, value, wanted, bindings, path) if field else _match_json(value, wanted, {}, path)
            )
            return [] if again else [f"{path}: {_text(value)}, expected anything else"]
        case "$at_least":
            return [] if value >= wanted else [f"{path}: {_text(value)}, expected at least {wanted}"]
        case "$at_most":
            return [] if value <= wanted else [f"{path}: {_text(value)}, expected at most {wanted}"]
        case "$json":
            return _match_json(_parse(value), wanted, bindings, path)
        case _:
            raise CaseError(f"{path}: what is {name}?")


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _ABSENT


def _text(value: Any) -> str:
    text = show(value) if isinstance(value, Message) else repr(value)
    return f"{text[:200]}... ({len(text)} characters)" if len(text) > 250 else text


# --- literals ---------------------------------------------------------------------------------------------------------


def _bound(literal: Any, bindings: Bindings) -> Any:
    """Put in what ``$as`` has kept."""
    if _operator(literal) == "$as":
        if literal["$as"] not in bindings:
            raise CaseError(f"nothing is kept as {literal['$as']}")
        value = bindings[literal["$as"]]
        return json_format.MessageToDict(value) if isinstance(value, Message) else value
    if isinstance(literal, Mapping):
        return {key: _bound(value, bindings) for key, value in literal.items()}
    if isinstance(literal, list):
        return [_bound(value, bindings) for value in literal]
    return base64.b64encode(literal).decode() if isinstance(literal, bytes) else literal


def _payloads(message: Message, literal: Any) -> Any:
    """Write each ``value`` as the ``json`` that it stands for."""
    if not isinstance(literal, Mapping) or message.DESCRIPTOR.full_name.startswith("google.protobuf."):
        return literal
    result: dict[str, Any] = {}
    for name, content in literal.items():
        field = _field(message, name)
        if field is None and name == "value" and "payload" in message.DESCRIPTOR.oneofs_by_name:
            result["json"] = json.dumps(content)
        elif field is None or field.message_type is None or field.message_type.GetOptions().map_entry:
            result[name] = content
        else:
            kind = message_factory.GetMessageClass(field.message_type)()
            result[name] = (
                [_payloads(kind, item) for item in content] if isinstance(content, list) else _payloads(kind, content)
            )
    return result
