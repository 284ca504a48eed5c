"""The kit finds what is wrong with a client: each bug fails the cases that are about it, and no client without one."""

from __future__ import annotations

import asyncio

import pytest
from session_conformance.cases import Case, load_cases
from session_conformance.clients import SUITES, Client
from session_conformance.drivers.bugs import BUGS
from session_conformance.play import SETTINGS, Outcome, Play
from session_conformance.served import Servers

# What each bug breaks: all of these cases, besides whatever else.
FOUND_BY = {
    "keeps_duplicates": ["D2-duplicate", "D2-duplicate-after-resume"],
    "forgets_ack_of_duplicates": ["D2-duplicate-acked-again"],
    "ignores_gaps": ["D2-gap", "D2-gap-before-closed"],
    "numbers_anew": ["D1-sequences", "A4-in-the-middle"],
    "forgets_unacknowledged": ["D1-sequences", "D7-reset"],
    "acks_too_early": ["D4-not-before-asked", "D4-not-before-asked-after-resume"],
    "acks_the_command_in_hand": ["D4-not-before-asked"],
    "acks_only_with_events": ["D3-ack-when-asked"],
    "acks_once": ["D3-ack-again-on-the-next-stream"],
    "leaves_closed_unacknowledged": ["D4-closed-acked"],
    "stops_acks_at_close": ["D4-close-acks-all"],
    "ignores_the_window": ["D5-window-messages", "D5-replay"],
    "ignores_bytes_of_the_window": ["D5-window-bytes", "D5-large-event-goes-alone"],
    "ignores_the_window_in_a_replay": ["D5-replay"],
    "sets_a_deadline": ["D1-sequences", "A4-after-nothing"],
    "sends_no_heartbeats": ["F3-heartbeat-sent", "D6-heartbeats-pass-a-full-window"],
    "bears_silence": ["F3-heartbeat-silence", "F3-interval-of-each-attach"],
    "leaves_streams_open": ["A3-cancels-first", "F3-heartbeat-silence", "D2-gap"],
    "takes_ok_for_the_end": ["D7-ok-without-closed"],
    "retries_never": ["D7-retry-never-NEVER", "D7-open-refused-APP_NOT_FOUND"],
    "judges_by_the_status": ["D7-retry-resume-NOT_FOUND", "D7-retry-never-NEVER"],
    "retries_final_statuses": ["D7-final-NOT_FOUND", "D7-final-before-opened-NOT_FOUND"],
    "retries_what_it_rejects": ["D7-rejected-before-it-is-sent"],
    "takes_exhaustion_for_final": ["D7-resumes-RESOURCE_EXHAUSTED"],
    "never_resumes": ["D7-resumes-UNAVAILABLE", "A4-after-nothing"],
    "reopens_after_opened": ["D7a-lost-after-opened-SESSION_NOT_FOUND"],
    "ignores_reopen": ["D7a-reopen-before-opened-DRAINING"],
    "ignores_retry_info": ["D7a-retry-info"],
    "retries_unauthenticated": ["D7-unauthenticated-twice-bare", "D7-unauthenticated-twice-with_info"],
    "keeps_stale_credentials": ["A2-credentials", "D7-unauthenticated-once-bare"],
    "retries_defects": ["D7-gap-twice", "D7-undecodable-twice"],
    "ignores_failed": ["F6-failed-over-the-status-NOT_FOUND", "F6-failed-before-opened", "F6-failed-plain"],
    "drops_commands_at_failed": ["F6-failed-behind-commands"],
    "waits_for_the_status": ["F6-failed-without-a-status"],
    "fails_at_what_it_cannot_read": ["F6-failed-undecodable-nonsense", "F6-failed-undecodable-nothing"],
    "takes_attachments_for_progress": ["D7-stalls"],
    "loses_idle_sessions": ["D7-idle-and-cut"],
    "hurries_back": ["D7-cut-at-once"],
    "sees_no_progress_in_acks": ["D7-busy-and-cut", "D7-back-off-starts-anew"],
    "sees_no_progress_in_commands": ["D7-commands-are-progress"],
    "sees_no_progress_in_a_life": ["D7-a-life-is-progress"],
    "sends_poison_for_ever": ["D7-poisoned", "D7-poisoned-and-refused"],
    "holds_nothing_back": ["D7-poisoned", "D7-poisoned-by-the-path"],
    "holds_everything_back": ["D7-poisoned-holds-events-only"],
    "takes_the_path_for_poison": ["D7-poisoned-by-the-path"],
    "counts_refused_streams": ["D7-poisoned-and-refused"],
    "counts_errors_of_the_server": ["D7-poisoned-not-by-the-server"],
    "counts_late_breaks": ["D7-poisoned-not-so-late"],
    "ignores_takeover": ["A3-taken-over"],
    "gives_up_at_takeover": ["A3-taken-back"],
    "changes_client_id": ["A3-client-id"],
    "changes_request_id": ["A6-repeats-open"],
    "leaves_opens_running": ["A6-given-up", "A6-given-up-between-two-tries"],
    "closes_given_up_opens_again_and_again": ["A6-given-up-in-vain"],
    "resumes_from_acknowledged": ["D2-gap", "A4-cut-again-and-again"],
    "half_closes_to_close": ["E1-close"],
    "closes_once": ["E1-close-again"],
    "closes_before_its_events": ["E1-close-waits-for-the-window"],
    "detaches_at_once": ["A1-detach"],
    "closes_instead_of_detaching": ["A1-detach"],
    "takes_draining_for_the_end": ["E3-draining"],
    "drops_commands_at_closed": ["E2-closed-is-last"],
    "never_half_closes": ["E2-half-closes", "E2-half-closes-plain", "A6-given-up"],
    "trusts_in_the_last_ack": ["E2-status-after-the-half-close"],
    "breaks_at_what_it_does_not_know": ["F6-unknown-before-opened"],
    "gives_large_events_a_sequence": ["F7-too-large", "F7-too-large-since-the-resume"],
    "limits_what_it_receives": ["F7-above-4-MiB"],
    "loses_integers": ["F4-integer-beyond_double"],
    "breaks_plain_sessions": ["P3-broken-UNAVAILABLE", "P3-outcome-unknown"],
}

