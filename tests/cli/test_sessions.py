"""``sessions`` and ``drain``: tables for people, JSON for programs, and what they do to a server."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from asyncio.subprocess import Process
from typing import Any

import pytest

from session_service.v1 import session_pb2 as pb

from ..protocol.peer import Peer
from ..server.authority import Authority
from .person import Person
from .program import PATIENCE, Ended, Program, Served

APPS = """
    from session_service import get_current_session

    async def idle():
        get_current_session().register_callback(on_click)
        await get_current_session().next_client_event()

    async def echo():
        session = get_current_session()
        while True:
            event = await session.next_client_event()
            session.send_task_command({"command": "echo", "spec": event["data"]})

    def on_click(_):
        pass

    apps = {"idle": idle, "echo": echo}
"""


@pytest.fixture(autouse=True)
def admin(program: Program, monkeypatch: pytest.MonkeyPatch) -> str:
    program.write(APPS)
    return f"unix:{program.folder}/admin"


async def serve(program: Program, *options: str) -> Served:
    return await program.serve(*options, "--admin-listen", f"unix:{program.folder}/admin", "apps:apps")


async def run(program: Program, *args: str) -> Ended:
    """Run a command, with the address of the admin service in the environment."""
    return await program.run(*args, SESSION_SERVICE_ADMIN=f"unix:{program.folder}/admin")


def id_of(peer: Peer) -> str:
    return peer.opened.session_id


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_sessions_are_listed_in_a_table(program: Program) -> None:
    served = await serve(program)
    first, second = await served.open("idle"), await served.open("echo", resumable=True)
    ended = await run(program, "sessions", "list")
    assert (ended.code, ended.stderr) == (0, "")
    head, *rows = ended.stdout.splitlines()
    assert head.split() == ["SESSION", "APP", "PRINCIPAL", "STATE", "STREAMS", "AGE", "LAG", "PEER"]
    assert [row.split()[:5] for row in rows] == [
        [id_of(first), "idle", "-", "attached", "1"],
        [id_of(second), "echo", "-", "attached", "1"],
    ]
    assert "\x1b" not in ended.stdout
    assert all(line == line.rstrip() for line in ended.stdout.splitlines())


async def test_a_list_is_an_object_a_line_for_programs_whatever_its_length(program: Program) -> None:
    served = await serve(program)
    peers = [await served.open("idle", resumable=True) for _ in range(1100)]  # more than a page
    ended = await run(program, "sessions", "list", "--json")
    assert [session["session_id"] for session in objects(ended.stdout)] == [id_of(peer) for peer in peers]
    assert objects(ended.stdout)[0]["state"] == "SESSION_STATE_ATTACHED"


async def test_a_list_is_filtered(program: Program) -> None:
    served = await serve(program)
    idle, echo = await served.open("idle"), await served.open("echo")

    async def listed(*options: str) -> list[str]:
        return [
            session["session_id"]
            for session in objects((await run(program, "sessions", "list", "--json", *options)).stdout)
        ]

    assert await listed("--app", "idle") == [id_of(idle)]
    assert await listed("--state", "attached") == [id_of(idle), id_of(echo)]
    assert await listed("--state", "detached") == []
    assert await listed("--principal", "ada") == []


async def test_a_session_is_shown_with_its_streams_and_tasks(program: Program) -> None:
    served = await serve(program)
    peer = await served.open("idle", resumable=True, headers={"User-Agent": "[red]\x1b[31mevil"})
    await served.resume(peer)
    shown = (await run(program, "sessions", "show", id_of(peer))).stdout
    assert "TAKEN_OVER" in shown
    assert "[red]\\x1b[31mevil" in shown  # neither markup nor what steers a terminal
    rows = [line.split() for line in shown.splitlines()]
    assert ["main-1", "idle", "for", "an", "event", "0"] in rows
    assert ["callback-2", "on_click", "0", "0", "0"] in rows
    (shown_json,) = objects((await run(program, "sessions", "show", id_of(peer), "--json")).stdout)
    assert shown_json["session"]["generation"] == "2"
    assert [one["detach_reason"] for one in shown_json["attachments"]] == ["TAKEN_OVER", ""]


async def test_stacks_are_shown_in_debug_mode(program: Program) -> None:
    served = await serve(program, "--debug")
    shown = (await run(program, "sessions", "show", id_of(await served.open("idle")))).stdout
    assert "main-1 is at" in shown
    assert "await get_current_session().next_client_event()" in shown


async def test_a_closed_session_tells_its_client_why(program: Program) -> None:
    served = await serve(program)
    peer = await served.open("idle")
    ended = await run(program, "sessions", "close", id_of(peer), "--reason", "time is up")
    assert (ended.code, ended.stdout, ended.stderr) == (0, "", "")
    closed = (await peer.receive_all())[-1].closed
    assert (closed.reason, closed.message) == (pb.CLOSE_REASON_SERVER, "time is up")
    assert "an administrator closes it: 'time is up'" in served.log()


async def test_what_the_server_refuses_is_one_line_and_code_1(program: Program) -> None:
    await serve(program)
    for command in (["show", "nobody"], ["close", "nobody", "--now"]):
        ended = await run(program, "sessions", *command)
        assert (ended.code, ended.stdout) == (1, "")
        assert ended.stderr.endswith("NOT_FOUND: no session here of this id: it is forgotten, or never was\n")
        assert ended.stderr.count("\n") == 1
    ended = await program.run("sessions", "list", "--admin", f"unix:{program.folder}/nothing")
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert "UNAVAILABLE" in ended.stderr


@pytest.mark.parametrize("command", [("sessions", "list"), ("drain",)])
async def test_the_address_must_be_said(program: Program, command: tuple[str, ...]) -> None:
    ended = await program.run(*command)
    assert (ended.code, ended.stdout) == (2, "")
    assert "say where the admin service is" in ended.stderr


async def watching(program: Program, *options: str) -> Process:
    """Start to watch, and wait until the server knows it: a change that is sure to come has come."""
    return await program.start("sessions", "watch", "--admin", f"unix:{program.folder}/admin", *options)


async def lines(process: Process, count: int) -> list[str]:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return [(await process.stdout.readline()).decode() for _ in range(count)]


async def open_until_watched(served: Served, process: Process) -> str:
    """Open sessions until the watch tells of one, and return its first line."""
    reading = asyncio.create_task(lines(process, 1))
    while not reading.done():
        await served.open("idle")
    return reading.result()[0]


async def test_a_watch_is_a_line_for_each_change(program: Program) -> None:
    served = await serve(program)
    process = await watching(program, "--app", "idle")
    assert "  opened    idle  -  ipv4:127.0.0.1:" in await open_until_watched(served, process)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        _, stderr = await process.communicate()
    assert (process.returncode, stderr) == (0, b"")


async def test_a_watch_is_an_object_a_line_for_programs_and_ends_with_the_server(program: Program) -> None:
    served = await serve(program)
    process = await watching(program, "--json")
    first = json.loads(await open_until_watched(served, process))
    assert first["change"] in ("SESSION_CHANGE_OPENED", "SESSION_CHANGE_ATTACHED")
    assert first["session"]["app"] == "idle"
    ended = await run(program, "drain", "--grace", "0")
    assert ended.code == 0
    assert await served.exit_code() == 0
    async with asyncio.timeout(PATIENCE):
        stdout, stderr = await process.communicate()
    assert (process.returncode, stderr.decode()) == (0, "session-service: the server has ended\n")
    assert {change["change"] for change in objects(stdout.decode())} >= {
        "SESSION_CHANGE_ENDED",
        "SESSION_CHANGE_DETACHED",
    }


async def test_a_watch_of_which_nobody_reads_any_more_ends_quietly(program: Program) -> None:
    served = await serve(program)
    process = await watching(program, "--json")
    await open_until_watched(served, process)
    assert process.stdout is not None
    transport: Any = process.stdout._transport  # type: ignore[attr-defined]  # asyncio has no other way to close it
    transport.close()
    waiting = asyncio.create_task(process.wait())
    while not waiting.done():
        await served.open("idle")
    assert process.stderr is not None
    assert (process.returncode, await process.stderr.read()) == (1, b"")


async def reads(person: Person, text: str) -> None:
    """Wait until that stands, or has stood, on the screen."""
    async with asyncio.timeout(PATIENCE):
        while text not in person.screen:
            person._changed.clear()
            await person._changed.wait()


async def test_on_a_terminal_a_watch_is_a_table_that_changes(program: Program) -> None:
    served = await serve(program)
    first = await served.open("idle")
    person = await program.at_terminal("sessions", "watch", "--admin", f"unix:{program.folder}/admin")
    await reads(person, id_of(first))
    second = await served.open("echo")
    await reads(person, id_of(second))
    await reads(person, "2 sessions, 2 attached")
    await first.send(close=pb.Close())
    await reads(person, "1 sessions, 1 attached")
    await run(program, "drain", "--grace", "0")
    await reads(person, "the server has ended")
    assert await person.exit_code() == 0


async def test_a_drain_says_what_it_does_and_the_server_exits_0(program: Program) -> None:
    served = await serve(program, "--shutdown-grace", "7")
    peer = await served.open("idle")
    assert (await run(program, "drain")).stdout == "draining: 1 sessions have 7 s to end by themselves\n"
    (response,) = objects((await run(program, "drain", "--grace", "0", "--json")).stdout)
    assert response == {"sessions": 1, "grace": "0s"}
    assert (await peer.receive_all())[-1].closed.reason == pb.CLOSE_REASON_SHUTDOWN
    assert await served.exit_code() == 0


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:admin"])
async def test_a_server_with_tls_and_tokens_wants_them_from_administrators_as_well(
    program: Program, authority: Authority, listen: str
) -> None:
    token = (await program.run("token", "tokens", "root")).stdout.strip()
    (program.folder / "ca.pem").write_bytes(authority.cert)
    identity = authority.server().write(program.folder)
    served = await program.serve(*identity, "--token-file", "tokens", "--admin-listen", listen, "apps:apps")
    (address,) = re.findall(r"the admin service listens on (\S+)", served.log())
    options = ("sessions", "list", "--json", "--admin", address)
    ended = await program.run(*options, "--tls-ca", "ca.pem", SESSION_SERVICE_TOKEN=token)
    assert (ended.stderr, ended.code, ended.stdout) == ("", 0, "")
    ended = await program.run(*options, "--tls-ca", "ca.pem")
    assert (ended.code, "UNAUTHENTICATED" in ended.stderr) == (1, True)
    assert (await program.run(*options, SESSION_SERVICE_TOKEN=token)).code == 1


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def test_an_admin_address_that_cannot_be_had_is_one_line(program: Program) -> None:
    await serve(program)
    ended = await program.run(
        "serve", "--listen", "127.0.0.1:0", "--admin-listen", f"unix:{program.folder}/admin", "apps:apps"
    )
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert f"cannot listen on unix:{program.folder}/admin" in ended.stderr
