"""The example `chat`: sessions of one server that talk to each other."""

from __future__ import annotations

from typing import Any, cast

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from session_client import ClientSession, SessionClient

from session_service import AbstractSession, CommandBufferFull, SessionClosedException, get_current_session
from session_service.examples.chat import chat, rooms, tell
from session_service.testing import Close, Event, run

from ..cli.program import Served


async def hear(session: ClientSession) -> tuple[str, str, Any, list[str]]:
    """Return the next thing that somebody in the room is told."""
    command = await anext(session)
    spec = command.spec
    return command.command, spec["name"], spec["text"], spec["here"]


def ada(room: str = "lobby") -> dict[str, str]:
    return {"room": room, "name": "Ada"}


def bob(room: str = "lobby") -> dict[str, str]:
    return {"room": room, "name": "Bob"}


async def test_all_who_are_there_hear_what_is_said(examples: Served) -> None:
    async with SessionClient(examples.address) as client, client.open("chat", params=ada()) as first:
        assert await hear(first) == ("entered", "Ada", None, ["Ada"])
        async with client.open("chat", params=bob()) as second:
            for session in (first, second):
                assert await hear(session) == ("entered", "Bob", None, ["Ada", "Bob"])
            await first.send_event("say", "hello")
            for session in (first, second):
                assert await hear(session) == ("said", "Ada", "hello", ["Ada", "Bob"])
        assert await hear(first) == ("left", "Bob", None, ["Ada"])


async def test_other_rooms_hear_nothing(examples: Served) -> None:
    async with (
        SessionClient(examples.address) as client,
        client.open("chat", params=ada("one")) as first,
        client.open("chat", params=bob("two")) as second,
    ):
        for session in (first, second):
            await session.send_event("say", "hello")
        for session, name in ((first, "Ada"), (second, "Bob")):
            assert await hear(session) == ("entered", name, None, [name])
            assert await hear(session) == ("said", name, "hello", [name])


async def test_who_loses_a_plain_connection_has_left(examples: Served) -> None:
    async with SessionClient(examples.address) as client, client.open("chat", params=ada()) as first:
        peer = await examples.open("chat", params=json_format.ParseDict(bob(), Struct()))
        assert [(await hear(first))[:2] for _ in range(2)] == [("entered", "Ada"), ("entered", "Bob")]
        peer.cancel()
        assert await hear(first) == ("left", "Bob", None, ["Ada"])


async def test_who_loses_the_connection_of_a_resumable_session_is_still_there(examples: Served) -> None:
    async with SessionClient(examples.address) as client, client.open("chat", params=ada()) as first:
        async with client.open("chat", params=bob()) as second:
            await hear(second)
            position = await second.detach()
        await first.send_event("say", "still there?")
        async with client.resume(position) as second:
            assert await hear(second) == ("said", "Ada", "still there?", ["Ada", "Bob"])


def test_somebody_alone_hears_himself_and_leaves_no_room_behind() -> None:
    transcript = run(chat, [Event("say", "hello?"), Event("say", {"no": "text"}), Event("wave")], params=ada("empty"))
    assert [command["command"] for command in transcript.commands] == ["entered", "said"]
    assert rooms == {}


def test_a_room_is_left_however_the_session_ends() -> None:
    def check(_: Any) -> None:
        assert list(rooms) == ["here"]

    run(chat, [check, Close()], params=ada("here"))
    assert rooms == {}


class Listener:
    """What a room knows of a session."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.closed_with: str | None = None

    def send_task_command(self, command: Any) -> None:
        raise self.error

    def close(self, *, message: str) -> None:
        self.closed_with = message


@pytest.mark.parametrize(
    ("error", "closed_with"),
    [(SessionClosedException("bye"), None), (CommandBufferFull("full"), "you have not been listening")],
    ids=["one who is about to leave", "one who does not listen"],
)
def test_nobody_is_held_up_by(error: Exception, closed_with: str | None) -> None:
    listener = Listener(error)

    async def app() -> None:
        room = {cast(AbstractSession, listener): "Bob", get_current_session(): "Ada"}
        tell(room, "said", "Ada", "hello")

    assert [command["command"] for command in run(app).commands] == ["said"]
    assert listener.closed_with == closed_with
