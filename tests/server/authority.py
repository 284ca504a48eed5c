"""An authority that makes certificates, for tests alone."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Identity"]

LOCAL = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


class Identity(NamedTuple):
    """A certificate and its key, in PEM."""

    cert: bytes
    key: bytes

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.cert).serial_number

    def write(self, folder: Path) -> tuple[str, ...]:
        """Write both to files, and return the options that say so."""
        cert, key = folder / "cert.pem", folder / "key.pem"
        cert.write_bytes(self.cert)
        key.write_bytes(self.key)
        return "--tls-cert", str(cert), "--tls-key", str(key)


class Authority:
    """Makes certificates. Two that are trusted at once need different names.

    Attributes:
        cert: its own one, in PEM.
    """

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.cert = self._sign(self._key, self._name, (), ca=True)

    def server(self) -> Identity:
        """Make an identity for 127.0.0.1."""
        return self._make(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), LOCAL)

    def client(self, name: str, spiffe_id: str = "") -> Identity:
        """Make an identity of this common name, which may be empty."""
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
        alternatives = (x509.UniformResourceIdentifier(spiffe_id),) if spiffe_id else (x509.DNSName("client"),)
        return self._make(x509.Name(attributes), alternatives)

    def channel_credentials(self, client: Identity | None = None) -> grpc.ChannelCredentials:
        """Return what a client has that trusts this authority."""
        return grpc.ssl_channel_credentials(
            self.cert, client.key if client is not None else None, client.cert if client is not None else None
        )

    def _make(self, name: x509.Name, alternatives: tuple[x509.GeneralName, ...]) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Identity(self._sign(key, name, alternatives, ca=False), pem)

    def _sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: x509.Name,
        alternatives: tuple[x509.GeneralName, ...],
        ca: bool,
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
