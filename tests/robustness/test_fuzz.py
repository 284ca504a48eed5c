"""Sequences of requests made from the schema: whatever they say, the server neither fails nor troubles a neighbour.

The strategies come from the protobuf descriptors, so that a new field is fuzzed from the day it is there; only where
any value would be refused for the same dull reason, such as an app's name, the likely ones are put in. `make fuzz`
tries many more, and feeds bytes to what decodes requests (fuzz.py).
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from session_service import AbstractSession, CommandBufferFull, PayloadError, Window, get_current_session
from session_service.config import Config
from session_service.errors import (
    PROTOCOL_ERRORS,
    InternalFault,
    ProtocolError,
    ProtocolViolation,
    ResumeImpossible,
    SequenceGap,
    SessionUnknown,
)
from session_service.server import Server
from session_service.server.attachment import Attachment
from session_service.v1 import info_pb2
from session_service.v1 import session_pb2 as pb
from tests.protocol.peer import Peer, Service, connect, event, value
from tests.robustness import fuzz

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "robustness")

# What the sequences must have come across, or they are too dull to show anything.
EXPECTED = {ProtocolViolation, SessionUnknown, SequenceGap, ResumeImpossible}

# What a client may get, a defect of ours excepted. Where a write found out that the stream has ended, grpc.aio makes it
# INTERNAL, without a reason (see `Peer`).
ENDS: set[tuple[grpc.StatusCode, str]]
CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
ENDS = {(CODES[kind.code], kind.reason) for kind in PROTOCOL_ERRORS if kind is not InternalFault}
ENDS |= {(grpc.StatusCode.OK, ""), (grpc.StatusCode.INTERNAL, "")}

# --- messages from descriptors ----------------------------------------------------------------------------------------

# As deep as messages nest: values hold values without end.
DEPTH = 3

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}

IDS = st.sampled_from(["", "main-1", "callback-2", "task-3", "callback-9"])

LATEST = "the latest session"  # stands for its id, or its token

# Where most values would be refused for the same reason, mostly one that is not.
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "Open.app": st.sampled_from(["app", "app", "app", "deaf", "deaf", "ends"]),
    "Open.request_id": st.sampled_from(["", "", "", "a-request-id-of-some-length", "another-request-id"]),
    "Open.client_id": st.sampled_from(["", "a", "b"]),
    "Resume.client_id": st.sampled_from(["", "a", "b"]),
    "Resume.session_id": st.sampled_from([LATEST, LATEST, LATEST, "unknown"]),
    "Resume.resume_token": st.sampled_from([LATEST, LATEST, LATEST, "wrong"]),
    "Resume.received": st.sampled_from([0, 0, 1, 2, 7, 7]),
    "Event.task_id": IDS,
    "Event.event": st.sampled_from(["say", "callback", "stop", ""]),
    "Event.json": st.sampled_from(["1", '"a"', "[1, {}]", "{", "NaN", "1e999", "18446744073709551616", "[" * 201]),
    "Open.resumable": st.just(True),
    "Value.number_value": st.sampled_from([math.nan, 1.5, math.inf, 2.0**53 + 2, -0.0]),
    "AttachRequest.first_sequence": st.sampled_from([1, 1, 1, 2, 3, 7]),
    "AttachRequest.ack": st.sampled_from([0] * 10 + [1, 2]),
}

# What is there more often than not.
USUAL = {*LIKELY, "AttachRequest.events", "Open.params", "Struct.fields"}


def messages(descriptor: Descriptor, depth: int = DEPTH) -> st.SearchStrategy[Message]:
    """Make messages of this type, with any of its fields."""
    if descriptor.full_name == any_pb2.Any.DESCRIPTOR.full_name:
        return anys()
    return _messages(descriptor, depth)


@functools.cache
def _messages(descriptor: Descriptor, depth: int) -> st.SearchStrategy[Message]:
    @st.composite
    def build(draw: st.DrawFn) -> Message:
        message: Message = GetMessageClass(descriptor)()
        fields = [field for field in descriptor.fields if depth > 0 or field.message_type is None]
        oneofs = [[field for field in fields if field.containing_oneof is one] for one in descriptor.oneofs]
        chosen = [draw(st.sampled_from([*one, None])) for one in oneofs]
        for field in fields:
            if field.containing_oneof is not None:
                present = field in chosen
            else:
                usual = f"{descriptor.name}.{field.name}" in USUAL
                present = draw(st.integers(0, 7)) < (7 if usual else 4)
            if present:
                fill(draw, message, field, depth)
        return message

    return build()


def fill(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    """Set a field."""
    target = getattr(message, field.name)
    if is_map(field):
        assert field.message_type is not None
        value_field = field.message_type.fields_by_name["value"]
        for key in draw(st.lists(st.text(max_size=3), max_size=2)):
            if value_field.message_type is not None:
                target[key].CopyFrom(draw(messages(value_field.message_type, depth - 1)))
            else:
                target[key] = draw(scalars(value_field))
    elif field.is_repeated:
        element = values(field, depth)
        target.extend(draw(st.lists(element, max_size=3)))
    elif field.message_type is not None:
        target.SetInParent()
        target.CopyFrom(draw(values(field, depth)))
    else:
        setattr(message, field.name, draw(values(field, depth)))


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Make values of a field, or elements of a repeated one."""
    assert field.containing_type is not None
    likely = LIKELY.get(f"{field.containing_type.name}.{field.name}")
    if field.message_type is not None:
        return messages(field.message_type, depth - 1)
    return scalars(field) if likely is None else mostly(likely, scalars(field))


