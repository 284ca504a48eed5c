"""How the commands that connect to a server speak TLS to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import grpc

__all__ = ["channel_credentials", "tls_options"]

CA_VARIABLE = "SESSION_SERVICE_TLS_CA"

_OPTIONS = (
    click.option(
        "--tls-ca",
        type=click.Path(),
        envvar=CA_VARIABLE,
        show_envvar=True,
        help="Speak TLS, and trust the authorities in this file, PEM.",
    ),
    click.option(
        "--tls-cert", type=click.Path(), help="The client's own certificate, PEM, for a server that asks for one."
    ),
    click.option("--tls-key", type=click.Path(), help="Its private key, PEM."),
)


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``tls_ca``, ``tls_cert`` and ``tls_key``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def channel_credentials(
    tls_ca: str | None, tls_cert: str | None, tls_key: str | None
) -> grpc.ChannelCredentials | None:
    """Return what a channel is made with; None for plain text. It imports gRPC.

    Raises:
        click.ClickException: the options do not go together, or a file cannot be read.
    """
    if bool(tls_cert) != bool(tls_key):
        raise click.UsageError("--tls-cert and --tls-key need each other.")
    if not tls_ca:
        if tls_cert:
            raise click.UsageError("--tls-cert needs --tls-ca.")
        return None
    import grpc

    try:
        ca, key, cert = (Path(path).read_bytes() if path else None for path in (tls_ca, tls_key, tls_cert))
    except OSError as error:
        raise click.ClickException(str(error)) from None
    return grpc.ssl_channel_credentials(ca, key, cert)
