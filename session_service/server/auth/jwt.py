"""JSON Web Tokens (RFC 7519) of one issuer, checked by its public keys from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import Unauthenticated
from ...session import Principal
from .authenticator import Peer, bearer_token, checked_name
from .reload import Reloading

try:
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
except ImportError as error:
    raise ValueError("JWTs need PyJWT and cryptography: pip install 'session-service[jwt]'") from error

__all__ = ["JsonWebTokens"]

# Seconds by which the clocks of the issuer and of this machine may differ.
LEEWAY = 10.0

LEAST_RSA_BITS = 2048

# What a key of each kind may sign with. A token cannot choose beyond that: neither "none", nor HMAC, for which anybody
# could use the public key as the secret.
RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVE_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)

REFUSALS = {
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidAudienceError: "the token is for another audience",
    jwt.InvalidIssuerError: "the token is of another issuer",
    jwt.MissingRequiredClaimError: "the token lacks one of the claims exp, iss, aud and sub",
}


@dataclass(frozen=True)
class _Key:
    id: str | None
    key: Any  # one of the library's public keys
    algorithms: frozenset[str]


class JsonWebTokens:
    """Lets in whoever has a token that the issuer has signed for this audience; the principal is its subject.

    Attributes:
        files: the keys.
    """

    def __init__(self, path: str, issuer: str, audience: str) -> None:
        """Load the keys.

        Args:
            path: a JWKS (RFC 7517), or public keys in PEM.
            issuer: what a token's ``iss`` must be.
            audience: what a token's ``aud`` must be or hold.

        Raises:
            OSError, ValueError: the file cannot be read, or holds no key that can be used.
        """
        self._path = path
        self._issuer = issuer
        self._audience = audience
        self.files = Reloading("keys of JWTs", [path], self._load)

    def __call__(self, metadata: Mapping[str, str], peer: Peer) -> Principal:
        """Return the principal of the call's token; see `Authenticator`."""
        claims = self._claims(bearer_token(metadata))
        return Principal(checked_name(claims["sub"]), claims, float(claims["exp"]) + LEEWAY)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key_id = str(header.get("alg")), header.get("kid")
            for key in self.files.value:
                if algorithm not in key.algorithms or (key_id and key.id and key.id != key_id):
                    continue
                try:
                    return jwt.decode(
                        token,
                        key.key,
                        algorithms=[algorithm],
                        issuer=self._issuer,
                        audience=self._audience,
                        leeway=LEEWAY,
                        options={"require": ["exp", "iss", "aud", "sub"]},
                    )
                except jwt.InvalidSignatureError:
                    continue
        except (jwt.PyJWTError, RecursionError) as error:  # its text may quote the token
            raise Unauthenticated(REFUSALS.get(type(error), "the token is no valid JWT")) from None
        raise Unauthenticated("the token is not signed by a key that is known here")

    def _load(self) -> list[_Key]:
        data = Path(self._path).read_bytes()
        keys = [_from_pem(pem) for pem in PEM.findall(data)] or _from_jwks(data)
        if not keys:
            raise ValueError(f"{self._path} holds no public key to check a signature with, as JWKS or PEM")
        return keys


def _from_pem(data: bytes) -> _Key:
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"a public key cannot be read: {error}") from None
    if not (algorithms := _algorithms(key)):
        raise ValueError("a public key is neither RSA, nor of the curves P-256, P-384, P-521 and Ed25519")
    return _Key(None, key, algorithms)


def _from_jwks(data: bytes) -> list[_Key]:
    keys = []
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return []
    found = document.get("keys") if isinstance(document, dict) else None
    for entry in found if isinstance(found, list) else ():
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        if "d" in entry:
            raise ValueError("a key of the JWKS is a private one: it belongs to the issuer alone")
        try:
            key = jwt.PyJWK(entry).key
        except jwt.PyJWTError:  # of a kind that is not known here: other parties may need it
            continue
        algorithms = _algorithms(key)
        if isinstance(named := entry.get("alg"), str):
            algorithms &= {named}
        if algorithms:
            keys.append(_Key(entry.get("kid"), key, algorithms))
    return keys


def _algorithms(key: object) -> frozenset[str]:
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < LEAST_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits is too short: {LEAST_RSA_BITS} are the least")
        return RSA_ALGORITHMS
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVE_ALGORITHMS:
        return frozenset({CURVE_ALGORITHMS[key.curve.name]})
    if isinstance(key, ed25519.Ed25519PublicKey):
        return frozenset({"EdDSA"})
    return frozenset()
