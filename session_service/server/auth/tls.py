"""The server's certificate, and the authorities of its clients' certificates."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, NoReturn

import grpc

from .reload import Reloading

__all__ = ["Certificates"]


class Certificates:
    """What TLS needs, from files in PEM.

    Attributes:
        files: them; a change concerns connections that are made from then on.
    """

    def __init__(self, cert: str, key: str, client_ca: str = "") -> None:
        """Load the files.

        Args:
            cert: the server's certificate, and those of its issuers behind it.
            key: its private key.
            client_ca: the authorities of which each client needs a certificate; empty where clients need none.

        Raises:
            OSError, ValueError: they cannot be read, or do not fit.
        """
        self._cert, self._key, self._client_ca = cert, key, client_ca
        paths = [path for path in (cert, key, client_ca) if path]
        self.files = Reloading("TLS certificates", paths, self._load)

    def credentials(self) -> grpc.ServerCredentials:
        """Return what one port is made with."""
        given = initial = self.files.value

        def fetch() -> Any:  # None means that nothing has changed, which its types do not know
            # By a thread of gRPC's core, before each handshake: no IO here.
            nonlocal given
            newest = self.files.value
            if newest is given:
                return None
            given = newest
            return newest

        return grpc.dynamic_ssl_server_credentials(initial, fetch, require_client_authentication=bool(self._client_ca))

    def _load(self) -> grpc.ServerCertificateConfiguration:
        cert, key = Path(self._cert).read_bytes(), Path(self._key).read_bytes()
        client_ca = Path(self._client_ca).read_bytes() if self._client_ca else None
        # gRPC would say what is wrong to its own log, and at the next handshake.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._cert, self._key, password=_refuse_password)
        except ssl.SSLError as error:
            raise ValueError(f"{self._cert} and {self._key} are no certificate and its key: {error}") from None
        if client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except ssl.SSLError as error:
                raise ValueError(f"{self._client_ca} holds no certificate: {error}") from None
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca)


def _refuse_password() -> NoReturn:
    raise ValueError("the private key is encrypted: give it without a passphrase")
