"""``session-service attach`` in a script: lines from a pipe or a file, commands as JSON, an exit code."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from .program import Program

APPS = """
    from google.protobuf import any_pb2, duration_pb2
    from session_service import get_current_session

    def send(command, spec):
        get_current_session().send_task_command({"command": command, "spec": spec})

    async def echo():
        session = get_current_session()
        while True:
            event = await session.next_client_event()
            send("echo", [event["event"], event["data"]])
            await session.drain()

    async def sizes():
        event = await get_current_session().next_client_event()
        send("size", [event["event"], type(event["data"]).__name__, len(event["data"])])

    async def params():
        send("params", dict(get_current_session().params))

    async def clicks():
        session = get_current_session()
        send("button", session.register_callback(lambda data: send("clicked", data)))
        session.defer_call(lambda: print("left", flush=True))
        while True:
            await session.next_client_event()

    async def payloads():
        send("blob", b"\\x00\\xff")
        send("typed", duration_pb2.Duration(seconds=3))
        send("unknown", any_pb2.Any(type_url="example.org/nobody.Knows", value=b"\\x08\\x01"))
        send("text", "\\x1b[31m two\\nlines é")

    async def fails():
        raise ValueError("on purpose")

    async def closes():
        get_current_session().close()

    async def leaves():
        await get_current_session().next_client_event()

    async def flood():
        while True:
            send("flood", "x" * 1000)
            await get_current_session().drain()
