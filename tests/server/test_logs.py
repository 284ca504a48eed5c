"""The log of a real server: what its lines hold, and what they never do."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from typing import Any

import grpc

from session_service.cli.logs import JsonFormatter
from session_service.server.auth.tokens import add_token
from session_service.server.statuses import as_error
from session_service.v1 import session_pb2 as pb

from ..cli.program import Program, Served
from ..protocol.peer import PATIENCE, Metadata, Peer, event

APPS = """
    import asyncio, logging, sys, threading, warnings
    from session_service import get_current_session

    mine = logging.getLogger("mine")

    async def echo():
        session = get_current_session()
        mine.info("has begun")
        while (event := await session.next_client_event())["event"] != "stop":
            session.send_task_command({"command": "echo", "spec": event["data"]})

    async def fails():
        await get_current_session().next_client_event()
        raise ValueError("on purpose")

    def fails_in_thread():
        get_current_session().next_client_event()
        raise ValueError("in a thread")

    class Unraisable:
        def __del__(self):
            raise ValueError("that nobody can catch")

    async def noisy():
        warnings.warn("of an app")
        thread = threading.Thread(target=lambda: 1 / 0, name="noisy")
        thread.start()
        thread.join()
        Unraisable()
        mine.info("two\\nlines, one \\u2028 separator, and half a pair: \\ud800")

        async def lost():
            raise ValueError("in a task that nobody awaits")

        asyncio.create_task(lost())
        await asyncio.sleep(0)
