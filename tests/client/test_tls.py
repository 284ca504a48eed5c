"""The client over TLS, with credentials: against real certificates, of which it has to trust the authority."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from session_client import (
    Attachment,
    AttachmentState,
    RetryPolicy,
    SessionClient,
    SessionLost,
    SessionRefused,
    SyncSessionClient,
)

from session_service import Principal, get_current_session
from session_service.config import Config
from session_service.server import Peer, Server
from session_service.server.auth.tokens import add_token

from ..server.authority import Authority, Identity
from .served import QUICK, echo

# Gives up soon on a server that it does not trust.
ONCE = RetryPolicy(initial=0.01, maximum=0.05, total=0.5, attach_timeout=5.0)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def who() -> None:
    get_current_session().send_task_command({"command": "who", "spec": get_current_session().principal.name})


class Secure:
    """Starts servers that speak TLS."""

    def __init__(self, authority: Authority, folder: Path, stack: AsyncExitStack) -> None:
        self._authority, self._folder, self._stack = authority, folder, stack

    async def __call__(self, *, mutual: bool = False, token_file: str = "") -> str:
        (self._folder / "ca.pem").write_bytes(self._authority.cert)
        _, cert, _, key = self._authority.server().write(self._folder)
        config = Config(
            listen="127.0.0.1:0",
            tls_cert=cert,
            tls_key=key,
            tls_client_ca=str(self._folder / "ca.pem") if mutual else "",
            token_file=token_file,
        )
        server = Server({"echo": echo, "who": who}, config)
        self._stack.push_async_callback(server.drain, 0)
        return await server.start()


@pytest.fixture
def serve_tls(authority: Authority, tmp_path: Path, stack: AsyncExitStack) -> Secure:
    return Secure(authority, tmp_path, stack)


async def test_a_session_is_held_over_tls(serve_tls: Secure, authority: Authority) -> None:
    address = await serve_tls()
    client = SessionClient(address, channel_credentials=authority.channel_credentials())
    async with client, client.open("echo") as session:
        await session.send_event("say", "hello")
        assert (await anext(session)).spec == "hello"


async def test_the_sync_client_holds_one_as_well(serve_tls: Secure, authority: Authority) -> None:
    address = await serve_tls()

    def talk() -> object:
        credentials = authority.channel_credentials()
        with SyncSessionClient(address, channel_credentials=credentials) as client, client.open("echo") as session:
            session.send_event("say", "hello")
            return next(session).spec

    assert await asyncio.to_thread(talk) == "hello"


@pytest.mark.parametrize("trusts", ["plain text", "another authority"])
async def test_a_client_does_not_talk_to_a_server_in_which_it_does_not_trust(serve_tls: Secure, trusts: str) -> None:
    address = await serve_tls()
    credentials = None if trusts == "plain text" else Authority().channel_credentials()
    async with SessionClient(address, channel_credentials=credentials, retry=ONCE) as client:
        with pytest.raises(SessionLost, match="UNAVAILABLE"):
            await client.open("echo").__aenter__()


async def test_a_certificate_says_who_the_client_is(serve_tls: Secure, authority: Authority) -> None:
    address = await serve_tls(mutual=True)
    credentials = authority.channel_credentials(authority.client("ada"))
    async with SessionClient(address, channel_credentials=credentials) as client, client.open("who") as session:
        assert (await anext(session)).spec == "CN=ada"


@pytest.mark.parametrize("identity", [None, Authority().client("ada")], ids=["none", "of another authority"])
async def test_without_a_good_certificate_the_client_gets_no_connection(
    serve_tls: Secure, authority: Authority, identity: Identity | None
) -> None:
    address = await serve_tls(mutual=True)
    credentials = authority.channel_credentials(identity)
    async with SessionClient(address, channel_credentials=credentials, retry=ONCE) as client:
        with pytest.raises(SessionLost, match="UNAVAILABLE"):
            await client.open("echo").__aenter__()


async def test_a_token_over_tls_says_who_the_client_is(serve_tls: Secure, authority: Authority, tmp_path: Path) -> None:
    token = add_token(str(tmp_path / "tokens"), "ada")
    address = await serve_tls(token_file=str(tmp_path / "tokens"))
    client = SessionClient(
        address,
        channel_credentials=authority.channel_credentials(),
        credentials=lambda: {"authorization": f"Bearer {token}"},
    )
    async with client, client.open("who") as session:
        assert (await anext(session)).spec == "ada"


async def test_a_wrong_token_is_refused_for_good(serve_tls: Secure, authority: Authority, tmp_path: Path) -> None:
    add_token(str(tmp_path / "tokens"), "ada")
    address = await serve_tls(token_file=str(tmp_path / "tokens"))
    client = SessionClient(
        address,
        channel_credentials=authority.channel_credentials(),
        credentials=lambda: {"authorization": "Bearer guessed"},
        retry=QUICK,
    )
    async with client:
        with pytest.raises(SessionRefused, match="not known here"):
            await client.open("who").__aenter__()


async def test_the_client_comes_back_with_fresh_credentials_when_the_old_ones_expire(stack: AsyncExitStack) -> None:
    """In mid-stream; and the application notices nothing."""
    calls: list[str] = []

    def authenticate(metadata: Mapping[str, str], _: Peer) -> Principal:
        calls.append(metadata["authorization"])
        return Principal("ada", expires_at=time.time() + 0.5 if len(calls) < 3 else None)

    server = Server({"echo": echo}, Config(listen="127.0.0.1:0"), authenticate)
    stack.push_async_callback(server.drain, 0)
    address = await server.start()
    tokens = iter(["one", "two", "three"])
    states: asyncio.Queue[AttachmentState] = asyncio.Queue()

    def on_attachment(attachment: Attachment) -> None:
        states.put_nowait(attachment.state)

    client = SessionClient(
        address, credentials=lambda: {"authorization": next(tokens)}, retry=QUICK, on_attachment=on_attachment
    )
    async with client, client.open("echo") as session:
        await session.send_event("say", 1)
        assert (await anext(session)).spec == 1
        seen = [await states.get() for _ in range(5)]
        await session.send_event("say", 2)
        assert (await anext(session)).spec == 2
    lost, resumed = AttachmentState.LOST, AttachmentState.RESUMED
    assert seen == [AttachmentState.ATTACHED, lost, resumed, lost, resumed]
    assert calls == ["one", "two", "three"]