"""


def commands(stdout: str) -> list[tuple[str, Any]]:
    """Return what was written, line by line."""
    shown = [json.loads(line) for line in stdout.splitlines()]
    return [(command["command"], command["spec"]) for command in shown]


@pytest.fixture
async def address(program: Program) -> str:
    """Serve the apps."""
    program.write(APPS)
    served = await program.serve(
        *(
            f"apps:{name}"
            for name in ["echo", "params", "clicks", "payloads", "fails", "closes", "leaves", "flood", "sizes"]
        ),
        "session_service.examples:greet",
    )
    return served.address


# --- a conversation ---------------------------------------------------------------------------------------------------

ANSWERS = b"Ada\nanswer 200\nanswer 36\n"
CONVERSATION = [
    '{"command":"ask","task_id":"main-1","spec":{"question":"What is your name?","problem":null}}',
    '{"command":"ask","task_id":"main-1","spec":{"question":"How old are you, Ada?","problem":null}}',
    '{"command":"ask","task_id":"main-1","spec":{"question":"How old are you, Ada?",'
    '"problem":"nobody is 200 years old"}}',
    '{"command":"greeting","task_id":"main-1","spec":{"text":"Hello Ada, 36 is a fine age!"}}',
]


@pytest.mark.parametrize("source", ["pipe", "file"])
async def test_lines_are_sent_and_commands_are_json_lines(program: Program, address: str, source: str) -> None:
    if source == "pipe":
        ended = await program.run("attach", address, "greet", stdin=ANSWERS)
    else:
        (program.folder / "answers").write_bytes(ANSWERS)
        with (program.folder / "answers").open("rb") as file:
            ended = await program.run("attach", address, "greet", stdin=file)
    assert ended == (0, "".join(f"{line}\n" for line in CONVERSATION), "session-service: closed: COMPLETED\n")


async def test_commands_come_out_at_once_so_that_a_program_can_answer(program: Program, address: str) -> None:
    process = await program.start("attach", address, "greet")
    assert process.stdin is not None
    assert process.stdout is not None
    for answer in (b"Ada", b"36"):
        assert json.loads(await process.stdout.readline())["command"] == "ask"
        process.stdin.write(b"answer " + json.dumps(answer.decode()).encode() + b"\n")
    assert json.loads(await process.stdout.readline())["command"] == "greeting"
    assert await process.wait() == 0  # with stdin still open: the session has ended


async def test_the_address_may_come_from_the_environment(program: Program, address: str) -> None:
    ended = await program.run("attach", "echo", stdin=b"say 1\nhello\n", SESSION_SERVICE_ADDRESS=address)
    assert (ended.code, commands(ended.stdout)) == (0, [("echo", ["say", 1]), ("echo", ["input", "hello"])])


async def test_params_are_json_or_text(program: Program, address: str) -> None:
    values = ["name=Ada", "age=36", 'list=[1, "x"]', 'digits="36"', "a=b=c", "nothing=", "nan=NaN"]
    ended = await program.run("attach", address, "params", *(word for value in values for word in ("--param", value)))
    expected = {"name": "Ada", "age": 36, "list": [1, "x"], "digits": "36", "a": "b=c", "nothing": "", "nan": "NaN"}
    assert (ended.code, commands(ended.stdout)) == (0, [("params", expected)])


async def test_callbacks_are_addressed_by_their_id(program: Program, address: str) -> None:
    process = await program.start("attach", address, "clicks")
    assert process.stdin is not None
    assert process.stdout is not None
    button = json.loads(await process.stdout.readline())["spec"]
    process.stdin.write(f'@{button} callback {{"x": 1}}\n'.encode())
    clicked = json.loads(await process.stdout.readline())
    assert (clicked["command"], clicked["spec"]) == ("clicked", {"x": 1})
    assert clicked["task_id"].startswith(button)
    process.stdin.close()
    assert await process.wait() == 0


async def test_every_payload_is_one_line_of_json(program: Program, address: str) -> None:
    ended = await program.run("attach", address, "payloads")
    shown = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [{name: value for name, value in command.items() if name != "task_id"} for command in shown] == [
        {"command": "blob", "blob": "AP8="},
        {"command": "typed", "message": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"}},
        {"command": "unknown", "message": {"@type": "example.org/nobody.Knows", "value": "CAE="}},
        {"command": "text", "spec": "\x1b[31m two\nlines é"},
    ]


async def test_many_more_lines_than_the_window_holds_are_sent_in_order(program: Program, address: str) -> None:
    ended = await program.run("attach", address, "echo", stdin=b"".join(b"n %d\n" % n for n in range(3000)))
    assert commands(ended.stdout) == [("echo", ["n", n]) for n in range(3000)]


async def test_the_last_line_needs_no_end_and_others_may_end_in_crlf(program: Program, address: str) -> None:
    ended = await program.run("attach", address, "echo", stdin=b"one\r\n\r\n\ntwo")
    assert commands(ended.stdout) == [("echo", ["input", "one"]), ("echo", ["input", "two"])]


async def test_the_script_in_the_readme_does_what_it_shows(program: Program) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [(script, shown)] = re.findall(r"^```sh\n(printf .*)\n```\n\n```\n(.*\n)```", readme, re.MULTILINE)
    [app] = re.findall(r"^```python\n(from session_service import .*?)^```", readme, re.DOTALL | re.MULTILINE)
    program.write(app, "order.py")
    served = await program.serve("order:order")
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", script.replace(".venv/bin/session-service", " ".join(program.command))),
        env={**os.environ, "SESSION_SERVICE_ADDRESS": served.address},
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    assert stdout.decode() == shown


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "code", "reason"),
    [
        ("params", 0, "COMPLETED"),
        ("leaves", 0, "CLIENT"),
        ("closes", 1, "SERVER"),
        ("fails", 1, "FAILED: the app failed, error "),
    ],
)
async def test_the_exit_code_tells_how_the_session_ended(
    program: Program, address: str, app: str, code: int, reason: str
) -> None:
    ended = await program.run("attach", address, app)
    assert ended.code == code
    assert ended.stderr.startswith(f"session-service: closed: {reason}")
    assert ended.stderr.count("\n") == 1


async def test_an_unknown_app_is_told_in_one_line(program: Program, address: str) -> None:
    ended = await program.run("attach", address, "nope")
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert ended.stderr.startswith("session-service: APP_NOT_FOUND: ")


async def test_a_server_that_is_not_there_is_told_in_bounded_time(program: Program) -> None:
    with socket.socket() as taken:  # bound, so that nobody else gets the port, but it does not listen
        taken.bind(("127.0.0.1", 0))
        ended = await program.run("attach", "--timeout", "0.5", f"127.0.0.1:{taken.getsockname()[1]}", "app")
    assert (ended.code, ended.stdout) == (1, "")
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("session-service: ")
    assert "Connection refused" in last


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'answer {"x"', "this is no JSON"),
        (b"\xff", "'utf-8' codec can't decode"),
        (b"answer 18446744073709551616", "an integer beyond 64 bits"),
    ],
)
async def test_a_line_that_cannot_be_sent_ends_a_script_at_once(
    program: Program, address: str, line: bytes, problem: str
) -> None:
    ended = await program.run("attach", address, "leaves", stdin=b"\n" + line + b"\nnot sent\n")
    assert (ended.code, ended.stdout) == (1, "")
    first, last = ended.stderr.splitlines()
    assert first.startswith("session-service: line 2: ")
    assert problem in first
    assert last.startswith("session-service: closed: CLIENT")


async def test_when_nobody_reads_stdout_the_session_is_closed_now_without_a_traceback(
    program: Program, address: str
) -> None:
    process = await program.start("attach", address, "flood")
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]  # asyncio has no other way to close it
    assert await process.wait() == 1
    assert await process.stderr.read() == b""


async def test_sigint_closes_now_and_shows_what_still_comes(program: Program) -> None:
    program.write("""
        import asyncio
        from session_service import get_current_session

        async def app():
            session = get_current_session()
            try:
                session.send_task_command({"command": "ready", "spec": None})
                await asyncio.Event().wait()
            finally:
                session.send_task_command({"command": "never", "spec": None})
    """)
    served = await program.serve("apps:app")
    process = await program.start("attach", served.address, "app")
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    assert await process.stdout.read() == b""
    assert (await process.stderr.read()).decode().splitlines()[-1].startswith("session-service: closed: CLIENT")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
async def test_what_ends_the_process_ends_its_session(program: Program, address: str, ending: signal.Signals) -> None:
    process = await program.start("attach", address, "clicks")
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process.send_signal(ending)
    assert await process.wait() == 0
    assert (await process.stderr.read()).decode().splitlines()[-1].startswith("session-service: closed: CLIENT")


async def test_the_bytes_of_a_file_can_be_sent(program: Program, address: str) -> None:
    (program.folder / "photo.jpg").write_bytes(b"\xff\xd8")
    ended = await program.run("attach", address, "sizes", stdin=b"part @photo.jpg\n")
    assert commands(ended.stdout) == [("size", ["part", "bytes", 2])]


async def test_stdin_may_be_closed(program: Program, address: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f"{' '.join(program.command)} attach {address} params <&-", stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await process.communicate()
    assert (process.returncode, commands(stdout.decode())) == (0, [("params", {})])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Missing argument '[ADDRESS] APP'"),
        (["a:1", "b", "c"], "not 3 words"),
        (["127.0.0.1:50051"], "'127.0.0.1:50051' is an address: say which APP to open there"),
        (["[::1]:1"], "'[::1]:1' is an address"),
        (["unix:/run/socket"], "'unix:/run/socket' is an address"),
        (
            ["http://localhost:50051/x", "app"],
            "neither HOST:PORT nor unix:PATH: write localhost:50051, without http://.",
        ),
        (["somewhere", "app"], "'somewhere' is neither HOST:PORT nor unix:PATH"),
        (["app", "--param", "x"], "'x' is no NAME=VALUE"),
        (["app", "--param", "=x"], "'=x' is no NAME=VALUE"),
        (["app", "--param", "x=9007199254740993"], "params.x: an integer beyond 2^53"),
        (["app", "--timeout", "-1"], "--timeout"),
    ],
)
async def test_wrong_usage_is_told_in_one_line(program: Program, arguments: list[str], expected: str) -> None:
    ended = await program.run("attach", *arguments)
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert expected in ended.stderr


async def test_help_shows_what_a_line_means(program: Program) -> None:
    ended = await program.run("attach", "--help")
    assert '\n  NAME JSON       sends the event NAME: answer {"x": 1}\n' in ended.stdout
    assert "\n  \\TEXT           sends the event input with TEXT, whatever it looks like\n" in ended.stdout


async def test_no_proxy_is_asked(program: Program, address: str) -> None:
    ended = await program.run("attach", address, "params", http_proxy="http://127.0.0.1:1", no_proxy="")
    assert (ended.code, commands(ended.stdout)) == (0, [("params", {})])
