"""The kit's cases for servers pass with ours, and find what is wrong with one that has a bug."""

from __future__ import annotations

import asyncio
import shlex
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from session_conformance.cases import Case
from session_conformance.server.bugs import BUGS
from session_conformance.server.servers import Started
from session_conformance.server.suite import load, play

KIT = Path(__file__).parents[2] / "clients" / "conformance"

# What each bug breaks: all of these cases, and no other of the same letter that is quick.
FOUND_BY = {
    "commits_late": {"F0-initial-metadata"},
    "delivers_duplicates": {
        "D2-duplicate",
        "D2-overlap",
        "D8-not-carried-over",
    },
    "forgets_ack_of_duplicates": {"D2-duplicate"},
    "skips_gaps": {"D2-gap"},
    "mistakes_a_gap": {"D2-gap"},
    "acks_what_it_received": {
        "D1a-events-die-with-their-stream-cancel",
        "D1a-events-die-with-their-stream-cut",
        "D2-duplicate",
        "D4-taken-over",
        "D5-exceeded",
        "D6-both-only-write",
        "D6-close",
        "D8-not-carried-over",
    },
    "carries_acks_over": {"D8-not-carried-over"},
    "keeps_events_of_dead_streams": {
        "D1a-events-die-with-their-stream-cancel",
        "D1a-events-die-with-their-stream-cut",
    },
    "takes_received_for_an_ack": {"D4-received", "D5-unacknowledged"},
    "replays_beyond_the_window": {"D5-replay", "D8-written-here"},
    "loses_closed": {
        "A1-close-and-half_close-0",
        "A1-close-and-half_close-2",
        "A7-closed-again",
        "A7-half_close",
        "A7-until-acknowledged",
    },
    "lets_the_older_stream_act": {
        "A3-takeover-late-ack",
        "A3-takeover-late-close",
        "A3-takeover-late-event",
    },
    "lets_the_older_stream_detach": {"A3-other-client", "A3-takeover-late-end"},
    "knows_no_anonymous_clients": {"A3-takeover"},
    "fences_before_it_checks": {"A3-same-client", "A3-other-client", "A3-refused-attach", "A6-takes-over"},
    "needs_no_token": {"A2-no-token"},
    "tells_strangers_how_far_it_got": {"A2-no-token", "A2-token", "A2-tokens", "A3-refused-attach"},
    "lets_anybody_resume": {"A2-principal"},
    "opens_again": {
        "A6-repeated-open",
        "A6-takes-over",
        "A6-acknowledged",
        "A6-other-app",
        "A6-after-the-end",
        "A6-given-up",
    },
    "refuses_repeats_at_the_limit": {"A6-before-limits"},
    "lets_anything_prolong": {"A7-progress"},
    "takes_half_close_for_detach": {"A1-half_close"},
    "takes_events_after_close": {"F6-events-after-close"},
    "lets_close_overtake": {"F6-close-waits-its-turn"},
    "makes_large_batches": {"F7-batches", "F7-command-over-the-limit"},
    "keeps_plain_sessions": {"P3-cancel", "P3-cut", "P3-half_close-and-cancel", "P3-violation"},
    "mistakes_the_reason": {
        "E1-callbacks",
        "E1-last-words",
        "E2-half_close-acknowledged",
        "E2-last",
        "E2-plain",
        "E4-completed",
    },
    "says_errors_by_status_only": {
        "E2-half_close-acknowledged",
        "E2-half_close-failed",
        "E2-half_close-refused",
        "E2-half_close-taken-over",
        "E2-no-half_close",
    },
    "contradicts_itself": {
        "E2-half_close-acknowledged",
        "E2-half_close-failed",
        "E2-half_close-refused",
        "E2-no-half_close",
    },
    "ends_at_once": {
        "E2-half_close",
        "E2-half_close-acknowledged",
        "E2-half_close-failed",
        "E2-half_close-refused",
        "E2-half_close-taken-over",
    },
    "waits_for_ever": {"E2-last", "E2-no-half_close"},
    "keeps_the_session_for_the_half_close": {"E2-half_close"},
    "says_not_how_long_to_wait": {"E3-refused"},
    "sends_no_heartbeats": {"F3-heartbeats-True", "F3-heartbeats-False", "F3-plain-silence", "F3-sign-of-life"},
}


