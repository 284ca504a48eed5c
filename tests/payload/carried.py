"""Commands that are sent, and what an app would see of them, were they sent back as events."""

from __future__ import annotations

import enum
import json
import math
from typing import Any

import pytest
from google.protobuf.message import Message

from session_service.errors import PayloadError
from session_service.payload import (
    EncodedCommand,
    Format,
    command_encoder,
    decode_command_spec,
    decode_event,
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
