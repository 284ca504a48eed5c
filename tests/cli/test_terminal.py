"""``session-service attach`` at a terminal: a prompt, commands above it, Ctrl-D, Ctrl-C, a lost connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from ..client.relay import Relay
from .person import CTRL_C, CTRL_D
from .program import PATIENCE, Program, Served

APPS = """
    import asyncio
    from session_service import get_current_session

    def send(command, spec):
        get_current_session().send_task_command({"command": command, "spec": spec})

    async def echo():
        send("hello", None)
        while True:
            event = await get_current_session().next_client_event()
            send("echo", [event["event"], event["data"]])

    async def clicks():
        session = get_current_session()
        send("button", session.register_callback(lambda data: send("clicked", data)))
        await session.next_client_event()

    async def hostile():
        send("one\\x1b[2J\\ntwo", "\\x9b\\u202e")
        send("blob", b"x")

    async def left():
        get_current_session().defer_call(lambda: print("left", flush=True))
        send("hello", None)
        await asyncio.sleep(3600)

    async def stubborn():
        send("hello", None)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                send("ignored", None)
"""


@pytest.fixture
async def served(program: Program) -> Served:
    """Serve the apps."""
    program.write(APPS)
    names = ["echo", "clicks", "hostile", "left", "stubborn"]
    return await program.serve(*(f"apps:{name}" for name in names), "session_service.examples:greet")


@pytest.fixture
async def relay(served: Served) -> AsyncIterator[Relay]:
    """Put a relay before the server."""
    relay = Relay(served.address)
    await relay.start()
    yield relay
    await relay.close()


def without_id(screen: str) -> str:
    """Return what does not differ from run to run."""
    return re.sub(r"session [0-9a-f]+:", "session ID:", screen)


HEAD = "* session ID: Ctrl-D ends the events, Ctrl-C the session\n"


async def test_a_conversation_reads_like_one(program: Program, served: Served) -> None:
    person = await program.at_terminal("attach", served.address, "greet")
    await person.sees('ask {"question":"What is your name?","problem":null}\n> ')
    person.types("Ada\n")
    await person.sees('ask {"question":"How old are you, Ada?","problem":null}\n> ')
    person.types("answer 36\n")
    assert await person.exit_code() == 0
    assert without_id(person.screen) == (
        HEAD + 'ask {"question":"What is your name?","problem":null}\n'
        "> Ada\n"
        'ask {"question":"How old are you, Ada?","problem":null}\n'
        "> answer 36\n"
        'greeting {"text":"Hello Ada, 36 is a fine age!"}\n'
        "* closed: COMPLETED\n"
    )


async def test_other_tasks_are_shown_as_they_are_addressed(program: Program, served: Served) -> None:
    person = await program.at_terminal("attach", served.address, "clicks")
    await person.sees('button "callback-2"\n> ')
    person.types("@callback-2 callback 1\n")
    await person.sees("@callback-2-1 clicked 1\n> ")
    person.types(CTRL_D)
    assert await person.exit_code() == 0


async def test_a_typing_error_is_said_and_costs_nothing(program: Program, served: Served) -> None:
    person = await program.at_terminal("attach", served.address, "echo")
    await person.sees("hello null\n> ")
    person.types("answer {x}\n")
    await person.sees("to send the line as text, begin it with \\\n> ")
    person.types("\\answer {x}\n")
    await person.sees('echo ["input","answer {x}"]\n> ')
    person.types(CTRL_D)
    assert await person.exit_code() == 0


async def test_what_an_app_sends_cannot_steer_the_terminal(program: Program, served: Served) -> None:
    person = await program.at_terminal("attach", served.address, "hostile")
    assert await person.exit_code() == 0
    assert 'one\\x1b[2J\\ntwo "\\x9b\\u202e"\nblob {"blob":"eA=="}\n* closed: COMPLETED\n' in person.screen


async def test_a_terminal_that_is_closed_ends_the_session(program: Program, served: Served) -> None:
    person = await program.at_terminal("attach", served.address, "left")
    await person.sees("hello null\n> ")
    person.leave()
    async with asyncio.timeout(PATIENCE):
        assert await served.stdout.readline() == b"left\n"


async def test_ctrl_d_ends_the_events(program: Program, served: Served) -> None:
    person = await program.at_terminal("attach", served.address, "echo")
    await person.sees("hello null\n> ")
    person.types("one\n")
    await person.sees('echo ["input","one"]\n> ')
    person.types(CTRL_D)
    assert await person.exit_code() == 0
    assert person.screen.endswith('echo ["input","one"]\n> \n* closed: CLIENT\n')


async def test_ctrl_c_closes_now(program: Program, served: Served) -> None:
    person = await program.at_terminal("attach", served.address, "echo")
    await person.sees("hello null\n> ")
    person.types(CTRL_C)
    assert await person.exit_code() == 0
    assert without_id(person.screen) == (
        HEAD + "hello null\n* closing: Ctrl-C once more does not wait for it\n* closed: CLIENT: Ctrl-C\n"
    )


async def test_ctrl_c_once_more_does_not_wait(program: Program, served: Served) -> None:
    person = await program.at_terminal("attach", served.address, "stubborn")
    await person.sees("hello null\n> ")
    person.types(CTRL_C)
    await person.sees("* closing: Ctrl-C once more does not wait for it\n")
    person.types(CTRL_C)
    assert await person.exit_code() == 130
    assert "Traceback" not in person.screen


async def test_a_lost_connection_is_said_once_and_costs_nothing(program: Program, served: Served, relay: Relay) -> None:
    person = await program.at_terminal("attach", relay.address, "echo")
    await person.sees("hello null\n> ")
    await relay.refuse()
    await person.sees(": trying again\n> ")
    person.types("one\n")
    await person.sees("> one\n> ")
    person.types("two\n")
    await person.sees("> two\n> ")
    await relay.accept()
    await person.sees('echo ["input","one"]\necho ["input","two"]\n> ')
    person.types(CTRL_D)
    assert await person.exit_code() == 0
    screen = re.sub(r"\(.*\)", "(WHY)", without_id(person.screen))
    assert screen == (
        HEAD + "hello null\n"
        "* no connection (WHY): trying again\n"
        "> one\n"
        "> two\n"
        "* connected\n"
        'echo ["input","one"]\n'
        'echo ["input","two"]\n'
        "> \n"
        "* closed: CLIENT\n"
    )


async def test_a_session_that_cannot_be_reached_any_more_is_given_up(
    program: Program, served: Served, relay: Relay
) -> None:
    person = await program.at_terminal("attach", "--timeout", "0.5", relay.address, "echo")
    await person.sees("hello null\n> ")
    await relay.refuse()
    assert await person.exit_code() == 1
    assert "not reached within 0.5 s" in person.screen.splitlines()[-1]
    assert "Traceback" not in person.screen


async def test_when_only_stdin_is_a_terminal_commands_are_json_and_nothing_prompts(
    program: Program, served: Served
) -> None:
    person = await program.at_terminal("attach", served.address, "echo", within=("/bin/sh", "-c", '"$@" | cat', "sh"))
    await person.sees('{"command":"hello","task_id":"main-1","spec":null}\n')
    person.types(CTRL_D)
    await person.exit_code()
    assert person.screen == '{"command":"hello","task_id":"main-1","spec":null}\nsession-service: closed: CLIENT\n'
