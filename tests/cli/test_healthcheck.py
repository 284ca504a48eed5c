"""``session-service healthcheck``: 0 or 1, and why, within bounded time."""

from __future__ import annotations

import re
import socket
import sys

import pytest

from .program import Program

APP = """
    from session_service import get_current_session

    async def app():
        await get_current_session().next_client_event()
"""


async def test_a_server_that_serves_is_healthy(program: Program) -> None:
    program.write(APP)
    served = await program.serve("apps:app")
    assert await program.run("healthcheck", served.address) == (0, "", "")


async def test_the_address_can_come_from_the_environment_and_be_a_socket(program: Program) -> None:
    program.write(APP)
    address = f"unix:{program.folder}/socket"
    await program.serve("apps:app", SESSION_SERVICE_LISTEN=address)
    assert (await program.run("healthcheck", SESSION_SERVICE_ADDRESS=address)).code == 0


async def test_no_proxy_is_asked(program: Program) -> None:
    program.write(APP)
    served = await program.serve("apps:app")
    ended = await program.run("healthcheck", served.address, http_proxy="http://127.0.0.1:1", no_proxy="")
    assert (ended.code, ended.stderr) == (0, "")


async def test_a_server_that_drains_is_not(program: Program) -> None:
    program.write(APP)
    served = await program.serve("apps:app")
    peer = await served.open("app", resumable=True)
    served.signal()
    assert (await peer.receive()).HasField("draining")
    assert await program.run("healthcheck", served.address) == (
        1,
        "",
        f"session-service: {served.address} is not serving: NOT_SERVING\n",
    )
    assert (await program.run("healthcheck", "--service", "live", served.address)).code == 0


async def test_where_nobody_listens_nobody_serves(program: Program) -> None:
    with socket.socket() as taken:  # bound, so that nobody else gets the port, but it does not listen
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await program.run("healthcheck", address)
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert ended.stderr.startswith(f"session-service: {address} is not serving: UNAVAILABLE: ")


async def test_a_server_that_does_not_answer_is_waited_for_only_so_long(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ended = await program.run("healthcheck", "--timeout", "0.2", f"127.0.0.1:{silent.getsockname()[1]}")
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert "is not serving: DEADLINE_EXCEEDED" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["somewhere"], "'somewhere' is neither HOST:PORT nor unix:PATH"),
        (["--timeout", "nan"], "--timeout"),
        (["a:1", "b:2"], "b:2"),
    ],
)
async def test_wrong_usage_is_told_in_one_line(program: Program, arguments: list[str], expected: str) -> None:
    ended = await program.run("healthcheck", *arguments)
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert expected in ended.stderr


async def test_neither_the_server_nor_the_client_is_imported(program: Program) -> None:
    program.command = (sys.executable, "-X", "importtime", "-m", "session_service")
    program.write(APP)
    served = await program.serve("apps:app")
    ended = await program.run("healthcheck", served.address)
    assert ended.code == 0
    imported = set(re.findall(r"\| +([\w.]+)$", ended.stderr, re.MULTILINE))
    assert "grpc" in imported
    assert not imported & {"session_service.server", "session_service.host", "session_client", "uvloop"}