class Ended(NamedTuple):
    """A run of the kit."""

    code: int
    stdout: str
    stderr: str

    @property
    def verdicts(self) -> dict[str, str]:
        table, _, _ = self.stdout.partition("\n\n")
        return {line.split()[0]: line.split()[1] for line in table.splitlines()}


async def check(*args: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "session_conformance", "server", *args), cwd=KIT, stdout=PIPE, stderr=PIPE
    )
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), stderr.decode())


async def test_our_server_passes_every_case() -> None:
    ended = await check("--serve")
    assert ended.code == 0, ended.stdout + ended.stderr
    assert ended.verdicts == {case.id: "pass" for case in load()}


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """Serve the app of the kit by the command line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "session_service", "serve", "--listen", "127.0.0.1:0"),
        "session_conformance.server.app:apps",
        cwd=KIT,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        yield line.removeprefix("listening on ").strip()
    finally:
        process.kill()
        await process.communicate()


async def test_a_server_that_runs_is_checked_by_its_address() -> None:
    async with served() as address:
        ended = await check("--address", address, "--case", "D*", "--case", "E*")
    assert ended.code == 0, ended.stdout + ended.stderr
    assert ended.verdicts == {case.id: "n/a" if case.settings.get("needs") else "pass" for case in load(("D*", "E*"))}


async def test_known_failures_still_run_and_a_surprise_fails(tmp_path: Path) -> None:
    known = tmp_path / "known.yaml"
    known.write_text("D2-gap: the reason is not written down\nD2-overlap: it is a dream\n")
    command = shlex.join((sys.executable, "-m", "session_conformance.server.bugs", "mistakes_a_gap"))
    ended = await check("--serve", command, "--case", "D2-*", "--known-failures", str(known))
    assert ended.code == 1, ended.stderr
    assert ended.verdicts == {"D2-duplicate": "pass", "D2-overlap": "SURPRISE", "D2-gap": "known"}
    assert "it is a dream" in ended.stdout


async def test_a_failure_says_what_was_expected_and_what_passed() -> None:
    command = shlex.join((sys.executable, "-m", "session_conformance.server.bugs", "mistakes_a_gap"))
    ended = await check("--serve", command, "--case", "D2-gap")
    assert ended.code == 1, ended.stderr
    assert ended.verdicts == {"D2-gap": "FAIL"}
    assert "the reason is PROTOCOL_VIOLATION, not SEQUENCE_GAP" in ended.stdout
    assert "main >" in ended.stdout


@pytest.mark.parametrize("known", ["D2-none: there is no such case", "D2-gap: ''", "[]"])
async def test_a_wrong_list_of_known_failures_is_told(tmp_path: Path, known: str) -> None:
    file = tmp_path / "known.yaml"
    file.write_text(known)
    ended = await check("--serve", "--known-failures", str(file))
    assert (ended.code, ended.stdout) == (2, "")
    assert "known.yaml" in ended.stderr


def test_every_bug_is_tested() -> None:
    assert FOUND_BY.keys() == BUGS.keys()


def is_quick(case: Case) -> bool:
    return not case.settings.get("needs") and not any({"for", "within"} & step.keys() for step in case.steps)


async def find(bug: str, family: str) -> set[str]:
    """Return which cases fail with a bug."""
    cases = [case for case in load() if case.id in FOUND_BY[bug] or (case.id[0] == family and is_quick(case))]
    servers = Started(shlex.join((sys.executable, "-m", "session_conformance.server.bugs", bug)))
    return {result.case.id for result in await play(cases, servers, {}, patience=4.0) if result.verdict != "pass"}


@pytest.mark.timeout(180)  # most of the time it waits for what does not come
@pytest.mark.parametrize("family", "FPDAE")
async def test_each_bug_fails_the_cases_that_are_about_it(family: str) -> None:
    room = asyncio.Semaphore(3)

    async def find_in_room(bug: str) -> set[str]:
        async with room:
            return await find(bug, family)

    expected = {bug: cases for bug, cases in FOUND_BY.items() if min(cases)[0] == family}
    found = await asyncio.gather(*map(find_in_room, expected))
    assert dict(zip(expected, found, strict=True)) == expected
