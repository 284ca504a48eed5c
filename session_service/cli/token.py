"""``session-service token``: makes bearer tokens for ``serve --token-file``."""

from __future__ import annotations

import click

from .streams import StdoutError

__all__ = ["token"]


@click.command()
@click.argument("file", type=click.Path())
@click.argument("name")
def token(file: str, name: str) -> None:
    """Make a bearer token for the principal NAME, and print it: this once, for FILE gets only its digest.

    A running server takes notice of FILE within seconds. To revoke a token, remove its line.
    """
    from ..server.auth.tokens import add_token  # brings gRPC along

    try:
        add_token(file, name, click.echo)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    except StdoutError:
        raise
    except OSError as error:
        raise click.ClickException(f"{error}: no token was added, and one above lets nobody in") from None