"""

PAYLOAD = "the-planted-payload"


def entries(served: Served) -> list[dict[str, Any]]:
    """Return what the lines of the log hold; each must be an object."""
    found = [json.loads(line) for line in served.log().splitlines()]
    assert found
    for entry in found:
        assert isinstance(entry, dict)
        assert entry.keys() >= {"time", "level", "logger", "message"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])
    return found


def entry(served: Served, message: str) -> dict[str, Any]:
    """Return the one whose message, or exception, holds this."""
    (found,) = (each for each in entries(served) if message in each["message"] + each.get("exception", ""))
    return found


async def take_the_end(peer: Peer) -> None:
    """Read and acknowledge `closed`, so that the session is over for the server, too."""
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    await peer.send(ack=responses[-1].closed.sequence)
    await peer.receive_all()


async def ended(served: Served) -> None:
    served.signal()
    assert await served.exit_code() == 0


# --- json -------------------------------------------------------------------------------------------------------------


async def test_a_line_about_a_session_says_which_and_whose(program: Program) -> None:
    program.write(APPS)
    token = add_token(str(program.folder / "tokens"), "ada")
    metadata = [("authorization", f"Bearer {token}")]
    served = await program.serve("--log-format", "json", "--token-file", "tokens", "apps:echo")
    peer = await served.open("echo", resumable=True, metadata=metadata)
    await peer.send(events=[event("say", 1)], first_sequence=1)
    await peer.receive_commands(1)
    peer = await served.resume(peer, received=1, metadata=metadata)
    await peer.send(close=pb.Close(now=True, reason="enough"))
    await take_the_end(peer)
    await ended(served)

    known = {"session_id": peer.opened.session_id, "app": "echo", "principal": "ada"}
    assert known.items() <= entry(served, ": opened").items()
    assert {**known, "generation": 1, "task_id": "main-1"}.items() <= entry(served, "has begun").items()
    for message in ("resumed", "its client closes it", "ended, CLIENT"):
        found = entry(served, message)
        assert {**known, "generation": 2}.items() <= found.items()
        assert "task_id" not in found


async def test_a_failure_has_the_error_id_that_the_client_is_told(program: Program) -> None:
    program.write(APPS)
    served = await program.serve("--log-format", "json", "apps:fails", "apps:fails_in_thread")
    for app, text in (("fails", "on purpose"), ("fails_in_thread", "in a thread")):
        peer = await served.open(app, command_format=pb.PAYLOAD_FORMAT_JSON)
        await peer.send(events=[event()])
        (command,) = await peer.receive_commands(1)
        await peer.receive_all()
        found = entry(served, f"ValueError: {text}")
        assert (found["level"], found["app"], found["task_id"]) == ("ERROR", app, "main-1")
        assert found["error_id"] == json.loads(command.json)["id"]
        assert found["exception"].startswith("Traceback")


def test_a_fault_of_the_server_has_the_error_id_that_the_client_is_told(caplog: Any) -> None:
    fault = as_error(RuntimeError("a bug"))
    found = json.loads(JsonFormatter().format(caplog.records[0]))
    assert found["error_id"] == fault.details["error_id"]
    assert found["exception"].endswith("RuntimeError: a bug")


async def test_whatever_comes_to_be_said_is_a_line_that_can_be_parsed(program: Program) -> None:
    program.write(APPS)
    served = await program.serve("--log-format", "json", "--debug", "apps:noisy")
    host, _, port = served.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")  # no gRPC: its core has something to say
    await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    peer = await served.open("noisy")
    await peer.receive_all()
    await ended(served)
    assert entry(served, "UserWarning: of an app")["logger"] == "py.warnings"
    assert entry(served, "ended the thread noisy")["exception"].endswith("ZeroDivisionError: division by zero")
    assert entry(served, "that nobody can catch")["level"] == "ERROR"
    assert entry(served, "in a task that nobody awaits")["logger"] == "asyncio"
    assert entry(served, "two\nlines")["message"] == "two\nlines, one \u2028 separator, and half a pair: \ud800"


async def test_no_token_and_no_payload_is_ever_logged(program: Program) -> None:
    program.write(APPS)
    token = add_token(str(program.folder / "tokens"), "ada")
    metadata = [("authorization", f"Bearer {token}"), ("x-planted", PAYLOAD)]
    served = await program.serve(
        *("--log-format", "json", "--debug", "--token-file", "tokens", "--max-sessions", "3"), "apps:echo", "apps:fails"
    )
    resume_token, session_id = await talk(served, metadata)
    await misbehave(served, metadata)
    await ended(served)

    assert entries(served)
    log = served.log()
    assert session_id in log
    for secret in (token, "wrong-token", resume_token, PAYLOAD):
        assert secret not in log


async def talk(served: Served, metadata: Metadata) -> tuple[str, str]:
    """Plant what is secret wherever a client can; return what the server added to it."""
    planted = {"x": PAYLOAD, PAYLOAD: 1}
    peer = await served.open(
        "echo", resumable=True, request_id=f"{PAYLOAD}-{PAYLOAD}", metadata=metadata, params=planted
    )
    await peer.send(
        events=[event("say", planted), pb.Event(event="say", blob=PAYLOAD.encode()), event(PAYLOAD, 1)],
        first_sequence=1,
    )
    await peer.receive_commands(3)
    await peer.send(events=[event("say", planted, task_id="nobody")], first_sequence=4)
    peer.cancel()
    peer = await served.resume(peer, received=3, metadata=metadata)
    newer = await served.resume(peer, received=3, metadata=metadata)
    assert (await peer.status()).reason == "TAKEN_OVER"
    await newer.send(close=pb.Close(now=True))
    await take_the_end(newer)
    failed = await served.open("fails", metadata=metadata)
    await failed.send(events=[event("go", planted)])
    await failed.receive_all()
    return newer.opened.resume_token, newer.opened.session_id


async def misbehave(served: Served, metadata: Metadata) -> None:
    """Do all that is refused, with what is secret in it."""
    refused = served.attach([("authorization", "Bearer wrong-token")])
    await refused.send(open=pb.Open(app="echo"))
    assert (await refused.status()).code is grpc.StatusCode.UNAUTHENTICATED
    for fields in (
        {"open": pb.Open(app=PAYLOAD)},
        {"resume": pb.Resume(session_id=PAYLOAD, resume_token=PAYLOAD)},
        {"close": pb.Close(reason=PAYLOAD)},
    ):
        refused = served.attach(metadata)
        await refused.send(**fields)
        await refused.status()
    for bad in (pb.Event(event="say", json=f'{{"{PAYLOAD}": '), pb.Event(event="say", json=f'["{PAYLOAD}", NaN]')):
        peer = await served.open("echo", metadata=metadata)
        await peer.send(events=[bad])
        assert (await peer.status()).reason == "PAYLOAD_INVALID"
    host, _, port = served.address.rpartition(":")
    with socket.create_connection((host, int(port))) as other:
        other.sendall(f"GET /{PAYLOAD} HTTP/1.1\r\n\r\n".encode())


# --- text -------------------------------------------------------------------------------------------------------------


async def test_for_people_what_is_known_follows_the_message(program: Program) -> None:
    program.write(APPS)
    token = add_token(str(program.folder / "tokens"), "ada lovelace")
    served = await program.serve("--token-file", "tokens", "apps:echo")
    peer = await served.open("echo", metadata=[("authorization", f"Bearer {token}")])
    session_id = peer.opened.session_id
    peer.cancel()
    async with asyncio.timeout(PATIENCE):
        while "ended" not in served.log():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    known = 'app=echo principal="ada lovelace"'
    log = served.log()
    assert f" INFO session_service.cli.logs: session {session_id}: opened [{known}]\n" in log
    assert f" INFO mine: has begun [session_id={session_id} {known} generation=1 task_id=main-1]\n" in log
    assert f": session {session_id}: ended, CLIENT [{known} generation=1]\n" in log


async def test_for_people_a_traceback_has_lines_of_its_own(program: Program) -> None:
    program.write(APPS)
    served = await program.serve("apps:fails")
    peer = await served.open("fails")
    await peer.send(events=[event()])
    await peer.receive_all()
    first = f"task main-1 failed, error {peer.opened.session_id}-e1 [app=fails generation=1 task_id=main-1]\nTraceback"
    assert first in served.log()
    assert "\nValueError: on purpose\n" in served.log()


def test_a_format_for_programs_needs_no_server() -> None:
    record = logging.LogRecord("mine", logging.INFO, __file__, 1, "session %s: %s", ("abc", "x"), None)
    found = json.loads(JsonFormatter().format(record))
    assert (found["message"], found["session_id"]) == ("session abc: x", "abc")
