"""The example `greet`: a wizard in a thread, with validation."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from session_client import SessionClient

from session_service import CloseReason
from session_service.examples.greet import greet
from session_service.testing import Event, run
from session_service.v1 import session_pb2 as pb

from ..cli.program import Served
from ..protocol.peer import event, value

# What is answered, and what comes next.
NAME = {"question": "What is your name?", "problem": None}
AGE = {"question": "How old are you, Ada?", "problem": None}
CONVERSATION: list[tuple[Any, dict[str, Any]]] = [
    ("  ", {**NAME, "problem": "a name is some text"}),
    (7, {**NAME, "problem": "a name is some text"}),
    (" Ada ", AGE),
    ("old", {**AGE, "problem": "an age is a whole number of years"}),
    (36.5, {**AGE, "problem": "an age is a whole number of years"}),
    (True, {**AGE, "problem": "an age is a whole number of years"}),
    (151, {**AGE, "problem": "nobody is 151 years old"}),
    ("36", {"text": "Hello Ada, 36 is a fine age!"}),
]


async def test_it_insists_on_good_answers(examples: Served) -> None:
    peer = await examples.open("greet", command_format=pb.PAYLOAD_FORMAT_JSON)
    assert [value(command) for command in await peer.receive_commands(1)] == [NAME]
    for answer, expected in CONVERSATION[:-1]:
        await peer.send(events=[event("answer", answer)])
        (command,) = await peer.receive_commands(1)
        assert (command.command, value(command)) == ("ask", expected)
    answer, expected = CONVERSATION[-1]
    await peer.send(events=[event("answer", answer)])
    responses = await peer.receive_all()
    assert [value(command) for response in responses for command in response.commands] == [expected]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED


async def test_all_answers_may_come_at_once(examples: Served) -> None:
    peer = await examples.open("greet", command_format=pb.PAYLOAD_FORMAT_JSON)
    await peer.send(events=[event("answer", answer) for answer, _ in CONVERSATION])
    await peer.half_close()
    responses = await peer.receive_all()
    told = [value(command) for response in responses for command in response.commands]
    assert told == [NAME, *(expected for _, expected in CONVERSATION)]
    assert responses[-1].closed.reason == pb.CLOSE_REASON_COMPLETED


async def test_a_name_that_it_is_opened_with_is_not_asked(examples: Served) -> None:
    params = json_format.ParseDict({"name": "Ada"}, Struct())
    peer = await examples.open("greet", params=params, command_format=pb.PAYLOAD_FORMAT_JSON)
    assert [value(command) for command in await peer.receive_commands(1)] == [AGE]


@pytest.mark.parametrize("cut", range(len(CONVERSATION)))
@pytest.mark.parametrize("when", ["before the answer is sent", "after the answer is sent"])
async def test_cut_anywhere_it_goes_on_where_it_was(examples: Served, cut: int, when: str) -> None:
    peer = await examples.open("greet", resumable=True, command_format=pb.PAYLOAD_FORMAT_JSON)
    told: list[Any] = []

    async def hear(count: int) -> pb.AttachResponse:
        while True:
            response = await peer.receive()
            if response.commands:
                assert response.first_sequence == len(told) + 1
                told.extend(value(command) for command in response.commands)
            if len(told) >= count:
                return response

    await hear(1)
    for step, (answer, _) in enumerate(CONVERSATION, 1):
        request = {"events": [event("answer", answer)], "first_sequence": step, "ack": step}
        if step - 1 == cut:
            if when == "after the answer is sent":
                await peer.send(**request)
            peer.cancel()
            peer = await examples.resume(peer, received=step)
            assert peer.resumed.received in {step - 1, step}
        await peer.send(**request)  # for the second time, perhaps: it is dropped then
        response = await hear(step + 1)
    assert told == [NAME, *(expected for _, expected in CONVERSATION)]
    if not response.HasField("closed"):
        response = (await peer.receive_until(lambda response: response.HasField("closed")))[-1]
    assert response.closed.reason == pb.CLOSE_REASON_COMPLETED
    await peer.send(ack=response.closed.sequence)
    await peer.half_close()
    assert await peer.receive_all() == []


def test_in_process_the_conversation_is_the_same() -> None:
    transcript = run(greet, [Event("answer", answer) for answer, _ in CONVERSATION])
    assert [command["spec"] for command in transcript.commands] == [NAME, *(expected for _, expected in CONVERSATION)]
    assert transcript.reason is CloseReason.COMPLETED


async def test_a_client_holds_the_conversation(examples: Served) -> None:
    told: list[Any] = []
    answers = iter(answer for answer, _ in CONVERSATION)
    async with SessionClient(examples.address) as client, client.open("greet") as session:
        async for command in session:
            told.append(command.spec)
            if command.command == "ask":
                await session.send_event("answer", next(answers))
    assert told == [NAME, *(expected for _, expected in CONVERSATION)]
