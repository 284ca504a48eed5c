"""Bearer tokens from a file: who is let in, and a file that changes. The bad days of it as well."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection, reflection_pb2

from session_service.errors import Unauthenticated
from session_service.server import Peer
from session_service.server.auth.tokens import TokenFile, add_token
from session_service.v1 import info_pb2
from session_service.v1 import session_pb2 as pb

from ..cli.program import PATIENCE, Program, Served
from ..protocol.peer import Service, event, resume_of, value
from .conftest import Connect

APPS = """
    from session_service import get_current_session

    async def echo():
        session = get_current_session()
        session.send_task_command({"command": "who", "spec": session.principal.name})
        while True:
            event = await session.next_client_event()
            session.send_task_command({"command": "echo", "spec": event["data"]})
"""

Metadata = list[tuple[str, str]]


def bearer(token: str) -> Metadata:
    return [("authorization", f"Bearer {token}")]


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def call(file: TokenFile, authorization: str) -> str:
    return file({"authorization": authorization}, Peer("ipv4:127.0.0.1:1")).name


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_token_is_known_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(
        f"# people\n\n{digest('one')} ada\n  {digest('two').upper()}\tbob the builder  \n{digest('three')} ada\n"
    )
    file = TokenFile(str(path))
    assert [call(file, f"Bearer {token}") for token in ("one", "two", "three")] == ["ada", "bob the builder", "ada"]
    assert call(file, "bearer   one") == "ada"  # schemes know no case (RFC 9110)


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "one", "Basic one", "Bearer One", "Bearer one two"])
def test_without_a_known_token_nobody_is_let_in(tmp_path: Path, authorization: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"{digest('one')} ada")
    file = TokenFile(str(path))
    with pytest.raises(Unauthenticated):
        call(file, authorization)
    with pytest.raises(Unauthenticated):
        call(file, f"Bearer {digest('one')}")  # a file that leaks lets nobody in
    with pytest.raises(Unauthenticated, match="send the metadata `authorization: Bearer TOKEN`"):
        file({}, Peer("unix:"))


@pytest.mark.parametrize(
    "line", ["ada secret", "secret", f"{digest('one')[1:]} ada", digest("one"), f"{digest('one')} a\x00b"]
)
def test_a_line_that_is_none_is_told_without_showing_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"{digest('two')} bob\n{line}\n")
    with pytest.raises(ValueError, match="tokens, line 2: ") as told:
        TokenFile(str(path))
    assert "secret" not in str(told.value)


def test_a_token_is_made_of_256_random_bits_and_the_file_has_only_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    tokens = [add_token(str(path), name) for name in ("ada", "ada", "bob the builder")]
    assert len(set(tokens)) == 3
    assert all(len(token) == 43 for token in tokens)  # 6 bits a character
    assert not any(token in path.read_text() for token in tokens)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file = TokenFile(str(path))
    assert [call(file, f"Bearer {token}") for token in tokens] == ["ada", "ada", "bob the builder"]


def test_a_token_is_added_behind_a_line_that_has_no_end(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"{digest('one')} ada")
    token = add_token(str(path), "bob")
    file = TokenFile(str(path))
    assert [call(file, "Bearer one"), call(file, f"Bearer {token}")] == ["ada", "bob"]


@pytest.mark.parametrize("name", ["", " ", " ada", "a\nb", "x" * 1025])
def test_no_token_is_made_for_a_name_that_cannot_be_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        add_token(str(tmp_path / "tokens"), name)
    assert not (tmp_path / "tokens").exists()


# --- a server ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def apps(program: Program) -> None:
    program.write(APPS)


async def make_token(program: Program, name: str) -> str:
    ended = await program.run("token", "tokens", name)
    assert (ended.code, ended.stderr) == (0, "")
    return ended.stdout.strip()


async def answer(service: Service, metadata: Metadata) -> grpc.StatusCode | str:
    """Return who the app says the client is, or how the server refused it."""
    if not await accepted(service, metadata):
        return (await service.attach(metadata).status()).code
    peer = await service.open("echo", metadata=metadata, command_format=pb.PAYLOAD_FORMAT_JSON)
    (command,) = await peer.receive_commands(1)
    return str(value(command))


async def accepted(service: Service, metadata: Metadata) -> bool:
    parse = service.stub.ParseSessionInfo(info_pb2.ParseSessionInfoRequest(), metadata=tuple(metadata))
    code: grpc.StatusCode = await parse.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
    return code is grpc.StatusCode.OK


async def until_logged(served: Served, text: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while text not in served.log():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)


async def reflect(service: Service, metadata: Metadata) -> grpc.StatusCode:
    # One request, sent with the metadata: a later write may find the refusal there, and grpc.aio makes that INTERNAL.
    call = service.channel.unary_stream(
        f"/{reflection.SERVICE_NAME}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )(reflection_pb2.ServerReflectionRequest(list_services=""), metadata=tuple(metadata))
    try:
        async for response in call:
            assert response.list_services_response.service
    except grpc.aio.AioRpcError:
        pass
    return await call.code()


async def test_every_call_needs_a_token_but_health(program: Program, connect: Connect) -> None:
    token = await make_token(program, "ada")
    served = await program.serve("apps:echo", "--token-file", "tokens")
    service = connect(served.address)
    for metadata in ([], bearer("guessed")):
        status = await service.attach(metadata).status()
        assert (status.code, status.reason, status.retry) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
            "RESUME",
        )
        assert not await accepted(service, metadata)
        assert await reflect(service, metadata) is grpc.StatusCode.UNAUTHENTICATED
    assert await served.health() == "SERVING"
    assert await answer(service, bearer(token)) == "ada"
    assert await reflect(service, bearer(token)) is grpc.StatusCode.OK


async def test_a_session_is_resumed_by_its_principal_with_whatever_token(program: Program, connect: Connect) -> None:
    old, new, other = [await make_token(program, name) for name in ("ada", "ada", "eve")]
    served = await program.serve("apps:echo", "--token-file", "tokens")
    service = connect(served.address)
    peer = await service.open("echo", metadata=bearer(old), resumable=True)
    thief = service.attach(bearer(other))
    await thief.send(resume=resume_of(peer))
    assert (await thief.status()).reason == "PRINCIPAL_MISMATCH"
    await service.resume(peer, metadata=bearer(new))


async def test_no_token_is_ever_logged(program: Program, connect: Connect) -> None:
    token = await make_token(program, "ada")
    served = await program.serve("apps:echo", "--token-file", "tokens", "--debug", "--shutdown-grace", "0")
    service = connect(served.address)
    assert await answer(service, bearer(token)) == "ada"
    assert await answer(service, bearer("a-wrong-one")) is grpc.StatusCode.UNAUTHENTICATED
    served.signal()
    assert await served.exit_code() == 0
    assert token not in served.log()
    assert digest(token) not in served.log()
    assert "a-wrong-one" not in served.log()


async def test_a_changed_file_counts_without_a_restart(program: Program, connect: Connect) -> None:
    ada = await make_token(program, "ada")
    served = await program.serve("apps:echo", "--token-file", "tokens")
    service = connect(served.address)
    (program.folder / "tokens").unlink()
    bob = await make_token(program, "bob")
    await until_logged(served, "the tokens are reloaded")
    assert await answer(service, bearer(ada)) is grpc.StatusCode.UNAUTHENTICATED
    assert await answer(service, bearer(bob)) == "bob"


async def test_an_emptied_file_lets_nobody_in_and_disturbs_nobody_who_is(program: Program, connect: Connect) -> None:
    ada = await make_token(program, "ada")
    served = await program.serve("apps:echo", "--token-file", "tokens")
    service = connect(served.address)
    peer = await service.open("echo", metadata=bearer(ada), command_format=pb.PAYLOAD_FORMAT_JSON)
    await peer.receive_commands(1)

    os.truncate(program.folder / "tokens", 0)
    await until_logged(served, "ERROR session_service.server.auth.tokens: tokens holds no token: nobody is let in")
    assert await answer(service, bearer(ada)) is grpc.StatusCode.UNAUTHENTICATED
    await peer.send(events=[event("say", "still here")])
    assert [value(command) for command in await peer.receive_commands(1)] == ["still here"]

    again = await make_token(program, "ada")
    await until_logged(served, "the tokens are reloaded")
    async with asyncio.timeout(PATIENCE):
        while not await accepted(service, bearer(again)):
            pass
    assert await answer(service, bearer(again)) == "ada"


@pytest.mark.parametrize("how", ["garbage", "gone"])
async def test_a_broken_file_changes_nothing(program: Program, connect: Connect, how: str) -> None:
    ada = await make_token(program, "ada")
    served = await program.serve("apps:echo", "--token-file", "tokens")
    tokens = program.folder / "tokens"
    if how == "gone":
        tokens.unlink()
    else:
        tokens.write_text("garbage")
    await until_logged(served, "ERROR session_service.server.auth.reload: the tokens cannot be reloaded")
    assert await answer(connect(served.address), bearer(ada)) == "ada"
    assert "garbage" not in served.log()


async def test_a_file_without_tokens_at_the_start_lets_nobody_in(program: Program, connect: Connect) -> None:
    program.write("# none yet\n", "tokens")
    served = await program.serve("apps:echo", "--token-file", "tokens")
    await until_logged(served, "ERROR session_service.server.auth.tokens: tokens holds no token: nobody is let in")
    assert await answer(connect(served.address), bearer("")) is grpc.StatusCode.UNAUTHENTICATED


async def test_what_is_wrong_with_a_new_token_is_told_in_one_line(program: Program) -> None:
    ended = await program.run("token", "no/such/folder", "ada")
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "No such file or directory: 'no/such/folder'" in ended.stderr