def mostly(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Make one in twelve the other way; `one_of` would not count a strategy that it is given twice."""
    return st.integers(0, 11).flatmap(lambda number: usual if number < 11 else other)


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Make values of a field that holds no message."""
    if field.enum_type is not None:
        return st.integers(-1, len(field.enum_type.values))
    if field.cpp_type in _INTEGERS:
        least, greatest = _INTEGERS[field.cpp_type]
        return st.one_of(
            st.integers(max(least, -2), 5), st.integers(least, greatest), st.just(least), st.just(greatest)
        )
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return st.floats()
    return st.binary(max_size=20) if field.type == FieldDescriptor.TYPE_BYTES else st.text(max_size=20)


def anys() -> st.SearchStrategy[Message]:
    """Make packed messages: of a type that the server knows, of none, and bytes that are not of their type."""
    urls = [f"type.googleapis.com/{kind.DESCRIPTOR.full_name}" for kind in (struct_pb2.Value, info_pb2.SessionInfo)]
    return st.builds(
        any_pb2.Any, type_url=st.sampled_from([*urls, "type.googleapis.com/no.Such", "", "/"]), value=st.binary()
    )


# --- what a client does -----------------------------------------------------------------------------------------------

REQUESTS = messages(pb.AttachRequest.DESCRIPTOR)

# Such as do not end the stream by being `open` or `resume`.
LATER = st.builds(
    lambda request, close: with_control(request, close=close),
    REQUESTS,
    st.one_of(st.none(), st.none(), messages(pb.Close.DESCRIPTOR)),
)

FIRST = st.one_of(
    st.builds(lambda open_, rest: with_control(rest, open=open_), messages(pb.Open.DESCRIPTOR), REQUESTS),
    st.builds(
        lambda resume, rest: with_control(rest, resume=resume), messages(pb.Resume.DESCRIPTOR, DEPTH - 1), REQUESTS
    ),
)

# A stream mostly begins and goes on as it should.
REQUESTS_OF_A_STREAM = mostly(
    st.builds(lambda first, later: [first, *later], FIRST, st.lists(LATER, max_size=4)),
    st.lists(REQUESTS, min_size=1, max_size=3),
)

STREAMS = st.lists(st.tuples(REQUESTS_OF_A_STREAM, st.booleans()), min_size=1, max_size=4)


def with_control(request: Any, **control: Any) -> Any:
    """Return a request with this control part, and no other."""
    changed = pb.AttachRequest(**control)
    changed.events.extend(request.events)
    changed.first_sequence, changed.ack = request.first_sequence, request.ack
    return changed


async def app() -> None:
    """Echo, if the format can carry it, with a callback that does the same."""
    session = get_current_session()

    async def say(data: object) -> None:
        try:
            session.send_task_command({"command": "echo", "spec": data})
        except PayloadError as error:
            session.send_task_command({"command": "refused", "spec": str(error)})
        except CommandBufferFull:  # with a window as small as some of these, one command may be too many
            await session.drain()
            await say(data)

    session.register_callback(say)
    while (event := await session.next_client_event())["event"] != "stop":
        await say(event["data"])


async def deaf() -> None:
    await asyncio.Event().wait()


async def ends() -> None:
    get_current_session().send_task_command({"command": "bye", "spec": None})


class Fuzzed:
    """A server in this process, with two neighbours: one on the same connection, and one on another."""

    def __init__(self, server: Server, service: Service, neighbours: list[Peer]) -> None:
        self.server = server
        self.service = service
        self._neighbours = neighbours
        self._said = 0

    async def open(self) -> pb.Opened:
        """Open a session that has sent two commands, and leave it."""
        peer = await self.service.open("app", resumable=True)
        await peer.send(events=[event("say", 1), event("say", 2)], first_sequence=1)
        await peer.receive_until(lambda response: response.ack == 2)
        peer.cancel()
        return peer.opened

    async def stream(self, requests: list[Any], half_closes: bool, latest: pb.Opened) -> None:
        """Send these on a new stream, and then what ends any (F2); fail unless it ends as the protocol says."""
        peer = self.service.attach()
        for request in requests:
            if request.resume.session_id == LATEST:
                request.resume.session_id = latest.session_id
            if request.resume.resume_token == LATEST:
                request.resume.resume_token = latest.resume_token
            if not await peer._write(request):
                break
        else:
            await peer.send(open=pb.Open(app="app"))
        if half_closes and not peer.call.done():
            await peer.half_close()
        for response in await peer.receive_all():
            if response.HasField("opened"):
                latest.CopyFrom(response.opened)
        status = await peer.status()
        assert (status.code, status.reason) in ENDS, status

    async def check_neighbours(self) -> None:
        """Fail unless the neighbours have their echoes."""
        self._said += 1
        for peer in self._neighbours:
            said = self._said
            await peer.send(events=[event("say", said)], first_sequence=said, ack=said - 1)
            assert [value(command) for command in await peer.receive_commands(1)] == [said]

    async def check_left(self) -> None:
        """Fail unless all sessions but the neighbours' end, once nobody comes back."""
        async with asyncio.timeout(20):
            while len(self.server.manager) > len(self._neighbours):  # noqa: ASYNC110 - nothing sets an Event here
                await asyncio.sleep(0.01)
        assert AbstractSession.active_session_count() == len(self._neighbours)


@asynccontextmanager
async def fuzzed() -> AsyncIterator[Fuzzed]:
    """Serve; sessions that are left are forgotten soon, but not before the next stream can resume them."""
    config = Config(
        listen="127.0.0.1:0", resume_window=0.5, event_window=Window(16, 64 * 1024), command_window=Window(4, 64 * 1024)
    )
    server = Server({"app": app, "deaf": deaf, "ends": ends}, config)
    address = await server.start()
    try:
        async with connect(address) as channel, connect(address) as other:
            service = Service(server, channel)
            neighbours = [
                await one.open("app", resumable=True, command_format=pb.PAYLOAD_FORMAT_JSON)
                for one in (service, Service(server, other))
            ]
            yield Fuzzed(server, service, neighbours)
            for peer in neighbours:
                peer.cancel()
    finally:
        await server.drain(0)


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    errors = [record for record in caplog.records if record.levelname == "ERROR" or record.exc_info]
    # All loops of a process share one completion queue of grpc.aio, which reports what came for an earlier test's loop.
    return [error.getMessage() for error in errors if "PollerCompletionQueue" not in error.getMessage()]


def test_no_sequence_of_requests_makes_the_server_fail(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[type[ProtocolError]] = Counter()
    fail = Attachment.fail

    def noted(self: Attachment, error: ProtocolError) -> None:
        seen[type(error)] += 1
        fail(self, error)

    monkeypatch.setattr(Attachment, "fail", noted)
    with asyncio.Runner() as runner:
        scene = fuzzed()
        it = runner.run(scene.__aenter__())

        @settings(settings.get_profile(PROFILE), suppress_health_check=[HealthCheck.too_slow])
        @given(STREAMS)
        def check(streams: list[tuple[list[Any], bool]]) -> None:
            caplog.clear()
            latest = runner.run(it.open())
            for requests, half_closes in streams:
                runner.run(it.stream(requests, half_closes, latest))
            runner.run(it.check_neighbours())
            assert errors_in(caplog) == []

        try:
            check()
            runner.run(it.check_left())
        finally:
            runner.run(scene.__aexit__(None, None, None))
    assert InternalFault not in seen
    assert seen.keys() >= EXPECTED, seen


@given(st.one_of(st.sampled_from(fuzz.seeds()), st.binary(max_size=200)))
def test_bytes_are_decoded_or_refused(data: bytes) -> None:
    fuzz.feed(data)
