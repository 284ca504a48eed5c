"""TLS: who is let in, and certificates that change while streams live. Real processes, real certificates."""

from __future__ import annotations

import asyncio
import ssl

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from session_service.v1 import session_pb2 as pb

from ..cli.program import PATIENCE, Program, Served
from ..protocol.peer import Peer, Service, event, value
from .authority import Authority, Identity
from .conftest import Connect

APPS = """
    from session_service import get_current_session

    async def echo():
        session = get_current_session()
        while True:
            event = await session.next_client_event()
            session.send_task_command({"command": "echo", "spec": event["data"]})

    async def who():
        session = get_current_session()
        session.send_task_command({"command": "who", "spec": session.principal.name})

    apps = {"echo": echo, "who": who}
"""


@pytest.fixture(autouse=True)
def apps(program: Program) -> None:
    program.write(APPS)


async def opened(service: Service, app: str = "echo") -> Peer:
    return await service.open(app, command_format=pb.PAYLOAD_FORMAT_JSON)


async def echoed(peer: Peer, data: object) -> object:
    await peer.send(events=[event("say", data)])
    (command,) = await peer.receive_commands(1)
    return value(command)


async def who(service: Service) -> object:
    (command,) = await (await opened(service, "who")).receive_commands(1)
    return value(command)


async def refused(service: Service) -> grpc.StatusCode:
    return (await service.attach().status()).code


async def served_serial(address: str) -> int:
    """Return the serial number of the certificate that a new connection is shown."""
    host, _, port = address.rpartition(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=PATIENCE)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


async def until_served(served: Served, identity: Identity) -> None:
    async with asyncio.timeout(PATIENCE):
        while await served_serial(served.address) != identity.serial:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)


async def until_logged(served: Served, text: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while text not in served.log():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)


async def test_a_session_is_held_over_tls(program: Program, authority: Authority, connect: Connect) -> None:
    served = await program.serve("apps:echo", *authority.server().write(program.folder))
    peer = await opened(connect(served.address, authority.channel_credentials()))
    assert await echoed(peer, "hello") == "hello"


async def test_plain_text_is_not_served_beside_tls(program: Program, authority: Authority, connect: Connect) -> None:
    served = await program.serve("apps:echo", *authority.server().write(program.folder))
    assert await refused(connect(served.address)) is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_trusts_another_authority_does_not_talk_to_the_server(
    program: Program, authority: Authority, connect: Connect
) -> None:
    served = await program.serve("apps:echo", *authority.server().write(program.folder))
    assert await refused(connect(served.address, Authority().channel_credentials())) is grpc.StatusCode.UNAVAILABLE


# --- certificates of clients ------------------------------------------------------------------------------------------


def with_client_ca(program: Program, authority: Authority) -> tuple[str, ...]:
    (program.folder / "ca.pem").write_bytes(authority.cert)
    return *authority.server().write(program.folder), "--tls-client-ca", f"{program.folder}/ca.pem"


async def test_with_mtls_the_principal_is_the_subject_of_the_certificate(
    program: Program, authority: Authority, connect: Connect
) -> None:
    served = await program.serve("apps:apps", *with_client_ca(program, authority))
    ada = authority.client("ada")
    assert await who(connect(served.address, authority.channel_credentials(ada))) == "CN=ada"


async def test_with_mtls_a_spiffe_id_comes_before_the_subject(
    program: Program, authority: Authority, connect: Connect
) -> None:
    served = await program.serve("apps:apps", *with_client_ca(program, authority))
    workload = authority.client("one of many", spiffe_id="spiffe://example.org/billing")
    service = connect(served.address, authority.channel_credentials(workload))
    assert await who(service) == "spiffe://example.org/billing"


