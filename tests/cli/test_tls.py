"""``attach`` and ``healthcheck`` of a server that wants TLS, certificates and tokens."""

from __future__ import annotations

import pytest

from ..server.authority import Authority
from .program import Program, Served

APP = """
    from session_service import get_current_session

    async def who():
        session = get_current_session()
        session.send_task_command({"command": "who", "spec": session.principal.name})
"""


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def serve(program: Program, authority: Authority, *options: str) -> Served:
    program.write(APP)
    (program.folder / "ca.pem").write_bytes(authority.cert)
    (program.folder / "server").mkdir()
    identity = authority.server().write(program.folder / "server")
    return await program.serve(*identity, *options, "apps:who")


async def test_the_health_of_a_server_that_speaks_tls_is_asked_for_by_tls(
    program: Program, authority: Authority
) -> None:
    served = await serve(program, authority)
    assert (await program.run("healthcheck", "--tls-ca", "ca.pem", served.address)).code == 0
    assert (await program.run("healthcheck", served.address, SESSION_SERVICE_TLS_CA="ca.pem")).code == 0
    assert (await program.run("healthcheck", served.address)).code == 1
    (program.folder / "other.pem").write_bytes(Authority().cert)
    assert (await program.run("healthcheck", "--tls-ca", "other.pem", served.address)).code == 1


async def test_a_session_is_held_with_a_certificate(program: Program, authority: Authority) -> None:
    served = await serve(program, authority, "--tls-client-ca", "ca.pem")
    identity = authority.client("ada").write(program.folder)
    options = ("--tls-ca", "ca.pem", *identity)
    ended = await program.run("attach", *options, served.address, "who")
    assert (ended.code, ended.stdout) == (0, '{"command":"who","task_id":"main-1","spec":"CN=ada"}\n')
    assert (await program.run("healthcheck", *options, served.address)).code == 0
    assert (await program.run("healthcheck", "--tls-ca", "ca.pem", served.address)).code == 1


async def test_a_session_is_held_with_a_token(program: Program, authority: Authority) -> None:
    token = (await program.run("token", "tokens", "ada")).stdout.strip()
    served = await serve(program, authority, "--token-file", "tokens")
    arguments = ("attach", "--tls-ca", "ca.pem", served.address, "who")
    ended = await program.run(*arguments, SESSION_SERVICE_TOKEN=token)
    assert (ended.code, ended.stdout) == (0, '{"command":"who","task_id":"main-1","spec":"ada"}\n')
    refused = await program.run(*arguments)
    assert (refused.code, refused.stdout) == (1, "")
    assert "send the metadata `authorization: Bearer TOKEN`" in refused.stderr
    assert (await program.run("healthcheck", "--tls-ca", "ca.pem", served.address)).code == 0


@pytest.mark.parametrize("command", ["attach", "healthcheck"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--tls-cert", "cert.pem"), "--tls-cert and --tls-key need each other"),
        (("--tls-cert", "cert.pem", "--tls-key", "key.pem"), "--tls-cert needs --tls-ca"),
        (("--tls-ca", "no.pem"), "No such file or directory: 'no.pem'"),
    ],
)
async def test_what_is_wrong_is_told_in_one_line(
    program: Program, command: str, options: tuple[str, ...], expected: str
) -> None:
    ended = await program.run(command, *options, "127.0.0.1:1", *(["app"] if command == "attach" else []))
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert expected in ended.stderr
