"""JSON Web Tokens: which are believed, whose they are, and keys that change."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from session_service.errors import Unauthenticated
from session_service.server import Peer
from session_service.server.auth.jwt import LEEWAY, JsonWebTokens
from session_service.session import Principal
from session_service.v1 import session_pb2 as pb

from ..cli.program import Program
from ..protocol.peer import value
from .conftest import Connect

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()

ISSUER, AUDIENCE = "https://issuer.example", "session-service"

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def jwk(key: Key, **fields: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        text = RSAAlgorithm.to_jwk(key.public_key())
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        text = ECAlgorithm.to_jwk(key.public_key())
    else:
        text = OKPAlgorithm.to_jwk(key.public_key())
    return {**json.loads(text), **fields}


def pem(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def claims(**changes: Any) -> dict[str, Any]:
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": int(time.time()) + 60, **changes}
    return {name: value for name, value in made.items() if value is not None}


def signed(key: Any = EC_KEY, algorithm: str = "ES256", kid: str | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid} if kid else None)


class Keys:
    """The file of keys, and who is let in by it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *keys: dict[str, Any]) -> JsonWebTokens:
        self.path.write_text(json.dumps({"keys": keys}))
        return self.load()

    def load(self) -> JsonWebTokens:
        return JsonWebTokens(str(self.path), ISSUER, AUDIENCE)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


def call(tokens: JsonWebTokens, token: str) -> Principal:
    return tokens({"authorization": f"Bearer {token}"}, Peer("ipv4:127.0.0.1:1"))


def refusal(tokens: JsonWebTokens, token: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        call(tokens, token)
    assert token not in str(refused.value)
    return str(refused.value)


# --- what is believed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        *((RSA_KEY, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        *((EC_KEY, "ES256"), (P384_KEY, "ES384"), (ED_KEY, "EdDSA")),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
@pytest.mark.parametrize("form", ["JWKS", "PEM"])
def test_a_token_that_the_issuer_has_signed_is_believed(keys: Keys, key: Key, algorithm: str, form: str) -> None:
    if form == "PEM":
        keys.path.write_bytes(pem(EC_KEY) + pem(key))
        tokens = keys.load()
    else:
        tokens = keys.write(jwk(key, kid="1"))
    assert call(tokens, signed(key, algorithm)).name == "ada"
    assert call(tokens, signed(key, algorithm, kid="1")).name == "ada"


def test_the_principal_is_the_subject_with_the_claims_and_ends_with_the_token(keys: Keys) -> None:
    tokens = keys.write(jwk(EC_KEY))
    made = claims(roles=["admin"], aud=["other", AUDIENCE])
    principal = call(tokens, jwt.encode(made, EC_KEY, "ES256"))
    assert (principal.name, principal.claims) == ("ada", made)
    assert principal.expires_at == made["exp"] + LEEWAY
    assert "admin" not in repr(principal)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"exp": int(time.time()) - LEEWAY - 5}, "the token has expired", id="expired"),
        pytest.param({"nbf": int(time.time()) + 600}, "the token is not valid yet", id="not yet"),
        ({"aud": "other"}, "the token is for another audience"),
        ({"aud": ["other"]}, "the token is for another audience"),
        ({"iss": "https://other.example"}, "the token is of another issuer"),
        *(({name: None}, "the token lacks one of the claims") for name in ("exp", "iss", "aud", "sub")),
        *(({"sub": name}, "the credentials name nobody") for name in ("", "a\nb", "x" * 1025)),
        ({"exp": "soon"}, "the token is no valid JWT"),
    ],
    ids=str,
)
def test_a_token_that_is_not_for_here_or_now_is_refused(keys: Keys, changes: dict[str, Any], why: str) -> None:
    tokens = keys.write(jwk(EC_KEY))
    token = jwt.api_jws.encode(json.dumps(claims(**changes)).encode(), EC_KEY, "ES256")
    assert refusal(tokens, token).startswith(why)


def test_clocks_may_differ_a_little(keys: Keys) -> None:
    tokens = keys.write(jwk(EC_KEY))
    assert call(tokens, signed(exp=int(time.time() - LEEWAY / 2))).name == "ada"


# --- what is not ------------------------------------------------------------------------------------------------------


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def unsigned(**header: Any) -> str:
    return f"{encoded(header)}.{encoded(claims())}."


def forged_hmac() -> str:
    """Take the public key, which everybody has, as the secret of an HMAC."""
    token = jwt.api_jws.PyJWS()
    head = f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded(claims())}"
    signature = token.get_algorithm_by_name("HS256").sign(head.encode(), pem(EC_KEY))
    return f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


FORGED: list[tuple[str, Callable[[], str]]] = [
    ("another key", lambda: signed(ec.generate_private_key(ec.SECP256R1()))),
    ("another key of the same id", lambda: signed(ec.generate_private_key(ec.SECP256R1()), kid="1")),
    ("the id of no key", lambda: signed(kid="2")),
    ("another algorithm", lambda: signed(RSA_KEY, "RS256")),
    ("no signature", lambda: unsigned(alg="none")),
    ("no algorithm", lambda: unsigned(typ="JWT")),
    ("a list of algorithms", lambda: unsigned(alg=["ES256"])),
    ("a number for an id", lambda: unsigned(alg="ES256", kid=1)),
    ("the public key as a secret", forged_hmac),
    ("other claims", lambda: f"{signed().split('.')[0]}.{encoded(claims(sub='eve'))}.{signed().split('.')[2]}"),
    ("two parts", lambda: "e30.e30"),
    ("no parts", lambda: "nonsense"),
    ("no base64", lambda: "é.é.é"),
    ("nested deep", lambda: f"{base64.urlsafe_b64encode(b'[' * 9000).decode()}.e30.e30"),
]


