"""Python values to the payloads of events and commands, and back (protocol F4, F7).

A payload is a plain JSON value, ``bytes`` or a protobuf message. JSON values go out in one of two formats: ``VALUE``
(`google.protobuf.Value`, which reads well in grpcurl) or ``JSON`` (text: exact, and several times cheaper). What a
format cannot carry exactly is refused with a `PayloadError`, never changed.
"""

from .command import EncodedCommand, command_encoder, copy_command, encode_closed
from .exact import Format
from .values import FRAME, decode_command_spec, decode_event, decode_struct, encode_event, encode_struct

__all__ = [
    "FRAME",
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
