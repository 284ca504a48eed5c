"""What a typed line means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from session_service.cli.line import Event, parse_json, parse_line

EVENTS: dict[str, Event] = {
    'answer {"x": 1}': Event("answer", {"x": 1}),
    "answer 36": Event("answer", 36),
    "answer null": Event("answer", None),
    'answer "36"': Event("answer", "36"),
    "  answer\t [1, 2]  ": Event("answer", [1, 2]),
    "page.next-item true": Event("page.next-item", True),
    "réponse 1": Event("réponse", 1),
    '@callback-2 callback {"x": 1}': Event("callback", {"x": 1}, "callback-2"),
    "@task-3 answer 36": Event("answer", 36, "task-3"),
    "@callback-2-17 say 1": Event("say", 1, "callback-2-17"),
    "@main-1 hello there": Event("input", "hello there", "main-1"),
    r"@task-3 \answer 36": Event("input", "answer 36", "task-3"),
}

TEXTS: dict[str, str] = {
    "Ada": "Ada",
    "Ada Lovelace": "Ada Lovelace",
    "36": "36",
    '{"x": 1}': '{"x": 1}',
    "answer": "answer",
    "answer 36 or so": "answer 36 or so",
    "answer NaN": "answer NaN",
    "1st 2": "1st 2",
    "  hello  ": "  hello  ",
    "@bob hello": "@bob hello",
    "hello @bob, how are you": "hello @bob, how are you",
    "hello @": "hello @",
    r"\thanks @bob": "thanks @bob",
    "@home": "@home",
    r"\answer 36": "answer 36",
    r"\@task-3 1": "@task-3 1",
    r"\  as it stands ": "  as it stands ",
    r"\\": "\\",
    "\\": "",
}

WRONG: dict[str, str] = {
    'answer {"x"': "this is no JSON: .*; to send the line as text, begin it with",
    "answer [1, NaN]": "NaN is no JSON number",
    "answer " + "[" * 100_000: "this is no JSON",
    "thanks @bob": r"cannot read bob: No such file or directory; to send the line as text, begin it with \\",
    "part @/": "cannot read /: Is a directory",
    "@task-3": "@task-3 needs an event after it",
    "@task-3  ": "@task-3 needs an event after it",
}


@pytest.mark.parametrize("line", EVENTS)
def test_a_name_and_json_are_an_event_for_the_main_task_or_another(line: str) -> None:
    assert parse_line(line) == EVENTS[line]


def test_a_name_and_a_file_are_an_event_with_bytes(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")

    assert parse_line(f"part @{tmp_path}/photo.jpg") == Event("part", b"\xff\xd8")
    assert parse_line(f"@task-3 part @{tmp_path}/photo.jpg ") == Event("part", b"\xff\xd8", "task-3")


@pytest.mark.parametrize("line", TEXTS)
def test_anything_else_is_text(line: str) -> None:
    assert parse_line(line) == Event("input", TEXTS[line])


@pytest.mark.parametrize("line", ["", " ", "\t  "])
def test_a_blank_line_sends_nothing(line: str) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize("line", WRONG, ids=[line[:20] for line in WRONG])
def test_what_was_meant_to_be_an_event_and_is_none_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=WRONG[line]):
        parse_line(line)


@pytest.mark.parametrize(("text", "value"), [("1.0", 1.0), ('"é"', "é"), ("18446744073709551616", 2**64)])
def test_json_is_read_exactly(text: str, value: Any) -> None:
    assert parse_json(text) == value
    assert type(parse_json(text)) is type(value)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "[Infinity]", "", "nul", "1 2"])
def test_what_only_python_takes_for_json_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)
