"""Who calls: the interface of authentication, and what every call goes through.

Authentication runs on each call but those of the health service, and of a session on each attach (protocol A2). Three
authenticators come with the package: `TokenFile`, `JsonWebTokens`, and `certificate_subject` for mTLS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from ...errors import Unauthenticated
from ...session import ANONYMOUS, Principal

__all__ = [
    "Authenticator",
    "Peer",
    "anonymous",
    "bearer_token",
    "certificate_subject",
    "checked_name",
    "metadata_of",
    "peer_of",
]

LONGEST_NAME = 1024


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a call.

    Attributes:
        address: as gRPC writes it, such as ``ipv4:192.0.2.1:1234``.
        certificate: what gRPC tells of the certificate that the client has proved to hold, such as ``x509_subject`` and
            ``x509_subject_alternative_name``; empty without one.
    """

    address: str
    certificate: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)


class Authenticator(Protocol):
    """Tells who calls. A function will do; it runs on the event loop, so it must not block."""

    def __call__(self, metadata: Mapping[str, str], peer: Peer, /) -> Principal:
        """Return the principal.

        Args:
            metadata: the text entries of the call's metadata, names in lower case.
            peer: the other end.

        Raises:
            Unauthenticated: no credentials, or bad ones. The client is told its message.
        """


def anonymous(metadata: Mapping[str, str], peer: Peer) -> Principal:
    """Take everybody for the same principal."""
    return ANONYMOUS


def certificate_subject(metadata: Mapping[str, str], peer: Peer) -> Principal:
    """Name the principal after the client's certificate: its SPIFFE id if it has one, else its subject.

    SPIFFE comes first, for certificates of that kind share their subjects.
    """
    names = peer.certificate.get("peer_spiffe_id") or peer.certificate.get("x509_subject") or ("",)
    if not names[0]:
        raise Unauthenticated("a client certificate with a subject or a SPIFFE id is needed")
    return Principal(checked_name(names[0]))


def bearer_token(metadata: Mapping[str, str]) -> str:
    """Return the token of the metadata ``authorization: Bearer TOKEN``.

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("send the metadata `authorization: Bearer TOKEN`")
    return token.strip()


def checked_name(name: object) -> str:
    """Return the name of a principal, if logs and tables can show it.

    Raises:
        Unauthenticated: it is no such name.
    """
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise Unauthenticated(
            f"the credentials name nobody: printable text of 1 to {LONGEST_NAME} characters is needed"
        )
    return name


def metadata_of(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    """Return the text entries of a call's metadata, the first of each name."""
    found: dict[str, str] = {}
    for name, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            found.setdefault(name, value)
    return found


def peer_of(context: grpc.aio.ServicerContext[Any, Any]) -> Peer:
    """Return the other end of a call."""
    return Peer(
        context.peer(),
        {
            name: tuple(value.decode(errors="replace") for value in values)
            for name, values in context.auth_context().items()
            if name.startswith(("x509_", "peer_"))
        },
    )