@pytest.mark.parametrize("forge", [forge for _, forge in FORGED], ids=[name for name, _ in FORGED])
def test_a_forged_token_is_refused(keys: Keys, forge: Callable[[], str]) -> None:
    tokens = keys.write(jwk(EC_KEY, kid="1"))
    assert call(tokens, signed(kid="1")).name == "ada"
    refusal(tokens, forge())


def test_a_key_signs_only_by_the_algorithm_that_the_set_names(keys: Keys) -> None:
    tokens = keys.write(jwk(RSA_KEY, alg="PS256"))
    assert call(tokens, signed(RSA_KEY, "PS256")).name == "ada"
    refusal(tokens, signed(RSA_KEY, "RS256"))


# --- the file ---------------------------------------------------------------------------------------------------------


def test_keys_that_are_not_for_this_are_passed_over(keys: Keys) -> None:
    others = (
        {"kty": "oct", "k": "c2VjcmV0", "kid": "1"},
        {"kty": "new"},
        jwk(EC_KEY, use="enc"),
        jwk(RSA_KEY, alg="RSA-OAEP"),
    )
    tokens = keys.write(*others, jwk(ED_KEY))
    assert call(tokens, signed(ED_KEY, "EdDSA")).name == "ada"
    refusal(tokens, signed(EC_KEY))
    refusal(tokens, jwt.encode(claims(), "secret" * 6, "HS256"))


def private_jwk() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(ECAlgorithm.to_jwk(EC_KEY))
    return made


UNUSABLE: list[tuple[str, Callable[[], bytes], str]] = [
    ("empty", lambda: b"", "holds no public key"),
    ("no keys", lambda: b'{"keys": []}', "holds no public key"),
    ("another document", lambda: b'["keys"]', "holds no public key"),
    ("nested deep", lambda: b"[" * 100_000, "holds no public key"),
    ("a secret", lambda: json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).encode(), "holds no public key"),
    ("a private key", lambda: json.dumps({"keys": [private_jwk()]}).encode(), "is a private one"),
    (
        "a private key in PEM",
        lambda: EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "holds no public key",
    ),
    (
        "a short key",
        lambda: pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),
        "1024 bits is too short",
    ),
    ("another curve", lambda: pem(ec.generate_private_key(ec.SECP256K1())), "is neither RSA, nor of the curves"),
    ("broken PEM", lambda: b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "cannot be read"),
]


@pytest.mark.parametrize(("data", "why"), [case[1:] for case in UNUSABLE], ids=[case[0] for case in UNUSABLE])
def test_a_file_without_a_key_that_can_be_used_is_told(keys: Keys, data: Callable[[], bytes], why: str) -> None:
    keys.path.write_bytes(data())
    with pytest.raises(ValueError, match=why) as told:
        keys.load()
    assert "c2VjcmV0" not in str(told.value)


def test_keys_are_rotated_without_a_restart(keys: Keys) -> None:
    tokens = keys.write(jwk(EC_KEY, kid="old"))
    keys.path.write_text(json.dumps({"keys": [jwk(EC_KEY, kid="old"), jwk(RSA_KEY, kid="new")]}))
    for _ in range(2):
        tokens.files.look()
    assert call(tokens, signed(kid="old")).name == "ada"
    assert call(tokens, signed(RSA_KEY, "RS256", kid="new")).name == "ada"
    keys.path.write_text("{")
    for _ in range(2):
        tokens.files.look()
    assert (tokens.files.failures, tokens.files.failing) == (1, True)
    assert call(tokens, signed(RSA_KEY, "RS256", kid="new")).name == "ada"


# --- a server ---------------------------------------------------------------------------------------------------------


async def test_a_server_lets_in_who_has_a_token_and_apps_see_its_claims(program: Program, connect: Connect) -> None:
    program.write("""
        from session_service import get_current_session

        async def who():
            session = get_current_session()
            spec = [session.principal.name, session.principal.claims["roles"], dict(session.info.headers)]
            session.send_task_command({"command": "who", "spec": spec})
    """)
    program.write(json.dumps({"keys": [jwk(EC_KEY, kid="1")]}), "keys.json")
    options = ("--jwt-keys", "keys.json", "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE)
    served = await program.serve("apps:who", "--debug", "--shutdown-grace", "0", *options)
    service = connect(served.address)
    token = signed(kid="1", roles=["admin"])
    peer = await service.open(
        "who", metadata=[("authorization", f"Bearer {token}")], command_format=pb.PAYLOAD_FORMAT_JSON
    )
    (command,) = await peer.receive_commands(1)
    name, roles, headers = value(command)
    assert (name, roles) == ("ada", ["admin"])
    assert "authorization" not in headers
    wrong = signed(kid="1", aud="other")
    status = await service.attach([("authorization", f"Bearer {wrong}")]).status()
    assert (status.code, status.message) == (grpc.StatusCode.UNAUTHENTICATED, "the token is for another audience")
    served.signal()
    assert await served.exit_code() == 0
    assert token not in served.log()
    assert wrong not in served.log()
