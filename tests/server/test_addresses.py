"""Where a server listens: at every address of a name, or nowhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from session_service.server import addresses
from session_service.server.addresses import addresses_of

from ..cli.program import Program
from ..protocol.peer import PATIENCE

APP = "async def app(): ..."

FAMILIES = {"127.0.0.1": socket.AF_INET, "0.0.0.0": socket.AF_INET, "::1": socket.AF_INET6, "::": socket.AF_INET6}


@contextmanager
def taken(host: str) -> Iterator[int]:
    """Listen at one address as a stranger, of one family only; yield the port."""
    with socket.socket(FAMILIES[host]) as stranger:
        if stranger.family == socket.AF_INET6:
            stranger.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        stranger.bind((host, 0))
        stranger.listen()
        yield stranger.getsockname()[1]


def connects(host: str, port: int) -> bool:
    with socket.socket(FAMILIES[host]) as client:
        return client.connect_ex((host, port)) == 0


# --- what the command does --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--listen", "--admin-listen", "--metrics-listen"])
@pytest.mark.parametrize("family", ["127.0.0.1", "::1"])
async def test_a_name_of_which_one_address_is_taken_is_taken(program: Program, option: str, family: str) -> None:
    program.write(APP)
    with taken(family) as port:
        ended = await program.run(
            *("serve", option, f"localhost:{port}", "apps:app"), SESSION_SERVICE_LISTEN="127.0.0.1:0"
        )
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    at = f"[{family}]:{port}" if ":" in family else f"{family}:{port}"
    assert f"cannot listen on localhost:{port}" in ended.stderr
    assert f": {at} is in use" in ended.stderr


@pytest.mark.parametrize("listen", ["[::]", "0.0.0.0", "[::ffff:0.0.0.0]"])
@pytest.mark.parametrize("family", FAMILIES)
async def test_of_all_addresses_none_may_be_taken(program: Program, listen: str, family: str) -> None:
    program.write(APP)
    with taken(family) as port:
        ended = await program.run("serve", "--insecure", "--listen", f"{listen}:{port}", "apps:app")
    assert (ended.code, ended.stdout) == (2, "")
    assert f"cannot listen on {listen}:{port}: " in ended.stderr


async def test_localhost_is_served_at_both_its_addresses_with_one_port(program: Program) -> None:
    program.write(APP)
    served = await program.serve("--listen", "localhost:0", "--metrics-listen", "LOCALHOST.:0", "apps:app")
    host, _, port = served.address.rpartition(":")
    assert host == "localhost"
    assert connects("127.0.0.1", int(port))
    assert connects("::1", int(port))
    (line,) = (line for line in served.log().splitlines() if "metrics at http" in line)
    host, _, port = line.removesuffix("/metrics").rpartition("http://")[2].rpartition(":")
    assert host == "LOCALHOST."
    for address in ("127.0.0.1", "::1"):
        reader, writer = await asyncio.open_connection(address, int(port))
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert b"session_service_sessions_limit" in await reader.read()
        writer.close()
    served.signal()
    assert await served.exit_code() == 0


async def test_another_address_of_the_machine_may_have_another_server(program: Program) -> None:
    program.write(APP)
    with taken("::1") as port:
        served = await program.serve("--listen", f"127.0.0.1:{port}", "apps:app")
        assert served.address == f"127.0.0.1:{port}"
        assert await served.health() == "SERVING"


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("no-such-host.invalid:0", "the name 'no-such-host.invalid' has no address"),
        (f"{'x' * 64}.invalid:0", "has no address"),
        ("192.0.2.1:0", "in use, or no address of this machine"),
        ("[2001:db8::1]:0", "in use, or no address of this machine"),
    ],
)
@pytest.mark.parametrize("option", ["--listen", "--admin-listen", "--metrics-listen"])
async def test_an_address_that_cannot_be_had_is_told_in_one_line(
    program: Program, option: str, listen: str, reason: str
) -> None:
    program.write(APP)
    ended = await program.run("serve", "--insecure", option, listen, "apps:app", SESSION_SERVICE_LISTEN="127.0.0.1:0")
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert f"cannot listen on {listen}" in ended.stderr
    assert reason in ended.stderr


# --- machines that this one is not ------------------------------------------------------------------------------------


class Network:
    """What `socket` is to the module, of a machine that lacks something."""

    def __init__(self, refuse: dict[str, OSError]) -> None:
        self.refuse = refuse

    def __getattr__(self, name: str) -> object:
        return getattr(socket, name)

    def socket(self, *args: int) -> socket.socket:
        refuse = self.refuse

        class Socket(socket.socket):
            def bind(self, address: tuple[str, int]) -> None:  # type: ignore[override] # as it is called here
                if (error := refuse.get(address[0])) is not None:
                    raise error
                super().bind(address)

        return Socket(*args)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> dict[str, OSError]:
    """What binding an address raises."""
    refused: dict[str, OSError] = {}
    monkeypatch.setattr(addresses, "socket", Network(refused))
    return refused


def test_where_there_is_no_ipv6_its_addresses_are_left_out(refuse: dict[str, OSError]) -> None:
    refuse["::1"] = OSError(99, "Cannot assign requested address")
    (address,) = addresses_of("localhost:0")
    assert address.startswith("127.0.0.1:")
    (address,) = addresses_of("0.0.0.0:0", dual_stack=True)
    assert address.startswith("0.0.0.0:")
    with pytest.raises(OSError, match="in use, or no address of this machine"):
        addresses_of("[::1]:0")


def test_a_port_that_is_free_at_one_address_only_is_not_the_one(
    refuse: dict[str, OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    bind = addresses._bind

    def unlucky(hosts: list[str], port: int) -> int:
        tried.append(port)
        if len(tried) < 5:
            raise OSError(98, "Address already in use")
        return bind(hosts, port)

    monkeypatch.setattr(addresses, "_bind", unlucky)
    first, second = addresses_of("localhost:0")
    assert first.rpartition(":")[2] == second.rpartition(":")[2] != "0"
    assert tried == 5 * [0]


def test_a_port_that_takes_a_privilege_is_told(refuse: dict[str, OSError]) -> None:
    refuse["127.0.0.1"] = OSError(13, "Permission denied")
    with pytest.raises(OSError, match=r"127\.0\.0\.1:80 is not permitted: a port below 1024 needs a privilege"):
        addresses_of("localhost:80")
