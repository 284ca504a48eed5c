"""The command line: ``session-service serve``, ``attach``, ``healthcheck``, ``token``, ``sessions`` and ``drain``.

What a user gets wrong is one line on stderr and exit code 2. What is imported here is imported by each command, and
``healthcheck`` shall be quick: grpc, the server and the client are imported by the commands that need them.
"""

from __future__ import annotations

import errno
import signal
import sys
from typing import NoReturn

import click

from .attach import attach
from .drain import drain
from .healthcheck import healthcheck
from .serve import serve
from .sessions import sessions
from .streams import StdoutError, give_up_stdout, prepare, say
from .token import token

__all__ = ["main"]


@click.group(no_args_is_help=False)
@click.version_option(package_name="session-service")
def command() -> None:
    """Interactive sessions, written as straight-line Python, over gRPC."""


command.add_command(serve)
command.add_command(attach)
command.add_command(healthcheck)
command.add_command(token)
command.add_command(sessions)
command.add_command(drain)


def main() -> NoReturn:
    """Run the command line."""
    prepare()
    try:
        code = command.main(prog_name="session-service", standalone_mode=False)  # returns what the command returns
        sys.stdout.flush()
    except StdoutError as error:
        if error.errno != errno.EPIPE:  # else whoever read it has enough
            say(f"cannot write to stdout: {error.strerror}")
        give_up_stdout()
        code = 1
    except click.Abort:
        code = 128 + signal.SIGINT
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        remedy = f" Try: {context.command_path} --help" if context is not None else ""
        say(f"{error.format_message()}{remedy}")
        code = 2
    sys.exit(code)
