"""Mistakes of the caller are told at once, and say what to write instead."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from session_client import RetryPolicy, SessionClient, SessionLost, SyncSessionClient
from session_client.mistakes import check_metadata, check_target, explain

from session_service.config import Config
from session_service.server import Server

from ..server.authority import Authority
from .served import RelayTo, Serve, client_tasks, echo

# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("http://host:50051", "write host:50051 without http://"),
        ("https://host:443", "write host:443 without https://, and pass channel_credentials for TLS"),
        ("https://host", "write host:PORT without https://, and pass channel_credentials for TLS"),
        ("https://host/path", "write host:PORT without https://"),
        ("http://host:50051/path?x=1", "write host:50051 without http://"),
        ("HTTP://HOST:1", "write HOST:1 without HTTP://"),
        ("grpc://host:50051", "write host:50051 without grpc://"),
        ("grpcs://host:50051", "channel_credentials"),
        ("tcp://host:50051", "write host:50051 without tcp://"),
        ("ws://host:50051", "write host:50051 without ws://"),
        ("http://", "write HOST:PORT without http://"),
        ("localhost", "no port: write localhost:PORT"),
        ("127.0.0.1", "no port: write 127.0.0.1:PORT"),
        ("[::1]", "no port: write [::1]:PORT"),
        ("::1", r"write [::1]:PORT"),
        ("fe80::1", r"write [fe80::1]:PORT"),
        ("host:", "write HOST:PORT"),
        (":50051", "write HOST:PORT"),
        ("", "write HOST:PORT"),
        ("host:abc", "write HOST:PORT"),
        ("host:0", "1 to 65535"),
        ("host:99999", "1 to 65535"),
        ("host:1/path", "write HOST:PORT"),
        ("local host:1", "write HOST:PORT"),
        ("host:1\n", "write HOST:PORT"),
        (" host:1", "write HOST:PORT"),
        ("user@host:1", "write HOST:PORT"),
        ("/run/socket", "write unix:/run/socket"),
        ("unix://run/socket", "write unix:/run/socket"),
        ("unix:", "write HOST:PORT"),
        ("dns:host", "no port: write dns:HOST:PORT"),
        ("dns:127.0.0.1", "no port: write dns:HOST:PORT"),
        ("dns:///127.0.0.1", "no port: write dns:///HOST:PORT"),
        ("dns:/host", "no port: write dns:/HOST:PORT"),
        ("dns://8.8.8.8/host", "no port: write dns://8.8.8.8/HOST:PORT"),
        ("dns://8.8.8.8:53/host", "no port: write dns://8.8.8.8:53/HOST:PORT"),
        ("dns:///::1", "no port: write dns:///HOST:PORT"),
        ("dns:///[::1]", "no port: write dns:///HOST:PORT"),
        ("dns:host:", "no port: write dns:HOST:PORT"),
        ("dns:host:0", "1 to 65535"),
        ("dns:///127.0.0.1:99999", "1 to 65535"),
        ("dns:///[::1]:65536", "1 to 65535"),
        ("ipv4:127.0.0.1", "no port: write ipv4:HOST:PORT"),
        ("ipv4:127.0.0.1:1,127.0.0.2:99999", "1 to 65535"),
        ("ipv6:[::1]", "no port: write ipv6:HOST:PORT"),
        ("ipv6:[::1]:99999", "1 to 65535"),
        (None, "write HOST:PORT"),
        (50051, "write HOST:PORT"),
        (b"host:1", "write HOST:PORT"),
    ],
)
def test_what_can_be_no_target_is_refused_with_what_to_write(target: Any, remedy: str) -> None:
    for kind in (SessionClient, SyncSessionClient):
        with pytest.raises(ValueError, match="target") as caught:
            kind(target)
        assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        *(
            "localhost:50051",
            "127.0.0.1:1",
            "my-host.example.com:65535",
            "under_score:1",
            "[::1]:1",
            "[fe80::1%eth0]:1",
        ),
        *(
            "dns:///host:1",
            "dns:host:1",
            "dns:host:https",
            "dns://8.8.8.8/host:1",
            "dns:///[::1]:1",
            "unix:/run/socket",
            "unix:socket",
        ),
        *("unix:///run/socket", "unix-abstract:name", "ipv4:127.0.0.1:1", "ipv4:127.0.0.1:1,127.0.0.2:1"),
        *("ipv6:[::1]:1", "passthrough:///host:1", "xds:///service", "vsock:2:50051", "münchen.example:1"),
    ],
)
def test_what_grpc_understands_is_left_to_it(target: str) -> None:
    check_target(target)


# --- metadata ---------------------------------------------------------------------------------------------------------

BAD_METADATA = [
    ({"Authorization": "Bearer x"}, "lower case, so write 'authorization'"),
    ({"X-Request-ID": "1"}, "write 'x-request-id'"),
    ({"authorization": "Bearer x\n"}, "line break"),
    ({"authorization": "Bearer x\r"}, "line break"),
    ({"authorization": "Bearer é"}, "printable ASCII"),
    ({"authorization": "Bearer \t"}, "printable ASCII"),
    ({"authorization": "Bearer \x7f"}, "printable ASCII"),
    ({"authorization": "Bearer \u2019"}, "printable ASCII"),
    ({"grpc-timeout": "1S"}, "grpc-"),
    ({"grpc-anything": "1"}, "grpc-"),
    ({"token-bin": "text"}, "-bin"),
    ({"": "x"}, "is none"),
    ({":path": "x"}, "is none"),
    ({"a b": "x"}, "is none"),
    ({"é": "x"}, "is none"),
    ({"a:": "x"}, "is none"),
]


@pytest.mark.parametrize(("metadata", "remedy"), BAD_METADATA)
@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_metadata_that_cannot_be_sent_is_refused_before_the_first_try(
    metadata: dict[str, str], remedy: str, sync: bool
) -> None:
    asked: list[int] = []

    def credentials() -> dict[str, str]:
        asked.append(1)
        return metadata

    def open_sync() -> None:
        with SyncSessionClient("127.0.0.1:1", credentials=credentials) as client:
            client.open("echo").__enter__()

    async def open_async() -> None:
        async with SessionClient("127.0.0.1:1", credentials=credentials) as client:
            await client.open("echo").__aenter__()

    with pytest.raises(SessionLost, match="credentials cannot be sent") as caught:
        await (asyncio.to_thread(open_sync) if sync else open_async())
    assert remedy in str(caught.value)
    assert len(asked) == 1
    assert client_tasks() == []


def test_an_error_about_metadata_tells_no_secret() -> None:
    for value in ("secret\n", "sécret"):
        with pytest.raises(ValueError, match="authorization") as caught:
            check_metadata({"authorization": value})
        assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "metadata", [{}, {"authorization": "Bearer a.b-c_d=="}, {"x-1.a_b": ""}, {"a": " ~!\"'"}, {"grpc": "x", "bin": "x"}]
)
async def test_good_metadata_is_sent(serve: Serve, metadata: dict[str, str]) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address, credentials=lambda: metadata) as client, client.open("echo"):
        pass


# --- ports that speak something else ----------------------------------------------------------------------------------


class Speaks(asyncio.Protocol):
    """Whatever it is told, it says the same."""

    def __init__(self, says: bytes, stays: bool) -> None:
        self.says, self.stays = says, stays

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.says)
        if not self.stays:
            self.transport.close()


HTTP1 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("says", "stays"),
    [(HTTP1, False), (HTTP1, True), (b"SSH-2.0-OpenSSH_9.2\r\n", True)],
    ids=["HTTP/1", "kept", "SSH"],
)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain session"])
async def test_a_port_that_speaks_no_http2_is_told_at_once(
    says: bytes, stays: bool, tls: bool, resumable: bool
) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Speaks(says, stays), "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    credentials = Authority().channel_credentials() if tls else None
    async with server, SessionClient(address, channel_credentials=credentials) as client:
        with pytest.raises(SessionLost, match="speaks no TLS" if tls else "speaks no HTTP/2"):
            await client.open("echo", resumable=resumable).__aenter__()


async def serve_tls(
    stack: AsyncExitStack, folder: Path, authority: Authority, mutual: bool = False, listen: str = "127.0.0.1:0"
) -> str:
    """Start a server with a certificate of the authority; return its address."""
    (folder / "ca.pem").write_bytes(authority.cert)
    _, cert, _, key = authority.server().write(folder)
    ca = str(folder / "ca.pem") if mutual else ""
    server = Server({"echo": echo}, Config(listen=listen, tls_cert=cert, tls_key=key, tls_client_ca=ca))
    stack.push_async_callback(server.drain, 0)
    return await server.start()


async def test_tls_to_a_port_of_plain_text_is_told_at_once(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address, channel_credentials=Authority().channel_credentials()) as client:
        with pytest.raises(SessionLost, match="speaks no TLS: leave channel_credentials out"):
            await client.open("echo").__aenter__()


async def test_a_certificate_of_another_authority_is_told_at_once(stack: AsyncExitStack, tmp_path: Path) -> None:
    address = await serve_tls(stack, tmp_path, Authority())
    async with SessionClient(address, channel_credentials=Authority().channel_credentials()) as client:
        with pytest.raises(SessionLost, match="the TLS handshake failed: do channel_credentials trust"):
            await client.open("echo").__aenter__()


@pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain session"])
@pytest.mark.parametrize("mutual", [False, True], ids=["TLS", "mTLS"])
@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "unix"])
async def test_plain_text_to_a_port_of_tls_is_told_at_once(
    stack: AsyncExitStack, tmp_path: Path, where: str, mutual: bool, resumable: bool
) -> None:
    address = await serve_tls(stack, tmp_path, Authority(), mutual, f"unix:{tmp_path}/s" if where == "unix" else where)
    async with SessionClient(address) as client:
        with pytest.raises(SessionLost, match="the port speaks TLS: pass channel_credentials"):
            await client.open("echo", resumable=resumable).__aenter__()


@pytest.mark.parametrize("good", [False, True], ids=["no certificate", "one of another authority"])
async def test_a_port_that_refuses_the_client_s_certificate_is_told_at_once(
    stack: AsyncExitStack, tmp_path: Path, good: bool
) -> None:
    authority = Authority()
    address = await serve_tls(stack, tmp_path, authority, mutual=True)
    credentials = authority.channel_credentials(Authority().client("ada") if good else None)
    async with SessionClient(address, channel_credentials=credentials) as client:
        with pytest.raises(SessionLost, match="asks for a client's certificate"):
            await client.open("echo").__aenter__()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_a_proxy_without_a_server_hangs_up_and_is_an_outage(tmp_path: Path, tls: bool) -> None:
    """So does one that ends TLS itself, behind the handshake."""
    authority = Authority()
    _, cert, _, key = authority.server().write(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["h2"])
    writers: list[asyncio.StreamWriter] = []

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context if tls else None)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    credentials = authority.channel_credentials() if tls else None
    policy = RetryPolicy(initial=0.01, maximum=0.05, total=2.0)
    async with server, SessionClient(address, channel_credentials=credentials, retry=policy) as client:
        with pytest.raises(SessionLost, match="not opened, as far as is known, within"):
            await client.open("echo").__aenter__()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
    assert len(writers) > 1  # it was asked what it speaks


async def test_a_session_that_was_attached_asks_no_port_what_it_speaks(
    serve: Serve, relay_to: RelayTo, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def find_mistake(message: str, secure: bool) -> str:
        asked.append(message)
        return ""

    served = await serve({"echo": echo})
    relay = await relay_to(served.address)
    monkeypatch.setattr("session_client.session.find_mistake", find_mistake)
    policy = RetryPolicy(initial=0.01, maximum=0.05, total=2.0)
    async with SessionClient(relay.address, retry=policy) as client, client.open("echo") as session:
        relay.lifetime = 0.0
        relay.cut()
        with pytest.raises(SessionLost, match="not reached within"):
            await anext(session)
    assert asked == []


async def test_what_grpc_rejects_by_itself_is_final_and_says_why() -> None:
    async with SessionClient("ipv4:localhost:1") as client:
        with pytest.raises(SessionLost, match="gRPC takes no such target"):
            await client.open("echo").__aenter__()


@pytest.mark.parametrize(
    "message",
    [
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused",
        "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed",
        "errors resolving host:1: address lookup failed for host:1: Domain name not found",
        "Stream removed",
    ],
)
def test_an_outage_is_no_mistake(message: str) -> None:
    assert explain(grpc.StatusCode.UNAVAILABLE, message) == ""
