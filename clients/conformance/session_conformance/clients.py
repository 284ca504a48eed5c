"""Check clients: play every case with every driver, and print a table."""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from .cases import Case, CaseError, load_cases
from .play import SETTINGS, Outcome, Play
from .served import Servers

__all__ = ["Client", "Report", "add_arguments", "check", "load_known_failures", "run"]

FOLDER = Path(__file__).parent.parent
SUITES = FOLDER / "suites" / "client"
KNOWN_FAILURES = FOLDER / "known_failures.yaml"

# Seconds that each thing may take that has to happen: far more than any takes on a machine that is not overloaded.
PATIENCE = 10.0

# Drivers at once: most of the time they wait.
JOBS = 4 * (os.cpu_count() or 1)

# Seconds that a case may take in all.
LONGEST = 120.0


@dataclass(frozen=True)
class Client:
    """A client under test.

    Attributes:
        name: as in the table and in the list of known failures.
        command: its driver.
    """

    name: str
    command: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Client:
        """Read ``NAME=COMMAND``; ``python`` alone is the one that comes with the kit.

        Raises:
            ValueError: it is none.
        """
        name, _, command = text.partition("=")
        if text == "python":
            path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
            return cls(name, ("env", f"PYTHONPATH={path}", sys.executable, "-m", "session_conformance.drivers.python"))
        if not name or not command.strip():
            raise ValueError(f"no client: {text!r}")
        return cls(name, tuple(shlex.split(command)))


@dataclass(frozen=True)
class Report:
    """How one case went with one client.

    Attributes:
        case: which.
        client: which.
        outcome: how.
        known: why it is known to fail; empty where it is not.
    """

    case: Case
    client: Client
    outcome: Outcome
    known: str = ""

    @property
    def verdict(self) -> str:
        """What the table says; in capitals what makes the run fail."""
        failed = self.outcome.verdict == "FAIL"
        if self.known:
            return "known" if failed else "SURPRISE"
        return self.outcome.verdict

    @property
    def is_good(self) -> bool:
        """Whether it is as it should be."""
        return not self.verdict.isupper()


def load_known_failures(
    file: Path, clients: Sequence[Client], cases: Sequence[Case]
) -> Mapping[str, Mapping[str, str]]:
    """Return why which case is known to fail, by client and case.

    Raises:
        CaseError: the file says what cannot be understood, or names a case that there is not.
    """
    content: Any = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    known = {case.id for case in cases}
    if not isinstance(content, dict):
        raise CaseError(f"{file.name}: is no mapping of clients")
    for name, reasons in content.items():
        for case, reason in (reasons or {}).items():
            if case not in known:
                raise CaseError(f"{file.name}: {name}: there is no case {case}")
            if not isinstance(reason, str) or not reason.strip():
                raise CaseError(f"{file.name}: {name}: {case} is known to fail for a reason: which?")
    return {client.name: content.get(client.name) or {} for client in clients}


async def check(
    cases: Sequence[Case],
    clients: Sequence[Client],
    known_failures: Mapping[str, Mapping[str, str]],
    *,
    jobs: int = JOBS,
    patience: float = PATIENCE,
) -> list[Report]:
    """Play every case with every client, some at once.

    Raises:
        CaseError: a case says what cannot be understood.
    """
    room = asyncio.Semaphore(jobs)
    async with Servers() as servers:

        async def play(case: Case, client: Client) -> Report:
            async with room:
                try:
                    async with asyncio.timeout(LONGEST):
                        outcome = await Play(case, client.command, servers, patience).run()
                except TimeoutError:
                    outcome = Outcome("FAIL", f"it is not over after {LONGEST:g} s", seconds=LONGEST)
            return Report(case, client, outcome, known_failures.get(client.name, {}).get(case.id, ""))

        # The longest first: those with our own server.
        order = sorted(cases, key=lambda case: "serve" not in case.settings)
        tasks = {
            (case.id, client.name): asyncio.create_task(play(case, client)) for case in order for client in clients
        }
        await asyncio.wait(tasks.values())  # also where a case is wrong: none is torn out of its play
        return [tasks[case.id, client.name].result() for case in cases for client in clients]


def print_reports(reports: Sequence[Report], seconds: float, out: TextIO) -> None:
    """Print a table, cases by clients, and below it what failed."""
    clients = list(dict.fromkeys(report.client.name for report in reports))
    cases = list(dict.fromkeys(report.case.id for report in reports))
    verdicts = {(report.case.id, report.client.name): report.verdict for report in reports}
    width = max(map(len, cases), default=0)
    widths = [max(len(name), len("SURPRISE")) for name in clients]
    line = "  ".join(name.ljust(space) for name, space in zip(clients, widths, strict=True))
    print(f"{'':{width}}  {line}".rstrip(), file=out)
    for case in cases:
        line = "  ".join(verdicts[case, name].ljust(space) for name, space in zip(clients, widths, strict=True))
        print(f"{case:{width}}  {line}".rstrip(), file=out)
    for report in reports:
        if report.verdict in ("pass", "known"):
            continue
        print(f"\n{report.verdict}  {report.case.id}  {report.client.name}: {report.case.says}", file=out)
        problem = report.outcome.problem
        if report.verdict == "SURPRISE":
            problem = f"it is listed as a known failure, and did not fail: {report.known}"
        for text in (problem, report.outcome.log if report.verdict == "FAIL" else ""):
            print("".join(f"  {part}\n" for part in text.splitlines()), end="", file=out)
    print(file=out)
    for name in clients:
        of = [report.verdict for report in reports if report.client.name == name]
        counts = [f"{of.count(verdict)} {verdict}" for verdict in ("pass", "n/a", "known", "FAIL", "SURPRISE")]
        print(f"{name}: {', '.join(count for count in counts if not count.startswith('0 '))}", file=out)
    print(f"{len(reports)} in {seconds:.0f} s", file=out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this half of the kit can be told."""
    parser.add_argument(
        "--client",
        action="append",
        required=True,
        metavar="NAME=COMMAND",
        help="a driver to check, may be repeated; `python` alone is the one that comes with the kit",
    )
    parser.add_argument("--case", action="append", metavar="GLOB", help="only these, such as 'D2-*'; may be repeated")
    parser.add_argument("--suites", type=Path, default=SUITES, metavar="FOLDER", help="where the cases are")
    parser.add_argument(
        "--known-failures", type=Path, default=KNOWN_FAILURES, metavar="FILE", help="with a reason each"
    )
    parser.add_argument("--jobs", type=int, default=JOBS, help="drivers at once")
    parser.add_argument("--patience", type=float, default=PATIENCE, metavar="SECONDS", help="for each step")


def run(args: argparse.Namespace, out: TextIO = sys.stdout) -> int:
    """Check the clients; return 0 where all is as it should be, 1 where it is not, 2 where a case is wrong."""
    try:
        clients = [Client.parse(text) for text in args.client]
        all_cases = sorted(load_cases(args.suites, SETTINGS), key=lambda case: case.rule)
        known = load_known_failures(args.known_failures, clients, all_cases)
        cases = [case for case in all_cases if _is_asked_for(case, args.case)]
        if not cases:
            raise CaseError(f"no case is like {', '.join(args.case)}")
        began = time.monotonic()
        reports = asyncio.run(check(cases, clients, known, jobs=args.jobs, patience=args.patience))
    except (CaseError, ValueError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    print_reports(reports, time.monotonic() - began, out)
    return 0 if all(report.is_good for report in reports) else 1


def _is_asked_for(case: Case, globs: Sequence[str] | None) -> bool:
    return not globs or any(fnmatch.fnmatchcase(case.id, glob) for glob in globs)
