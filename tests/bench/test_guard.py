"""The guard is as sharp as it says, and trembles no more than it may."""

from __future__ import annotations

import asyncio

import pytest

from bench.apps import apps
from bench.guard import compare, count
from session_service import get_current_session


async def echo_with_more_calls() -> None:
    """Calls a function 10 times for an event."""
    session = get_current_session()
    session.send_task_command({"command": "ready"})
    while True:
        event = await session.next_client_event()
        for _ in range(10):
            nothing()
        session.send_task_command({"command": "echo", "spec": event["data"]})


def nothing() -> None: ...


async def echo_with_a_detour() -> None:
    """Lets the loop turn once more for an event."""
    session = get_current_session()
    session.send_task_command({"command": "ready"})
    while True:
        event = await session.next_client_event()
        await asyncio.sleep(0)
        session.send_task_command({"command": "echo", "spec": event["data"]})


async def echo_that_keeps_something() -> None:
    """Never lets go of an event."""
    session = get_current_session()
    session.send_task_command({"command": "ready"})
    kept = []
    while True:
        kept.append(await session.next_client_event())
        session.send_task_command({"command": "echo", "spec": kept[-1]["data"]})


@pytest.mark.parametrize("scenario", ["round_trip", "opened_and_closed"])
def test_counting_again_finds_nothing_to_complain_of(scenario: str) -> None:
    assert compare({scenario: count(scenario)}, {scenario: count(scenario)}) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        (echo_with_more_calls, "Python calls"),
        (echo_with_a_detour, "handles"),
        (echo_with_a_detour, "turns of the loop"),
        (echo_that_keeps_something, "blocks kept"),
    ],
)
def test_what_makes_a_round_trip_dearer_is_found(monkeypatch: pytest.MonkeyPatch, planted: object, found: str) -> None:
    expected = count("round_trip")

    monkeypatch.setitem(apps, "echo", planted)

    complaints = compare({"round_trip": expected}, {"round_trip": count("round_trip")})
    assert any(f"round_trip: {found} have grown" in complaint for complaint in complaints)


def test_a_tenth_more_is_accepted_and_anything_less() -> None:
    expected = {"trip": {"Python calls": 100.0}}

    assert compare(expected, {"trip": {"Python calls": 110.0}}) == []
    assert compare(expected, {"trip": {"Python calls": 50.0}}) == []
    assert compare(expected, {"trip": {"Python calls": 111.0}}) == ["trip: Python calls have grown from 100 to 111"]


def test_a_count_of_which_nothing_is_expected_is_a_complaint() -> None:
    assert len(compare({}, {"trip": {"writes": 1.0}})) == 1
