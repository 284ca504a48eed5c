"""What the commands' options and arguments have in common."""

from __future__ import annotations

import functools

import click

from ..config import LISTEN, LONGEST

__all__ = ["ADDRESS_VARIABLE", "DEFAULT_ADDRESS", "check_address", "check_seconds", "option", "seconds"]

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


option = functools.partial(click.option, show_default=True, show_envvar=True)
seconds = functools.partial(option, type=float, callback=check_seconds, metavar="SECONDS")
