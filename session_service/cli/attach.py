"""``session-service attach``: holds a session from a terminal, or from a script."""

from __future__ import annotations

import os
from typing import Any

import click

from ..config import LISTEN
from .line import parse_json
from .options import ADDRESS_VARIABLE, DEFAULT_ADDRESS, check_address, seconds
from .tls import channel_credentials, tls_options

__all__ = ["attach"]


def _split_target(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> tuple[str, str]:
    """Return the address and the app."""
    if len(words) == 1 and LISTEN.fullmatch(words[0]):
        raise click.BadParameter(f"{words[0]!r} is an address: say which APP to open there.")
    if len(words) > 2:
        raise click.BadParameter(f"it takes an address and an app, not {len(words)} words.")
    address = words[0] if len(words) == 2 else os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    return check_address(context, parameter, address), words[-1]


def _parse_params(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is no NAME=VALUE.")
        try:
            params[name] = parse_json(value)
        except ValueError:
            params[name] = value
    return params


@click.command()
@click.argument("target", metavar="[ADDRESS] APP", nargs=-1, required=True, callback=_split_target)
@click.option(
    "--param",
    "params",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_parse_params,
    help="A parameter of the app: JSON, or else text; may be given several times.",
)
@seconds("--timeout", default=60.0, help="Give up after so long without a connection.")
@click.option(
    "--token",
    envvar="SESSION_SERVICE_TOKEN",
    show_envvar=True,
    help="A bearer token; rather by the variable, since all users of the machine see arguments.",
)
@tls_options
def attach(
    target: tuple[str, str], params: dict[str, Any], timeout: float, token: str | None, **tls: str | None
) -> int:
    """Open a session of APP; show its commands, and send the lines that are typed.

    ADDRESS is HOST:PORT or unix:PATH; without it, $SESSION_SERVICE_ADDRESS or 127.0.0.1:50051.

    \b
    NAME JSON       sends the event NAME: answer {"x": 1}
    NAME @FILE      sends the event NAME with the bytes of a file
    any other text  sends the event input with that text
    \\TEXT           sends the event input with TEXT, whatever it looks like
    @TASK ...       does the same for a task or a callback

    Ctrl-D ends the events, and the app ends when it has no use for more. Ctrl-C ends the session now, and so do SIGTERM
    and the end of the terminal. When stdin or
    stdout is no terminal, commands are written as JSON, one a line, and the end of stdin is like Ctrl-D.

    Exits 0 if the session was completed, or ended by this client; else 1.
    """  # noqa: D301 - click wants a backspace
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc reads it when it is imported
    from .conversation import converse

    return converse(*target, params, timeout, token, channel_credentials(**tls))