# What a client with any of them can do all the same: a driver that is only broken does not prove anything.
HARMLESS = "P1-echo"

CASES = {case.id: case for case in load_cases(SUITES, SETTINGS)}

PYTHON = Client.parse("python")

# Seconds that each step of a case may take: what fails, fails late.
PATIENCE = 3.0

Results = dict[tuple[str, str], Outcome]


async def _play(pairs: list[tuple[str, Case]]) -> Results:
    room = asyncio.Semaphore(12)
    async with Servers() as servers:

        async def play(bug: str, case: Case) -> Outcome:
            async with room:
                return await Play(case, (*PYTHON.command, "--bug", bug), servers, PATIENCE).run()

        outcomes = await asyncio.gather(*(play(bug, case) for bug, case in pairs))
    return {(bug, case.id): outcome for (bug, case), outcome in zip(pairs, outcomes, strict=True)}


@pytest.fixture(scope="module")
def results() -> Results:
    """All that the tests look at, played at once: most of the time a case waits."""
    return asyncio.run(_play([(bug, CASES[case]) for bug, cases in FOUND_BY.items() for case in (*cases, HARMLESS)]))


def test_every_bug_is_looked_for() -> None:
    assert FOUND_BY.keys() == BUGS.keys()


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_fails_the_cases_that_are_about_it(results: Results, bug: str) -> None:
    for case in FOUND_BY[bug]:
        outcome = results[bug, case]
        assert outcome.verdict == "FAIL", f"{case} does not find it"
        assert "the driver ended" not in outcome.problem


@pytest.mark.parametrize("bug", BUGS)
def test_a_client_with_a_bug_is_still_a_client(results: Results, bug: str) -> None:
    assert results[bug, HARMLESS].verdict == "pass", results[bug, HARMLESS].problem
