r"""What a typed line means.

====================  =======================================================================
line                  event
====================  =======================================================================
``NAME JSON``         NAME with that JSON value: ``answer {"x": 1}``, ``answer 36``
``NAME @FILE``        NAME with the bytes of that file, a single word: ``part @photo.jpg``
``\TEXT``             ``input`` with TEXT as it stands, whatever it looks like
any other text        ``input`` with that text
``@TASK`` before it   the same, for that task or callback: ``@callback-2 callback {"x": 1}``
(blank)               none
====================  =======================================================================
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

__all__ = ["Event", "parse_json", "parse_line"]

# The names of an event and of a task. Other words with an @ are text: people write "@bob hello".
_NAME = re.compile(r"([^\W\d][\w.-]*)\s+(\S.*)", re.DOTALL)
_FILE = re.compile(r"@\S+")
_AS_TEXT = "; to send the line as text, begin it with \\"
_TASK = re.compile(r"@((?:main|task|callback)-[\w-]+)(?:\s+(.*))?", re.DOTALL)


class Event(NamedTuple):
    """What a line sends."""

    event: str
    data: Any
    task_id: str = ""


def parse_line(line: str) -> Event | None:
    """Return what a line without its end sends; None for a blank one.

    Raises:
        ValueError: it was meant to be JSON, a file that can be read, or an event for a task, and is none.
    """
    task_id, rest = "", line
    if match := _TASK.fullmatch(line.strip()):
        task_id, rest = match[1], match[2] or ""
        if not rest:
            raise ValueError(f"@{task_id} needs an event after it")
    if rest.lstrip().startswith("\\"):
        return Event("input", rest.lstrip()[1:], task_id)
    if not rest.strip():
        return None
    if match := _NAME.fullmatch(rest.strip()):
        if _FILE.fullmatch(match[2]):
            return Event(match[1], _read(match[2][1:]), task_id)
        try:
            return Event(match[1], parse_json(match[2]), task_id)
        except ValueError as error:
            if match[2].startswith(("{", "[")):
                raise ValueError(f"this is no JSON: {error}{_AS_TEXT}") from None
    return Event("input", rest, task_id)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}{_AS_TEXT}") from None


def parse_json(text: str) -> Any:
    """Return a JSON value; raise ValueError for anything else, NaN included, which Python would take."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
