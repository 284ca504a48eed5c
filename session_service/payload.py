"""Python values to the payloads of events and commands, and back (protocol F4, F7).

A payload is a plain JSON value, ``bytes`` or a protobuf message. JSON values go out in one of two formats: ``VALUE``
(`google.protobuf.Value`, which reads well in grpcurl) or ``JSON`` (text: exact, and several times cheaper). What a
format cannot carry exactly is refused with a `PayloadError`, never changed.

orjson does the work. What it would let pass (NaN as null, integers beyond 64 bits as floats, hundreds of levels) can be
told from the text at a glance; only a text that looks like it is walked value by value.
"""

from __future__ import annotations

import enum
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson
from google.protobuf import any_pb2, message_factory, struct_pb2
from google.protobuf.descriptor_pool import Default as default_pool
from google.protobuf.message import DecodeError, EncodeError, Message

from .errors import PayloadError
from .v1 import session_pb2 as pb

__all__ = [
    "EncodedCommand",
    "Format",
    "command_encoder",
    "copy_command",
    "decode_command_spec",
    "decode_event",
    "decode_struct",
    "encode_closed",
    "encode_event",
    "encode_struct",
]

# Writing is left to the caller where orjson would pick one of several texts: datetimes and dataclasses.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS

MAX_EXACT_IN_DOUBLE = 2**53


class Format(enum.Enum):
    """How JSON values become a payload, and what it can carry.

    VALUE nests to 30 levels, since protobuf can write deeper than it can read (three messages a level, 100 in all).

    Attributes:
        max_depth: the deepest nesting of arrays and objects.
    """

    VALUE = 30
    JSON = 200

    def __init__(self, max_depth: int) -> None:
        self.max_depth = max_depth

    def carries(self, number: int) -> bool:
        """Tell whether an integer goes through unchanged."""
        if self is Format.VALUE:
            return -MAX_EXACT_IN_DOUBLE <= number <= MAX_EXACT_IN_DOUBLE
        return -(2**63) <= number < 2**64


_VALUE, _JSON = Format.VALUE, Format.JSON  # an attribute of an enum's class is slow to find

# A text of fewer bytes nests nowhere too deep, in either format.
_LEAST_DEEP = 2 * _VALUE.max_depth

# What an integer beyond 2^53, or beyond 64 bits, looks like in JSON text.
_DIGITS = b"0123456789"
_DIGITS_53_BITS = re.compile(rb"\d{16}")
_DIGITS_63_BITS = re.compile(rb"\d{19}")


# An EncodedCommand's own constructor is a Python function.
_new_tuple = tuple.__new__

# Most lengths are short: one byte says them.
_SHORT_VARINTS = tuple(bytes((number,)) for number in range(0x80))


def _tag(message: type[Message], field: str) -> bytes:
    """Return what stands before a field of bytes, text or a message: its number, and that a length follows.

    Source: protobuf.dev, "Encoding".
    """
    return bytes(((message.DESCRIPTOR.fields_by_name[field].number << 3) | 2,))


_CLOSE_REASONS = dict(pb.CloseReason.items())

_COMMANDS = _tag(pb.AttachResponse, "commands")
_SPEC, _TEXT, _BLOB, _MESSAGE = (_tag(pb.Command, field) for field in ("spec", "json", "blob", "message"))


class EncodedCommand(NamedTuple):
    """A command, serialised once for all streams that will ever carry it.

    Attributes:
        data: an AttachResponse that holds this command alone. Such bytes joined are again one AttachResponse, that
            holds them all: repeated fields of a protobuf message add up.
        size: of the Command itself, in bytes; what counts against the window (D5).
    """

    data: bytes
    size: int


def command_encoder(fmt: Format, max_size: int) -> Callable[[str, str, Any], tuple[EncodedCommand, int]]:
    """Return the ``encode`` of a session whose client asked for ``fmt``.

    Args:
        fmt: the format of JSON values.
        max_size: the most bytes of an encoded command (F7).
    """
    # Most commands have the name and the task of the one before. One tuple: threads may replace it at any time.
    known = ("", "", b"")

    def encode(name: str, task_id: str, spec: Any) -> tuple[EncodedCommand, int]:
        nonlocal known
        known_name, known_task_id, head = known
        if name != known_name or task_id != known_task_id:
            head = _command_head(name, task_id)
            known = name, task_id, head
        if isinstance(spec, bytes):
            tag, payload = _BLOB, spec
        elif isinstance(spec, Message):
            tag, payload = _MESSAGE, _pack(spec, any_pb2.Any(), "spec").SerializeToString()
        elif fmt is _JSON:
            tag, payload = _TEXT, _dump(spec, fmt, "spec")
        else:
            value = struct_pb2.Value()
            _fill(value, orjson.loads(_dump(spec, fmt, "spec")))
            tag, payload = _SPEC, value.SerializeToString()
        length = len(payload)
        prefix = _SHORT_VARINTS[length] if length < 0x80 else _varint(length)
        size = len(head) + len(tag) + len(prefix) + length
        if size > max_size:
            raise PayloadError("spec", f"the command is {size} bytes, of at most {max_size}: send it in parts")
        whole = _SHORT_VARINTS[size] if size < 0x80 else _varint(size)
        data = b"".join((_COMMANDS, whole, head, tag, prefix, payload))
        return _new_tuple(EncodedCommand, (data, size)), size

    return encode


