"""Cases and patterns: what they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from session_conformance.cases import CaseError, load_cases
from session_conformance.matching import Bindings, differences, fill
from session_conformance.v1.conformance_pb2 import ReceivedCommand

from session_service.v1 import session_pb2 as pb

REQUEST = {
    "open": {"app": "echo", "resumable": True, "client_id": "c", "params": {"a": 1}, "resume_window": "0.3s"},
    "events": [{"event": "say", "value": [1, None]}, {"event": "say", "blob": b"\x00\xff"}],
    "first_sequence": 1,
}


def request() -> pb.AttachRequest:
    return fill(pb.AttachRequest(), REQUEST)


@pytest.mark.parametrize(
    "pattern",
    [
        {},
        REQUEST,
        {"open": {}},
        {"open": {"clientId": "c", "resumeWindow": "0.300s", "request_id": None}},
        {"resume": None, "ack": None, "first_sequence": "1"},
        {"events": [{"value": [1.0, None]}, {"blob": "AP8="}]},
        {"first_sequence": {"$at_least": 1}},
        {"first_sequence": {"$at_most": 1}},
        {"first_sequence": {"$any": True}},
        {"ack": {"$not": 1}, "open": {"app": {"$not": "greet"}}},
        {"open": {"params": {"a": 1}}},
        {"events": [{"json": {"$json": [1, None]}}, {}]},
    ],
    ids=str,
)
def test_a_message_matches_what_says_no_more_than_it_does(pattern: Any) -> None:
    assert differences(request(), pattern) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ({"open": {"app": "greet"}}, "open.app: 'echo', expected 'greet'"),
        ({"open": None}, "open: is there: "),
        ({"resume": {}}, "resume: is not there, expected {}"),
        ({"events": [{}]}, "events: 2 elements, expected 1"),
        ({"events": [{"value": [True, None]}, {}]}, "events[0].value: [1, None], expected [True, None]"),
        ({"events": [{}, {"value": None}]}, "events[1].value: no JSON value, expected None"),
        ({"ack": 1}, "ack: 0, expected 1"),
        ({"ack": {"$any": True}}, "ack: is absent or the default"),
        ({"open": {"resumable": None}}, "open.resumable: is there: True"),
        ({"open": {"params": {}}}, "open.params: {'a': 1.0}, expected {}"),
        ({"first_sequence": {"$not": 1}}, "first_sequence: 1, expected anything else"),
    ],
)
def test_a_difference_says_where_it_is(pattern: Any, line: str) -> None:
    [difference] = differences(request(), pattern)
    assert difference.startswith(line)


def test_what_is_kept_must_be_the_same_again_and_stands_for_itself_in_a_literal() -> None:
    bindings: Bindings = {}
    pattern = {"open": {"client_id": {"$as": "client"}}}
    assert differences(request(), pattern, bindings) == []
    assert bindings == {"client": "c"}
    assert differences(request(), pattern, bindings) == []
    assert differences(request(), pattern, {"client": "d"}) == ["open.client_id: 'c', but client is 'd'"]
    assert fill(pb.AttachRequest(), pattern, bindings).open.client_id == "c"
    with pytest.raises(CaseError, match="nothing is kept as client"):
        fill(pb.AttachRequest(), pattern, {})


@pytest.mark.parametrize("encoding", [{"json": "[1, 2]"}, {"json": " [1,2.0]"}, {"data": [1, 2]}])
def test_a_value_is_the_same_in_either_encoding(encoding: Any) -> None:
    assert differences(fill(pb.Event(), encoding), {"value": [1, 2]}) == []


def test_integers_beyond_a_double_are_told_apart() -> None:
    command = ReceivedCommand(json="9007199254740992")
    assert differences(command, {"value": 9007199254740993}) != []
    assert differences(ReceivedCommand(json="9007199254740993"), {"value": 9007199254740993}) == []


@pytest.mark.parametrize("pattern", [{"moon": 1}, {"ack": {"$maybe": 1}}, {"open": 1}])
def test_a_pattern_that_means_nothing_is_refused(pattern: Any) -> None:
    with pytest.raises(CaseError):
        differences(request(), pattern)


def load(folder: Path, text: str) -> Any:
    (folder / "suite.yaml").write_text(text)
    return load_cases(folder, ["limits"])


def test_a_case_has_a_rule_and_is_made_once_for_each(tmp_path: Path) -> None:
    [one, two] = load(
        tmp_path,
        """
        cases:
          - id: D7a-some-thing
            says: "It does ${what}."
            each: {what: {one: 1, two: [2]}}
            limits: {a: "${what}"}
            steps: [{do: "${what}"}]
        """,
    )
    assert (one.id, one.rule, one.says, one.steps) == ("D7a-some-thing-one", "D7a", "It does 1.", ({"do": 1},))
    assert (two.id, two.settings) == ("D7a-some-thing-two", {"limits": {"a": [2]}})


def test_steps_can_be_repeated_with_their_number(tmp_path: Path) -> None:
    [case] = load(
        tmp_path, "cases: [{id: D2-twice, says: x, steps: [{do: 0}, {repeat: 2, steps: [{do: '${round}'}, {a: b}]}]}]"
    )
    assert case.steps == ({"do": 0}, {"do": 1}, {"a": "b"}, {"do": 2}, {"a": "b"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a", "no list `cases`"),
        ("cases: [{id: gap, says: x, steps: []}]", "no id of a rule"),
        ("cases: [{id: D2-gap, steps: []}]", "a case `says`"),
        ("cases: [{id: D2-gap, says: x, steps: [client]}]", "`steps` is a list of mappings"),
        ("cases: [{id: D2-gap, says: x, steps: [], colour: red}]", "what is colour?"),
        ("cases: [{id: D2-gap, says: x, steps: [{repeat: 2}]}]", "`repeat` is a number, and `steps` beside it"),
        ("cases: [{id: D2-gap, says: x, steps: []}, {id: D2-gap, says: y, steps: []}]", "two cases D2-gap"),
        ("cases: [{id: D2-gap, says: x, each: [1], steps: []}]", "`each` is a mapping"),
        ("cases: [", "suite.yaml"),
    ],
)
def test_a_suite_that_cannot_be_understood_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(CaseError, match=problem):
        load(tmp_path, text)


def test_a_folder_without_suites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="no suites"):
        load_cases(tmp_path)
