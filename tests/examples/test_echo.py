"""The example `echo`: the smallest coroutine app."""

from __future__ import annotations

from google.protobuf.struct_pb2 import Value
from session_client import SessionClient

from session_service import CloseReason
from session_service.examples.echo import echo
from session_service.testing import Event, run
from session_service.v1 import session_pb2 as pb

from ..cli.program import Served
from ..protocol.peer import event, value


async def test_a_plain_client_hears_everything_back_in_order(examples: Served) -> None:
    peer = await examples.open("echo", command_format=pb.PAYLOAD_FORMAT_JSON)
    payloads = ["hello", 2**60, 1.0, None, {"nested": [True, {}]}]
    for payload in payloads:
        await peer.send(events=[event("say", payload)])
    await peer.half_close()
    responses = await peer.receive_all()
    commands = [command for response in responses for command in response.commands]
    assert {(command.command, command.task_id) for command in commands} == {("echo", commands[0].task_id)}
    assert [value(command) for command in commands] == payloads
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT


async def test_each_kind_of_payload_comes_back_as_it_was(examples: Served) -> None:
    peer = await examples.open("echo")
    await peer.send(
        events=[pb.Event(event="say", blob=b"\0\xff"), pb.Event(event="say", data=Value(string_value="hi"))]
    )
    blob, data = await peer.receive_commands(2)
    assert (blob.blob, data.spec.string_value) == (b"\0\xff", "hi")


async def test_a_resumed_conversation_loses_nothing_and_repeats_nothing(examples: Served) -> None:
    peer = await examples.open("echo", resumable=True, command_format=pb.PAYLOAD_FORMAT_JSON)
    heard: list[object] = []
    for first in range(1, 41, 4):
        # Sent, and not known to have arrived: the stream is cut at once.
        await peer.send(events=[event("say", number) for number in range(first, first + 4)], first_sequence=first)
        peer.cancel()
        peer = await examples.resume(peer, received=len(heard))
        taken = peer.resumed.received
        await peer.send(events=[event("say", n) for n in range(taken + 1, first + 4)], first_sequence=taken + 1)
        while len(heard) < first + 3:
            heard += [value(command) for command in (await peer.receive()).commands]
    assert heard == list(range(1, 41))


def test_in_process_everything_comes_back_too() -> None:
    payloads = ["hello", 2**60, 1.0, None, b"\0\xff", {"nested": [True, {}]}]
    transcript = run(echo, [Event("say", payload) for payload in payloads])
    assert [(command["command"], command["spec"]) for command in transcript.commands] == [
        ("echo", payload) for payload in payloads
    ]
    assert transcript.reason is CloseReason.CLIENT


async def test_a_client_hears_everything_back(examples: Served) -> None:
    async with SessionClient(examples.address) as client, client.open("echo") as session:
        for payload in ["hello", 2**60, b"\0\xff", Value(string_value="hi")]:
            await session.send_event("say", payload)
            assert (await anext(session)).spec == payload