def _command_head(name: str, task_id: str) -> bytes:
    command = pb.Command()
    try:
        command.task_id = task_id
        command.command = name
    except (TypeError, ValueError) as error:
        raise PayloadError("command", str(error)) from None
    return command.SerializeToString()


def encode_event(name: str, task_id: str, data: Any, max_size: int) -> tuple[bytes, int]:
    """Return an AttachRequest that holds one event alone, in the JSON format, and the size of the event in bytes.

    Raises:
        PayloadError: ``data`` cannot be carried exactly, or is larger than ``max_size`` bytes when encoded.
    """
    request = pb.AttachRequest()
    event = request.events.add()
    try:
        event.task_id = task_id
        event.event = name
    except (TypeError, ValueError) as error:
        raise PayloadError("event", str(error)) from None
    if not _encode_typed(event, data, "data"):
        event.json = _dump(data, Format.JSON, "data").decode()
    size = event.ByteSize()
    if size > max_size:
        raise PayloadError("data", f"the event is {size} bytes, of at most {max_size}: send it in parts")
    return request.SerializeToString(), size


def encode_closed(reason: str, message: str, sequence: int) -> bytes:
    """Return the AttachResponse that ends a session; ``reason`` is the enum's name without its prefix."""
    closed = pb.Closed(reason=_CLOSE_REASONS[f"CLOSE_REASON_{reason}"], message=message, sequence=sequence)
    return pb.AttachResponse(closed=closed).SerializeToString()


def copy_command(name: str, task_id: str, spec: Any) -> tuple[dict[str, Any], int]:
    """Return a command as a dict of its own and its size in bytes: the ``encode`` of a session without a server."""
    size = len(name) + len(task_id)
    if isinstance(spec, bytes):
        return {"command": name, "task_id": task_id, "spec": spec}, size + len(spec)
    if isinstance(spec, Message):
        copy = type(spec)()
        copy.CopyFrom(spec)
        return {"command": name, "task_id": task_id, "spec": copy}, size + spec.ByteSize()
    text = _dump(spec, Format.JSON, "spec")
    return {"command": name, "task_id": task_id, "spec": orjson.loads(text)}, size + len(text)


def decode_event(event: pb.Event) -> dict[str, Any]:
    """Return an event as sessions take it: ``{"event", "task_id", "data"}``.

    Raises:
        PayloadError: the payload is no JSON, or holds what could not be kept exactly.
    """
    text = event.json  # empty where the payload is another; as JSON text that is none
    data = _load(text) if text else _decode(event, "data")
    return {"event": event.event, "task_id": event.task_id, "data": data}


def decode_command_spec(command: pb.Command) -> Any:
    """Return what an app has sent as a command's spec; raises like `decode_event`."""
    return _decode(command, "spec")


def decode_struct(struct: struct_pb2.Struct, path: str) -> dict[str, Any]:
    """Return a Struct as a dict; raises like `decode_event`, with ``path`` in the error."""
    return {name: _read(value, f"{path}.{name}", Format.VALUE.max_depth - 1) for name, value in struct.fields.items()}


def encode_struct(values: Mapping[str, Any], path: str) -> struct_pb2.Struct:
    """Return a dict as a Struct; raises `PayloadError`, with ``path`` in it, for what that cannot carry exactly."""
    struct = struct_pb2.Struct()
    for name, value in orjson.loads(_dump(dict(values), Format.VALUE, path)).items():
        _fill(struct.fields[name], value)
    return struct


def _encode_typed(target: pb.Event, value: Any, path: str) -> bool:
    """Write a payload that is no JSON value; return False where it is one."""
    if isinstance(value, bytes):
        target.blob = value
    elif isinstance(value, Message):
        _pack(value, target.message, path)
    else:
        return False
    return True


def _decode(source: pb.Event | pb.Command, value_field: str) -> Any:
    kind = source.WhichOneof("payload")
    if kind is None:
        return None
    if kind == "json":
        return _load(source.json)
    if kind == "blob":
        return source.blob
    if kind == "message":
        return _unpack(source.message)
    return _read(getattr(source, value_field), value_field, Format.VALUE.max_depth)