async def test_with_mtls_a_certificate_that_names_nobody_is_refused(
    program: Program, authority: Authority, connect: Connect
) -> None:
    served = await program.serve("apps:apps", *with_client_ca(program, authority))
    service = connect(served.address, authority.channel_credentials(authority.client("")))
    status = await service.attach().status()
    assert (status.code, status.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


@pytest.mark.parametrize("has_certificate", [False, True], ids=["none", "of another authority"])
async def test_with_mtls_a_client_without_a_good_certificate_does_not_get_through(
    program: Program, authority: Authority, connect: Connect, has_certificate: bool
) -> None:
    served = await program.serve("apps:apps", *with_client_ca(program, authority))
    stranger = Authority().client("ada") if has_certificate else None
    service = connect(served.address, authority.channel_credentials(stranger))
    assert await refused(service) is grpc.StatusCode.UNAVAILABLE


async def test_with_mtls_and_tokens_the_token_says_who_it_is(
    program: Program, authority: Authority, connect: Connect
) -> None:
    token = (await program.run("token", "tokens", "ada")).stdout.strip()
    served = await program.serve("apps:apps", *with_client_ca(program, authority), "--token-file", "tokens")
    service = connect(served.address, authority.channel_credentials(authority.client("machine")))
    assert await refused(service) is grpc.StatusCode.UNAUTHENTICATED
    metadata = [("authorization", f"Bearer {token}")]
    peer = await service.open("who", metadata=metadata, command_format=pb.PAYLOAD_FORMAT_JSON)
    assert [value(command) for command in await peer.receive_commands(1)] == ["ada"]


# --- certificates that change -----------------------------------------------------------------------------------------


async def test_a_changed_certificate_is_served_to_new_connections_and_streams_live_on(
    program: Program, authority: Authority, connect: Connect
) -> None:
    old, new = authority.server(), authority.server()
    served = await program.serve("apps:echo", *old.write(program.folder))
    peer = await opened(connect(served.address, authority.channel_credentials()))
    assert await served_serial(served.address) == old.serial

    new.write(program.folder)
    await until_served(served, new)

    assert await echoed(peer, "still here") == "still here"
    other = await opened(connect(served.address, authority.channel_credentials()))
    assert await echoed(other, "new") == "new"


async def test_authorities_of_clients_change_as_well(program: Program, authority: Authority, connect: Connect) -> None:
    served = await program.serve("apps:apps", *with_client_ca(program, authority))
    other = Authority("other")
    newcomer = authority.channel_credentials(other.client("new"))
    assert await refused(connect(served.address, newcomer)) is grpc.StatusCode.UNAVAILABLE
    (program.folder / "ca.pem").write_bytes(authority.cert + other.cert)
    await until_logged(served, "TLS certificates are reloaded")
    assert await who(connect(served.address, newcomer)) == "CN=new"


@pytest.mark.parametrize("how", ["garbage", "of another key", "gone"])
async def test_where_a_certificate_breaks_the_old_one_stays_until_it_is_repaired(
    program: Program, authority: Authority, connect: Connect, how: str
) -> None:
    old, new = authority.server(), authority.server()
    served = await program.serve("apps:echo", *old.write(program.folder))
    peer = await opened(connect(served.address, authority.channel_credentials()))
    cert = program.folder / "cert.pem"
    if how == "gone":
        cert.unlink()
    else:
        cert.write_bytes(b"garbage" if how == "garbage" else new.cert)
    await until_logged(served, "ERROR session_service.server.auth.reload: the TLS certificates cannot be reloaded")
    assert await served_serial(served.address) == old.serial
    assert await echoed(peer, "still here") == "still here"

    new.write(program.folder)
    await until_served(served, new)
    assert served.log().count("cannot be reloaded") == 1  # said once, though it is tried again and again
    assert await echoed(peer, "and now") == "and now"


# --- one line, exit code 2 --------------------------------------------------------------------------------------------


async def test_a_key_with_a_passphrase_is_told_and_asks_nobody_for_it(program: Program, authority: Authority) -> None:
    identity = authority.server()
    key = load_pem_private_key(identity.key, None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    options = Identity(identity.cert, encrypted).write(program.folder)
    ended = await program.run("serve", *options, "apps:echo")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert "give it without a passphrase" in ended.stderr


async def test_a_certificate_and_the_key_of_another_are_told(program: Program, authority: Authority) -> None:
    options = Identity(authority.server().cert, authority.server().key).write(program.folder)
    ended = await program.run("serve", *options, "apps:echo")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert "are no certificate and its key" in ended.stderr


async def test_authorities_that_are_none_are_told(program: Program, authority: Authority) -> None:
    options = authority.server().write(program.folder)
    (program.folder / "ca.pem").write_text("nothing")
    ended = await program.run("serve", *options, "--tls-client-ca", "ca.pem", "apps:echo")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert "ca.pem holds no certificate" in ended.stderr


# --- listening on other interfaces ------------------------------------------------------------------------------------


async def test_with_tls_and_authentication_any_interface_will_do(program: Program, authority: Authority) -> None:
    await program.run("token", "tokens", "ada")
    options = (*authority.server().write(program.folder), "--token-file", "tokens")
    served = await program.serve("apps:echo", "--listen", "0.0.0.0:0", *options)
    assert "WARNING" not in served.log()


@pytest.mark.parametrize(
    ("given", "missing"),
    [((), "TLS and authentication"), (("tls",), "authentication"), (("tokens",), "TLS")],
    ids=lambda given: "+".join(given) if isinstance(given, tuple) else None,
)
async def test_without_them_it_needs_to_be_told_that_it_is_insecure_and_warns(
    program: Program, authority: Authority, given: tuple[str, ...], missing: str
) -> None:
    await program.run("token", "tokens", "ada")
    options = authority.server().write(program.folder) if "tls" in given else ()
    options += ("--token-file", "tokens") if "tokens" in given else ()
    ended = await program.run("serve", "--listen", "[::]:0", *options, "apps:echo")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert f"[::]:0 can be reached from other machines, without {missing}: set" in ended.stderr
    assert "--insecure" in ended.stderr

    served = await program.serve("apps:echo", "--listen", "0.0.0.0:0", "--insecure", *options)
    await until_logged(served, "WARNING session_service.server.server: 0.0.0.0:0 can be reached from other machines")
    assert f"without {missing}\n" in served.log()
