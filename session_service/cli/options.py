"""What the commands' options and arguments have in common."""

from __future__ import annotations

import functools
import math

import click

from ..config import GREATEST, LISTEN, LONGEST
from ..window import Window

__all__ = [
    "ADDRESS_VARIABLE",
    "DEFAULT_ADDRESS",
    "check_address",
    "check_seconds",
    "file",
    "number",
    "option",
    "rate",
    "seconds",
    "window",
]

# Where clients look for a server: where `serve` listens by default.
DEFAULT_ADDRESS = "127.0.0.1:50051"
ADDRESS_VARIABLE = "SESSION_SERVICE_ADDRESS"


def check_address(_: click.Context, __: click.Parameter | None, address: str) -> str:
    """Check an address, to listen on or to connect to."""
    match = LISTEN.fullmatch(address)
    if match is None or int(match[1] or 0) > 65535:  # gRPC takes a missing port for 443, and 65536 for 0
        raise click.BadParameter(f"{address!r} is neither HOST:PORT nor unix:PATH.")
    return address


def check_seconds(_: click.Context, __: click.Parameter, seconds: float) -> float:
    """Check a duration."""
    if not 0 <= seconds <= LONGEST:  # nor is it NaN
        raise click.BadParameter(f"{seconds:g} is no number of seconds from 0 to {LONGEST:.0f}.")
    return seconds


def _check_rate(_: click.Context, __: click.Parameter, rate: float) -> float:
    if not 0 <= rate < math.inf:
        raise click.BadParameter(f"{rate:g} is no number from 0 on.")
    return rate


def _parse_window(_: click.Context, __: click.Parameter, text: str) -> Window:
    messages, _comma, size = text.partition(",")
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) <= GREATEST for part in (messages, size)):
        raise click.BadParameter(f"{text!r} is not MESSAGES,BYTES.")
    return Window(int(messages), int(size))


option = functools.partial(click.option, show_default=True, show_envvar=True)
seconds = functools.partial(option, type=float, callback=check_seconds, metavar="SECONDS")
number = functools.partial(option, type=click.IntRange(0, GREATEST), metavar="N")
rate = functools.partial(option, type=float, callback=_check_rate, metavar="RATE")
window = functools.partial(option, callback=_parse_window, metavar="MESSAGES,BYTES")
file = functools.partial(option, type=click.Path(), default="", show_default=False)
