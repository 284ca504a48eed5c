"""A Command, written once and by hand for all streams that will ever carry it (protocol F4, D5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
from google.protobuf import any_pb2, struct_pb2
from google.protobuf.message import Message

from ..errors import PayloadError
from ..v1 import session_pb2 as pb
from .exact import Format, dump
from .values import fill, pack

__all__ = ["EncodedCommand", "command_encoder", "copy_command", "encode_closed"]

_JSON = Format.JSON  # an attribute of an enum's class is slow to find

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
            tag, payload = _MESSAGE, pack(spec, any_pb2.Any(), "spec").SerializeToString()
        elif fmt is _JSON:
            tag, payload = _TEXT, dump(spec, fmt, "spec")
        else:
            value = struct_pb2.Value()
            fill(value, orjson.loads(dump(spec, fmt, "spec")))
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


def copy_command(name: str, task_id: str, spec: Any) -> tuple[dict[str, Any], int]:
    """Return a command as a dict of its own and its size in bytes: the ``encode`` of a session without a server."""
    size = len(name) + len(task_id)
    if isinstance(spec, bytes):
        return {"command": name, "task_id": task_id, "spec": spec}, size + len(spec)
    if isinstance(spec, Message):
        copy = type(spec)()
        copy.CopyFrom(spec)
        return {"command": name, "task_id": task_id, "spec": copy}, size + spec.ByteSize()
    text = dump(spec, Format.JSON, "spec")
    return {"command": name, "task_id": task_id, "spec": orjson.loads(text)}, size + len(text)


def encode_closed(reason: str, message: str, sequence: int) -> bytes:
    """Return the AttachResponse that ends a session; ``reason`` is the enum's name without its prefix."""
    closed = pb.Closed(reason=_CLOSE_REASONS[f"CLOSE_REASON_{reason}"], message=message, sequence=sequence)
    return pb.AttachResponse(closed=closed).SerializeToString()


def _command_head(name: str, task_id: str) -> bytes:
    command = pb.Command()
    try:
        command.task_id = task_id
        command.command = name
    except (TypeError, ValueError) as error:
        raise PayloadError("command", str(error)) from None
    return command.SerializeToString()


def _varint(number: int) -> bytes:
    """Return a number as protobuf writes it: 7 bits a byte, the least first."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
