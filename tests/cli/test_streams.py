"""Standard streams that are closed, full, or of an encoding that lacks characters, for every command."""

from __future__ import annotations

import asyncio
import sys

import pytest

from .person import CTRL_D
from .program import PATIENCE, Ended, Program, Served

ECHO = """
    from session_service import get_current_session

    async def echo():
        session = get_current_session()
        session.send_task_command({"command": "hello", "spec": "Zo\u00eb \u20ac \u732b"})
        while True:
            event = await session.next_client_event()
            session.send_task_command({"command": "echo", "spec": event["data"]})
"""


def redirected(program: Program, redirection: str) -> Program:
    """Have what runs next run under a redirection of the shell."""
    program.command = ("sh", "-c", f'exec "$0" -m session_service "$@" {redirection}', sys.executable)
    return program


@pytest.fixture
async def served(program: Program) -> Served:
    program.write(ECHO)
    return await program.serve("--admin-listen", f"unix:{program.folder}/admin", "apps:echo")


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
async def test_a_server_serves_and_ends_well_whatever_its_streams_are(program: Program, redirection: str) -> None:
    program.write(ECHO)
    address = f"unix:{program.folder}/socket"
    process = await redirected(program, redirection).start("serve", "--listen", address, "apps:echo")
    program.command = (sys.executable, "-m", "session_service")
    async with asyncio.timeout(PATIENCE):
        while (await program.run("healthcheck", address)).code != 0:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
    ended = await program.run("attach", address, "echo", stdin=b"one\n")
    assert ended.code == 0
    assert '"spec":"one"' in ended.stdout

    process.terminate()

    _, stderr = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in stderr
    if redirection == ">/dev/full":
        assert f"listening on {address}, which stdout did not take: No space left on device" in stderr.decode()


async def run(program: Program, redirection: str, *args: str) -> Ended:
    return await redirected(program, redirection).run(*args, stdin=b"one\n")


@pytest.mark.parametrize(
    ("redirection", "why"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        ["serve", "--help"],
        ["attach", "SERVED", "echo"],
        ["token", "tokens", "ada"],
        ["sessions", "list", "--admin", "ADMIN"],
        ["sessions", "list", "--admin", "ADMIN", "--json"],
        ["sessions", "show", "--admin", "ADMIN", "SESSION"],
        ["sessions", "close", "--admin", "ADMIN", "SESSION", "--json"],
        ["drain", "--admin", "ADMIN"],
    ],
    ids=" ".join,
)
async def test_a_stdout_that_is_full_or_closed_is_told_in_one_line(
    program: Program, served: Served, command: list[str], redirection: str, why: str
) -> None:
    peer = await served.open("echo")
    places = {"SERVED": served.address, "ADMIN": f"unix:{program.folder}/admin", "SESSION": peer.opened.session_id}
    ended = await run(program, redirection, *(places.get(word, word) for word in command))

    assert ended.code == 1
    assert ended.stderr == f"session-service: cannot write to stdout: {why}\n"


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
async def test_a_session_goes_on_where_stderr_takes_nothing(program: Program, served: Served, redirection: str) -> None:
    ended = await run(program, redirection, "attach", served.address, "echo")

    assert (ended.code, ended.stdout.count("\n")) == (0, 2)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "<&- >&- 2>&-"])
async def test_a_token_that_nobody_has_seen_lets_nobody_in(program: Program, redirection: str) -> None:
    ended = await run(program, redirection, "token", "tokens", "ada")

    assert ended.code == 1

    assert (program.folder / "tokens").read_text() == ""


async def test_a_token_is_told_to_let_nobody_in_where_the_file_takes_nothing(program: Program) -> None:
    ended = await program.run("token", "/dev/full", "ada")

    assert ended.code == 2
    assert ended.stdout.count("\n") == 1
    assert "one above lets nobody in" in ended.stderr


async def test_a_terminal_that_lacks_characters_shows_their_codes(
    program: Program, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    person = await program.at_terminal("attach", served.address, "echo")
    await person.sees('\\u20ac \\u732b"\n> ')
    person.types("é\n".encode("latin-1"))
    await person.sees("\n> ")
    person.types(CTRL_D)

    assert await person.exit_code() == 0
    assert b'echo "\xe9"' in person.output
    assert "* closed: CLIENT" in person.screen


async def test_a_table_shows_codes_where_characters_are_lacking(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.write(ECHO)
    admin = f"unix:{program.folder}/admin"
    served = await program.serve("--admin-listen", admin, "\u732b=apps:echo")
    await served.open("\u732b")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")

    ended = await program.run("sessions", "list", "--admin", admin)

    assert ended.code == 0
    assert "\\u732b" in ended.stdout
