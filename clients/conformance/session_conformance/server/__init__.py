"""Check a server: play every case on raw streams, and print a table.

What the server has to serve for that, and what the cases mean, is in suites/server/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from ..cases import Case, CaseError
from .servers import ALONE, NEEDS, OURS, Running, Servers, Started
from .suite import JOBS, PATIENCE, load, play, table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this half of the kit can be told."""
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--address", metavar="HOST:PORT", help="check the server that listens there, without TLS")
    server.add_argument(
        "--serve",
        metavar="COMMAND",
        nargs="?",
        const=OURS,
        help="start servers as the cases need them, by a command that gets the settings as JSON; by default ours",
    )
    parser.add_argument(
        "--has",
        action="append",
        default=[],
        choices=sorted(NEEDS.keys() - ALONE),
        help="the server at the address has this, may be repeated; see suites/server/README.md",
    )
    parser.add_argument("--case", action="append", metavar="GLOB", help="only these, such as 'D2-*'; may be repeated")
    parser.add_argument("--known-failures", type=Path, metavar="FILE", help="YAML: cases, with a reason each")
    parser.add_argument("--jobs", type=int, default=JOBS, help="cases at once")
    parser.add_argument("--patience", type=float, default=PATIENCE, metavar="SECONDS", help="for each step")


def run(args: argparse.Namespace, out: TextIO = sys.stdout) -> int:
    """Check the server; return 0 where all is as it should be, 1 where it is not, 2 where a case is wrong."""
    try:
        cases = load(args.case or ("*",))
        known = _known_failures(args.known_failures, cases)
        servers: Servers = Started(args.serve) if args.serve else Running(args.address, frozenset(args.has))
        began = time.monotonic()
        results = asyncio.run(play(cases, servers, known, jobs=args.jobs, patience=args.patience))
    except (CaseError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    for line in table(results, time.monotonic() - began):
        print(line, file=out)
    return 0 if all(result.is_good for result in results) else 1


def _known_failures(file: Path | None, cases: Sequence[Case]) -> Mapping[str, str]:
    if file is None:
        return {}
    content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CaseError(f"{file.name}: is no mapping of cases to reasons")
    ids = {case.id for case in cases}
    for case, reason in content.items():
        if case not in ids:
            raise CaseError(f"{file.name}: there is no case {case}")
        if not isinstance(reason, str) or not reason.strip():
            raise CaseError(f"{file.name}: {case} is known to fail for a reason: which?")
    return content
