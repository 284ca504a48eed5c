"""Bytes to what decodes requests, guided by coverage: ``python -m tests.robustness.fuzz -max_total_time=60``.

What comes from the network meets, in this order: protobuf, the payloads of its events, and the inbox that numbers them.
None of it may raise anything but what the protocol has a status for. The arguments are those of libFuzzer; it needs
atheris, which `make fuzz` installs and nothing else does. A finding is written to ``crash-...``; give its name as an
argument to see it again.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, struct_pb2
from google.protobuf.message import DecodeError

from session_service import payload
from session_service.delivery import Inbox
from session_service.errors import PayloadError, SequenceGap, WindowExceeded
from session_service.payload import exact, values
from session_service.v1 import session_pb2 as pb
from session_service.window import Window

__all__ = ["feed"]

WINDOW = Window(16, 64 * 1024)


def feed(data: bytes) -> None:
    """Take requests, each behind a byte that says how long it is, as a stream of a resumable session takes them."""
    inbox: Inbox[object] = Inbox(WINDOW)
    while data:
        length, rest = data[0], data[1:]
        message, data = rest[:length], rest[length:]
        try:
            request = pb.AttachRequest.FromString(message)
        except DecodeError:
            return
        try:
            payload.decode_struct(request.open.params, "params")
        except PayloadError:
            pass
        if not take(inbox, request):
            return


def take(inbox: Inbox[object], request: pb.AttachRequest) -> bool:
    """Take the events of a request; return False where that ends the stream. Like `Attachment._on_events`."""
    taken = inbox.taken
    try:
        for event in request.events[inbox.skip(request.first_sequence or 1, len(request.events)) :]:
            inbox.put(payload.decode_event(event), event.ByteSize())
    except (SequenceGap, WindowExceeded, PayloadError):
        return False
    finally:
        # Every second one finds no room, and stays.
        while inbox.head is not None and (inbox.taken + request.ack) % 2 == 0:
            inbox.take()
        check(inbox, taken)
    return True


def check(inbox: Inbox[object], taken: int) -> None:
    """Fail where an inbox does not add up."""
    if inbox.taken < taken or inbox.expected <= inbox.taken:
        raise AssertionError(f"{inbox.taken} were taken, {taken} before, and {inbox.expected} is expected")
    if inbox.ack_pending and inbox.ack() != inbox.taken:
        raise AssertionError("what was taken is not what is acknowledged")
    if inbox.ack_pending:
        raise AssertionError("an ack is pending that has just been given")


def seeds() -> list[bytes]:
    """Return inputs to begin with: protobuf is a library, which tells a fuzzer nothing of how to get past it."""
    deep = struct_pb2.Value(list_value=struct_pb2.ListValue(values=[struct_pb2.Value(number_value=2.0**53)] * 2))
    packed = any_pb2.Any()
    packed.Pack(deep)
    payloads: list[dict[str, Any]] = [
        {},
        {"data": deep},
        {"json": '{"a": [1, 2.5e3, "x", null, -9223372036854775808]}'},
        {"json": "[" * 8 + "18446744073709551615" + "]" * 8},
        {"blob": b"bytes"},
        {"message": packed},
    ]
    requests = [pb.AttachRequest(events=[pb.Event(event="say", task_id="main-1", **one)]) for one in payloads]
    opening = pb.AttachRequest(open=pb.Open(app="app", resumable=True))
    opening.open.params["a"] = [1, {"b": None}]
    requests.append(opening)
    for first, request in enumerate(requests, 1):
        request.first_sequence = first
    messages = [request.SerializeToString() for request in requests]
    framed = [bytes([len(message)]) + message for message in messages]
    return [*framed, b"".join(framed), framed[0] * 3]


def main() -> None:
    """Fuzz until the time is over, or something is found."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.exit("this needs atheris, which has no wheel for every Python: pip install atheris")
    for function in (payload.decode_event, exact.load, values.read, values.unpack, Inbox.put, Inbox.skip):
        atheris.instrument_func(function)
    atheris.instrument_func(take)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds()):
            Path(corpus, f"seed-{number}").write_bytes(seed)
        given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        atheris.Setup([*sys.argv, *([] if given else [corpus])], feed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
