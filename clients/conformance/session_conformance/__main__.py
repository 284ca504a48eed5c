"""``python -m session_conformance clients`` checks clients, ``... server`` checks a server."""

from __future__ import annotations

import argparse
import sys

from . import clients, server


def main() -> int:
    """Run what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m session_conformance", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, half in (("clients", clients), ("server", server)):
        command = commands.add_parser(name, help=(half.__doc__ or "").split("\n")[0], description=half.__doc__)
        half.add_arguments(command)
        command.set_defaults(run=half.run)
    args = parser.parse_args()
    code: int = args.run(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
