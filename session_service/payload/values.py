"""Python values to and from the ``payload`` of events and commands, and of parameters (protocol F4, F7)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf import any_pb2, message_factory, struct_pb2
from google.protobuf.descriptor_pool import Default as default_pool
from google.protobuf.message import DecodeError, EncodeError, Message

from ..errors import PayloadError
from ..v1 import session_pb2 as pb
from .exact import MAX_EXACT_IN_DOUBLE, Format, dump, load

__all__ = [
    "FRAME",
    "decode_command_spec",
    "decode_event",
    "decode_struct",
    "encode_event",
    "encode_struct",
    "fill",
    "pack",
    "read",
    "unpack",
]

# The most bytes that a message adds to each of its events or commands: a tag and a length.
FRAME = 6


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
        event.json = dump(data, Format.JSON, "data").decode()
    size = event.ByteSize()
    if size > max_size:
        raise PayloadError("data", f"the event is {size} bytes, of at most {max_size}: send it in parts")
    return request.SerializeToString(), size


def decode_event(event: pb.Event) -> dict[str, Any]:
    """Return an event as sessions take it: ``{"event", "task_id", "data"}``.

    Raises:
        PayloadError: the payload is no JSON, or holds what could not be kept exactly.
    """
    text = event.json  # empty where the payload is another; as JSON text that is none
    data = load(text) if text else _decode(event, "data")
    return {"event": event.event, "task_id": event.task_id, "data": data}


def decode_command_spec(command: pb.Command) -> Any:
    """Return what an app has sent as a command's spec; raises like `decode_event`."""
    return _decode(command, "spec")


def decode_struct(struct: struct_pb2.Struct, path: str) -> dict[str, Any]:
    """Return a Struct as a dict; raises like `decode_event`, with ``path`` in the error."""
    return {name: read(value, f"{path}.{name}", Format.VALUE.max_depth - 1) for name, value in struct.fields.items()}


def encode_struct(values: Mapping[str, Any], path: str) -> struct_pb2.Struct:
    """Return a dict as a Struct; raises `PayloadError`, with ``path`` in it, for what that cannot carry exactly."""
    struct = struct_pb2.Struct()
    for name, value in orjson.loads(dump(dict(values), Format.VALUE, path)).items():
        fill(struct.fields[name], value)
    return struct


def _encode_typed(target: pb.Event, value: Any, path: str) -> bool:
    """Write a payload that is no JSON value; return False where it is one."""
    if isinstance(value, bytes):
        target.blob = value
    elif isinstance(value, Message):
        pack(value, target.message, path)
    else:
        return False
    return True


def _decode(source: pb.Event | pb.Command, value_field: str) -> Any:
    kind = source.WhichOneof("payload")
    if kind is None:
        return None
    if kind == "json":
        return load(source.json)
    if kind == "blob":
        return source.blob
    if kind == "message":
        return unpack(source.message)
    return read(getattr(source, value_field), value_field, Format.VALUE.max_depth)


def fill(target: struct_pb2.Value, value: Any) -> None:
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
            fill(values.add(), item)
    else:
        fields = target.struct_value.fields
        target.struct_value.SetInParent()
        for key, item in value.items():
            fill(fields[key], item)


def read(value: struct_pb2.Value, path: str, depth: int) -> Any:
    """Return a value that nests to ``depth`` more levels at most; raise a `PayloadError` for what is no JSON value."""
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
        return [read(item, f"{path}[{index}]", depth - 1) for index, item in enumerate(value.list_value.values)]
    return {key: read(item, f"{path}.{key}", depth - 1) for key, item in value.struct_value.fields.items()}


def pack(message: Message, target: any_pb2.Any, path: str) -> any_pb2.Any:
    """Write a message, unless it is packed already; raise a `PayloadError` where it is not complete."""
    try:
        if isinstance(message, any_pb2.Any):
            target.CopyFrom(message)
        else:
            target.Pack(message)
    except EncodeError as error:  # a required field of proto2 is missing
        raise PayloadError(path, str(error)) from None
    return target


def unpack(packed: any_pb2.Any) -> Message:
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
