"""Plays the cases against servers, and tells how each went."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cases import Case, CaseError, load_cases
from .player import Player
from .servers import NEEDS, Servers, Unavailable
from .stream import Failure

__all__ = ["JOBS", "PATIENCE", "Result", "load", "play", "table"]

SUITES = Path(__file__).parents[2] / "suites" / "server"

# Seconds that anything may take before its case fails: far more than anything does take.
PATIENCE = 10.0

# Cases at once: most of them wait most of the time.
JOBS = 16


@dataclass(frozen=True)
class Result:
    """How a case went.

    Attributes:
        case: which.
        verdict: ``pass``, ``n/a``, ``known`` or, in capitals what makes the run fail, ``FAIL`` or ``SURPRISE``.
        why: why it did not just pass.
        log: what passed on the wire, where it failed.
    """

    case: Case
    verdict: str
    why: str = ""
    log: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it is as it should be."""
        return not self.verdict.isupper()


def load(globs: Sequence[str] = ("*",)) -> list[Case]:
    """Return the cases whose ids are like one of the globs.

    Raises:
        CaseError: a suite is wrong, or there is no such case.
    """
    cases = load_cases(SUITES, settings=("needs",))
    for case in cases:
        if unknown := set(case.settings.get("needs", ())) - NEEDS.keys():
            raise CaseError(f"{case.id}: what is it to have {', '.join(unknown)}?")
    for glob in globs:
        if not fnmatch.filter([case.id for case in cases], glob):
            raise CaseError(f"no case is like {glob}")
    return [case for case in cases if any(fnmatch.fnmatchcase(case.id, glob) for glob in globs)]


async def play(
    cases: Sequence[Case], servers: Servers, known: Mapping[str, str], *, jobs: int = JOBS, patience: float = PATIENCE
) -> list[Result]:
    """Play all cases, some at once; return how they went, in their order.

    Args:
        cases: what to play.
        servers: what to play them against; stopped at the end.
        known: why which case is known to fail.
        jobs: cases at once.
        patience: seconds that anything may take.

    Raises:
        CaseError: a case makes no sense.
    """
    room = asyncio.Semaphore(jobs)

    async def play_in_room(case: Case) -> Result:
        async with room:
            result = await _play(case, servers, patience)
        if case.id not in known or result.verdict == "n/a":
            return result
        if result.verdict == "FAIL":
            return Result(case, "known", known[case.id])
        return Result(case, "SURPRISE", f"it passes, and is known to fail: {known[case.id]}")

    try:
        tasks = {case.id: asyncio.create_task(play_in_room(case)) for case in sorted(cases, key=_is_quick)}
        await asyncio.wait(tasks.values())  # also where a case is wrong: none is torn out of its play
        return [tasks[case.id].result() for case in cases]
    finally:
        await servers.stop()


def _is_quick(case: Case) -> bool:
    return not any("within" in step for step in case.steps)


async def _play(case: Case, servers: Servers, patience: float) -> Result:
    try:
        served = await servers.get(tuple(case.settings.get("needs", ())))
    except Unavailable as reason:
        return Result(case, "n/a", str(reason))
    player = Player(case, served, patience)
    try:
        await player.play()
    except Failure as failure:
        return Result(case, "FAIL", str(failure), player.log())
    finally:
        await servers.release(served)
    return Result(case, "pass")


def table(results: Sequence[Result], seconds: float) -> Iterator[str]:
    """Yield the lines of a table, then what failed, and a last line that counts."""
    width = max(len(result.case.id) for result in results)
    for result in results:
        why = result.why if result.verdict in ("n/a", "known") else ""
        yield f"{result.case.id:{width}}  {result.verdict:8}  {why}".rstrip()
    for result in results:
        if not result.is_good:
            yield f"\n{result.verdict}  {result.case.id}: {result.case.says}"
            yield from (f"  {line}" for line in (result.why, *result.log.splitlines()))
    verdicts = [result.verdict for result in results]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in ("pass", "n/a", "known", "FAIL", "SURPRISE")]
    yield f"\n{', '.join(count for count in counts if not count.startswith('0 '))} in {seconds:.0f} s"