def _dump(value: Any, fmt: Format, path: str) -> bytes:
    try:
        text = orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:
        _check(value, fmt, path, 0)
        raise PayloadError(path, str(error)) from None
    # orjson refuses integers beyond 64 bits by itself. `in` takes twice as long: it tries to find an integer first.
    suspicious = text.find(b"null") >= 0 or (fmt is _VALUE and _DIGITS_53_BITS.search(text))
    if suspicious or (len(text) > _LEAST_DEEP and _looks_deep(text, fmt)):
        _check(value, fmt, path, 0)
    return text


def _load(text: str) -> Any:
    data = text.encode()
    try:
        value = orjson.loads(data)
        # Counting digits takes a fifth of looking for many in a row.
        if len(data) - len(data.translate(None, _DIGITS)) >= 19 and _DIGITS_63_BITS.search(data):
            json.loads(text, parse_int=_checked_int)
        if len(data) > _LEAST_DEEP and _looks_deep(data, _JSON):
            _check(value, _JSON, "json", 0)
    except (ValueError, RecursionError) as error:
        raise PayloadError("json", str(error)) from None
    return value


def _varint(number: int) -> bytes:
    """Return a number as protobuf writes it: 7 bits a byte, the least first."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _looks_deep(text: bytes, fmt: Format) -> bool:
    return text.count(b"[") + text.count(b"{") > fmt.max_depth


def _checked_int(digits: str) -> int:
    # Python refuses to convert thousands of digits, and orjson has read the text already.
    if len(digits) > 20 or not Format.JSON.carries(int(digits)):
        raise ValueError(f"the integer {digits[:24]} is beyond 64 bits")
    return int(digits)


def _check(value: Any, fmt: Format, path: str, depth: int) -> None:
    """Raise a `PayloadError` that names where ``value`` holds what ``fmt`` cannot carry."""
    while isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, (bool, uuid.UUID)):
        return
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise PayloadError(path, "the text holds a lone surrogate, which UTF-8 cannot carry") from None
    elif isinstance(value, int):
        if not fmt.carries(value):
            limit = "2^53" if fmt is Format.VALUE else "64 bits"
            raise PayloadError(path, f"an integer beyond {limit}: send it as text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise PayloadError(path, f"{value} is no JSON number")
    elif isinstance(value, (dict, list)) or type(value) is tuple:
        if depth == fmt.max_depth:
            raise PayloadError(path, f"nested deeper than {fmt.max_depth} levels")
        if isinstance(value, dict):
            for key, item in value.items():
                if type(key) is not str:
                    raise PayloadError(path, f"the key {key!r:.80} is no text")
                _check(key, fmt, path, depth + 1)
                _check(item, fmt, f"{path}.{key}" if key.isidentifier() else f"{path}[{key!r}]", depth + 1)
        else:
            for index, item in enumerate(value):
                _check(item, fmt, f"{path}[{index}]", depth + 1)
    else:
        raise PayloadError(path, f"{type(value).__qualname__} is no JSON value")


def _fill(target: struct_pb2.Value, value: Any) -> None:
    """Write a checked plain value."""
    if value is None:
        target.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, (int, float)):
        target.number_value = value
    elif isinstance(value, list):
        values = target.list_value.values
        target.list_value.SetInParent()
        for item in value:
            _fill(values.add(), item)
    else:
        fields = target.struct_value.fields
        target.struct_value.SetInParent()
        for key, item in value.items():
            _fill(fields[key], item)


def _read(value: struct_pb2.Value, path: str, depth: int) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    if kind == "number_value":
        number = value.number_value
        if not math.isfinite(number):
            raise PayloadError(path, f"{number} is no JSON number")
        # protobuf knows doubles only: a whole one is an int again, as far as a double is exact
        return int(number) if number.is_integer() and abs(number) <= MAX_EXACT_IN_DOUBLE else number
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if depth == 0:
        raise PayloadError(path, f"nested deeper than {Format.VALUE.max_depth} levels")
    if kind == "list_value":
        return [_read(item, f"{path}[{index}]", depth - 1) for index, item in enumerate(value.list_value.values)]
    return {key: _read(item, f"{path}.{key}", depth - 1) for key, item in value.struct_value.fields.items()}


def _pack(message: Message, target: any_pb2.Any, path: str) -> any_pb2.Any:
    try:
        if isinstance(message, any_pb2.Any):
            target.CopyFrom(message)
        else:
            target.Pack(message)
    except EncodeError as error:  # a required field of proto2 is missing
        raise PayloadError(path, str(error)) from None
    return target


def _unpack(packed: any_pb2.Any) -> Message:
    """Return the message within, or ``packed`` itself where this process does not know the type."""
    try:
        descriptor = default_pool().FindMessageTypeByName(packed.TypeName())
    except KeyError:
        return packed
    message = message_factory.GetMessageClass(descriptor)()
    try:
        message.ParseFromString(packed.value)
    except DecodeError:
        raise PayloadError("message", f"this is no {packed.TypeName()}") from None
    return message
