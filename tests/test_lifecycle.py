"""The tables of states: each cell, what the machines make of it, and docs/design.md, which shows them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest

from session_service.errors import LocalError, SessionUnknown
from session_service.lifecycle import (
    APP,
    DEFECT,
    IGNORED,
    JOINT,
    LINK,
    UNKNOWN,
    Act,
    App,
    AppCell,
    AppInput,
    AppMachine,
    CloseReason,
    Consequence,
    Link,
    LinkCell,
    LinkInput,
    Standing,
    Trigger,
    Whose,
    consequences,
    next_link,
    standing,
)

DESIGN = Path(__file__).parents[1] / "docs" / "design.md"

GIVEN = CloseReason.EXPIRED, "given"

# The shortest way to each state.
WAYS: Mapping[App, tuple[AppInput, ...]] = {
    App.RUNNING: (),
    App.FINISHING: (AppInput.END_EVENTS,),
    App.CLOSING: (AppInput.CLOSE,),
    App.DEFERRING: (AppInput.CLOSE, AppInput.UNWOUND),
    App.ENDED: (AppInput.CLOSE, AppInput.UNWOUND, AppInput.NO_CALL_LEFT),
}
LINK_WAYS: Mapping[Link, tuple[LinkInput, ...]] = {
    Link.DETACHED: (),
    Link.ATTACHED: (LinkInput.ATTACH,),
    Link.FORGOTTEN: (LinkInput.FORGET,),
}


def app(*inputs: AppInput) -> AppMachine:
    machine = AppMachine()
    for given in inputs:
        machine.step(given, reason=CloseReason.SERVER, message="before")
    return machine


def link(*inputs: LinkInput) -> Link:
    state = Link.DETACHED
    for given in inputs:
        state = next_link(state, given).state
    return state


def test_the_tables_have_a_cell_for_whatever_may_happen() -> None:
    assert [list(row) for row in APP.values()] == [list(AppInput)] * len(App)
    assert [list(row) for row in LINK.values()] == [list(LinkInput)] * len(Link)
    assert set(JOINT) == set(itertools.product((False, True), (Link.DETACHED, Link.ATTACHED), (False, True)))


# --- the app ---


@pytest.mark.parametrize(("state", "given"), list(itertools.product(App, AppInput)), ids=lambda item: item.name)
def test_an_app_does_what_its_cell_says(state: App, given: AppInput) -> None:
    machine = app(*WAYS[state])
    assert machine.state is state
    before = machine.reason, machine.message
    cell = APP[state][given]

    if cell is DEFECT:
        with pytest.raises(LocalError, match=f"{given.name} in {state.name}"):
            machine.step(given)
        assert (machine.state, machine.reason, machine.message) == (state, *before)
        return
    act = machine.step(given, reason=GIVEN[0], message=GIVEN[1])
    if cell is IGNORED:
        assert (act, machine.state, machine.reason, machine.message) == (Act.NOTHING, state, *before)
        return
    assert isinstance(cell, AppCell)
    assert (act, machine.state) == (cell.act, cell.state)
    if cell.reason is None:
        assert (machine.reason, machine.message) == before
    elif cell.reason is Whose.GIVEN:
        assert (machine.reason, machine.message) == GIVEN
    else:
        fixed = CloseReason.COMPLETED if cell.reason is Whose.ENDERS else cell.reason
        assert machine.reason is fixed


@pytest.mark.parametrize(
    ("inputs", "state"),
    [
        ((AppInput.QUIET,), App.CLOSING),
        ((AppInput.MAIN_FAILED,), App.CLOSING),
        ((AppInput.END_EVENTS, AppInput.QUIET), App.CLOSING),
        ((AppInput.END_EVENTS, AppInput.MAIN_FAILED), App.CLOSING),
        ((AppInput.END_EVENTS, AppInput.CLOSE), App.CLOSING),
        ((AppInput.END_EVENTS, AppInput.CLOSE, AppInput.UNWOUND, AppInput.NO_CALL_LEFT), App.ENDED),
    ],
)
def test_an_app_ends_in_one_of_these_ways(inputs: tuple[AppInput, ...], state: App) -> None:
    assert app(*inputs).state is state


@pytest.mark.parametrize(
    ("met_end", "reason"), [(True, CloseReason.EXPIRED), (False, CloseReason.COMPLETED)], ids=["met", "missed"]
)
def test_who_ended_the_events_says_why_if_the_main_task_met_the_end(met_end: bool, reason: CloseReason) -> None:
    machine = app()
    machine.step(AppInput.END_EVENTS, reason=GIVEN[0], message=GIVEN[1])
    machine.step(AppInput.END_EVENTS, reason=CloseReason.SERVER, message="the second")
    assert machine.step(AppInput.QUIET, met_end=met_end) is Act.UNWIND
    assert (machine.reason, machine.message) == (reason, "given")


def test_a_failure_keeps_its_message_and_what_comes_later_changes_nothing() -> None:
    machine = app()
    machine.step(AppInput.MAIN_FAILED, message="error 1")
    assert machine.step(AppInput.CLOSE, reason=CloseReason.CLIENT, message="too late") is Act.NOTHING
    assert (machine.reason, machine.message) == (CloseReason.FAILED, "error 1")


def test_a_state_answers_what_is_asked_of_it() -> None:
    assert [state for state in App if state.last_event] == list(App)[1:]
    assert [state for state in App if state.closed] == list(App)[2:]
    assert [state for state in App if state.ended] == [App.ENDED]


# --- the link ---


@pytest.mark.parametrize(("state", "given"), list(itertools.product(Link, LinkInput)), ids=lambda item: item.name)
def test_a_link_does_what_its_cell_says(state: Link, given: LinkInput) -> None:
    assert link(*LINK_WAYS[state]) is state
    cell = LINK[state][given]
    if cell is UNKNOWN:
        with pytest.raises(SessionUnknown):
            next_link(state, given)
    else:
        assert next_link(state, given) == (LinkCell(state) if cell is IGNORED else cell)


# --- both ---


@pytest.mark.parametrize(
    ("state", "at", "sequenced"),
    list(itertools.product(App, Link, (True, False))),
    ids=lambda item: item.name if isinstance(item, Enum) else "sequenced" if item else "plain",
)
def test_what_follows_from_both_is_what_the_joint_table_says(state: App, at: Link, sequenced: bool) -> None:
    expected = {} if at is Link.FORGOTTEN else JOINT[state is App.ENDED, at, sequenced]
    assert consequences(state, at, sequenced=sequenced) == expected


def test_a_session_never_stays_for_good_where_nobody_is_attached() -> None:
    for ended, sequenced in itertools.product((False, True), (False, True)):
        assert {Trigger.AT_ONCE, Trigger.RESUME_WINDOW} & JOINT[ended, Link.DETACHED, sequenced].keys()
    assert all(Consequence.FORGET not in JOINT[False, at, sequenced].values() for _, at, sequenced in JOINT)


@pytest.mark.parametrize("at", Link)
@pytest.mark.parametrize("state", App)
def test_people_are_told_first_of_the_end_and_then_of_the_stream(state: App, at: Link) -> None:
    expected = Standing.ATTACHED if at is Link.ATTACHED else Standing.DETACHED
    assert standing(state, at) is (Standing.ENDED if state is App.ENDED else expected)


# --- the document ---


def table(corner: str, columns: list[str], rows: list[tuple[str, list[str]]]) -> str:
    lines = [[corner, *columns], *([name, *cells] for name, cells in rows)]
    rendered = [f"| {' | '.join(line)} |" for line in lines]
    rendered.insert(1, "|" + "---|" * len(lines[0]))
    return "\n".join(rendered)


def said(name: str, note: str) -> str:
    return f"{name}: {note}" if note else name


def app_cell(state: App, given: AppInput) -> str:
    cell = APP[state][given]
    if not isinstance(cell, AppCell):
        return str(cell.value)
    if cell.reason is None:
        return said(cell.state.name, cell.act.value)
    reason = cell.reason.value if isinstance(cell.reason, Whose) else cell.reason.name
    return f"{cell.state.name}({reason})"


def link_cell(state: Link, given: LinkInput) -> str:
    cell = LINK[state][given]
    return said(cell.state.name, cell.act.value) if isinstance(cell, LinkCell) else str(cell.value)


def joint_cell(consequences: Mapping[Trigger, Consequence]) -> str:
    triggers: dict[Enum, list[str]] = {}
    for trigger, consequence in consequences.items():
        triggers.setdefault(consequence, []).append(trigger.value)
    return "; ".join(f"{', '.join(names)} → {consequence.value}" for consequence, names in triggers.items())


def tables() -> list[str]:
    return [
        table(
            "APP",
            [given.name for given in AppInput],
            [(state.name, [app_cell(state, given) for given in AppInput]) for state in App],
        ),
        table(
            "LINK",
            [given.name for given in LinkInput],
            [(state.name, [link_cell(state, given) for given in LinkInput]) for state in Link],
        ),
        table(
            "joint",
            ["sequenced", "plain"],
            [
                (
                    f"{'ENDED' if ended else 'not ENDED'}, {at.name}",
                    [joint_cell(JOINT[ended, at, sequenced]) for sequenced in (True, False)],
                )
                for ended, at in dict.fromkeys((ended, at) for ended, at, _ in JOINT)
            ],
        ),
    ]


@pytest.mark.parametrize("number", range(3), ids=["app", "link", "joint"])
def test_the_design_document_shows_the_tables(number: int) -> None:
    assert tables()[number] in DESIGN.read_text()
