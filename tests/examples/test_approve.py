"""The example `approve`: a deployment that waits for a person."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from session_client import CloseReason as Reason
from session_client import SessionClient

from session_service import CloseReason
from session_service.examples.approve import approve
from session_service.testing import Close, Event, Pause, Transcript, run

from ..cli.program import Served

HOUR = 3600

STEPS = list(range(0, 101, 10))
QUESTION = "Staging runs 2.1. Go on to production?"


def click(button: str, by: object = None) -> Callable[[list[dict[str, Any]]], Event]:
    """Return the step of a client that clicks a button of the last question."""
    return lambda commands: Event("callback", by, task_id=commands[-1]["spec"][button])


def progress(transcript: Transcript, stage: str) -> list[int]:
    specs = [command["spec"] for command in transcript.commands if command["command"] == "progress"]
    return [spec["percent"] for spec in specs if spec["stage"] == stage]


def test_it_asks_before_it_goes_on_to_production() -> None:
    def check(commands: list[dict[str, Any]]) -> None:
        assert [command["command"] for command in commands] == ["progress"] * len(STEPS) + ["ask"]
        assert commands[-1]["spec"]["question"] == QUESTION

    transcript = run(approve, [check, click("go", "Ada")], params={"version": "2.1"})
    assert progress(transcript, "staging") == progress(transcript, "production") == STEPS
    assert transcript.commands[-1]["spec"] == {
        "version": "2.1",
        "in production": True,
        "decision": "go",
        "by": "Ada",
    }
    assert transcript.reason is CloseReason.COMPLETED


@pytest.mark.parametrize("script", [[click("cancel")], [Pause(2 * HOUR)]], ids=["cancel", "nobody"])
def test_it_goes_no_further_where_nobody_says_go(script: list[Any], request: pytest.FixtureRequest) -> None:
    transcript = run(approve, script)
    assert progress(transcript, "staging") == STEPS
    assert progress(transcript, "production") == []
    result = transcript.commands[-1]["spec"]
    assert (result["in production"], result["decision"]) == (False, request.node.callspec.id)


def test_a_client_that_closes_stops_it_where_it_is() -> None:
    transcript = run(approve, [Pause(0.35), Close()])
    assert progress(transcript, "staging") == [0, 10, 20, 30]
    assert transcript.reason is CloseReason.CLIENT


async def test_a_client_sees_the_progress_and_decides(examples: Served) -> None:
    commands: list[tuple[str, Any]] = []
    async with (
        SessionClient(examples.address) as client,
        client.open("approve", params={"version": "2.1"}) as session,
    ):
        async for command in session:
            commands.append((command.command, command.spec))
            if command.command == "ask":
                await session.send_event("callback", "Ada", task_id=command.spec["go"])
    assert [spec["percent"] for name, spec in commands if name == "progress"] == [*STEPS, *STEPS]
    assert commands[-1][1]["by"] == "Ada"
    assert session.closed is not None
    assert session.closed.reason is Reason.COMPLETED
