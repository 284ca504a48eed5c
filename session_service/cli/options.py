"""What the commands' options and arguments have in common, and the options that are settings of a server."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..config import ADDRESS, GREATEST, SECONDS, Config, Kind
from ..window import Window

__all__ = ["ADDRESS_VARIABLE", "DEFAULT_ADDRESS", "check_address", "check_seconds", "option", "seconds", "settings"]

# Where clients look for a server: where `serve` listens by default.
DEFAULT_ADDRESS = "127.0.0.1:50051"
ADDRESS_VARIABLE = "SESSION_SERVICE_ADDRESS"

Value = TypeVar("Value")
Command = Callable[..., None]


def _check(kind: Kind, _: click.Context, parameter: click.Parameter | None, value: Value) -> Value:
    if not kind.allows(value):
        name = parameter.name if parameter is not None else ""
        raise click.BadParameter(f"{kind.fault.format(name=name, value=value)}.")
    return value


def check_address(context: click.Context, parameter: click.Parameter | None, address: str) -> str:
    """Check an address to connect to."""
    scheme, is_url, rest = address.partition("://")
    if is_url:
        raise click.BadParameter(
            f"{address!r} is neither HOST:PORT nor unix:PATH: write {rest.partition('/')[0]}, without {scheme}://."
        )
    return _check(ADDRESS, context, parameter, address)


check_seconds = functools.partial(_check, SECONDS)

option = functools.partial(click.option, show_default=True, show_envvar=True)
seconds = functools.partial(option, type=float, callback=check_seconds, metavar="SECONDS")


def settings(command: Command) -> Command:
    """Give a command an option for each setting of `Config` that is to have one, in their order."""
    for item in reversed(dataclasses.fields(Config)):
        if item.metadata["option"]:
            command = _option_of(item)(command)
    return command


def _option_of(item: dataclasses.Field[Any]) -> Callable[[Command], Command]:
    kind, sentence, default = item.metadata["kind"], item.metadata["sentence"], item.default
    name = f"--{item.name.replace('_', '-')}"
    said = f"{sentence[0].upper()}{sentence[1:]}."
    if isinstance(default, bool):
        return option(name, is_flag=True, help=said)
    if isinstance(default, Window):
        default = f"{default.messages},{default.size}"
    return option(
        name,
        type=type(default),
        default=default,
        show_default=default != "",
        callback=_parse_window if isinstance(item.default, Window) else functools.partial(_check, kind),
        metavar=kind.metavar,
        help=said,
    )


def _parse_window(_: click.Context, __: click.Parameter, text: str) -> Window:
    messages, _comma, size = text.partition(",")
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) <= GREATEST for part in (messages, size)):
        raise click.BadParameter(f"{text!r} is not MESSAGES,BYTES.")
    return Window(int(messages), int(size))
