"""Cases as data: YAML files, each a list under ``cases``.

::

    cases:
      - id: D2-duplicate                # the rule, a dash, and what it is about; unique in all suites
        says: A command that has been here before is dropped.
        each: {code: [OK, INTERNAL]}    # optional: one case for each, ``D2-duplicate-OK``, with ${code} put in; where
                                        # the values are no names, ``each: {code: {name: value}}``
        steps:                          # mappings; what they may hold is for who plays them to say
          - server: {...}
          - repeat: 3                   # the steps in it, so many times; ${round} is 1, 2, 3
            steps: [...]
        limits: {...}                   # any other key is a setting, of those that the suite knows

Whatever else stands at the top of a file is for YAML anchors. Besides YAML's own tags there are ``!large 1000``, so
many bytes; ``!deep 10``, a JSON text that nests so deep, and ``!nested 10``, the value of that.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Case", "CaseError", "load_cases"]

_ID = re.compile(r"[A-Z][0-9]*[a-z]?(-[A-Za-z0-9_]+)+")


class _Loader(yaml.SafeLoader):
    """YAML with what would be too long to write."""


_Loader.add_constructor("!large", lambda _, node: b"x" * int(node.value))
_Loader.add_constructor("!deep", lambda _, node: "[" * int(node.value) + "]" * int(node.value))
_Loader.add_constructor("!nested", lambda _, node: json.loads("[" * int(node.value) + "]" * int(node.value)))


class CaseError(Exception):
    """A suite is wrong: no fault of whoever is checked."""


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        id: its name, which begins with the rule.
        says: what must be so, in a sentence.
        steps: what happens, in order.
        settings: what else the case says.
        source: the file that it is in.
    """

    id: str
    says: str
    steps: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def rule(self) -> str:
        """The rule of docs/protocol.md that it is about."""
        return self.id.partition("-")[0]


def load_cases(folder: Path, settings: Collection[str] = ()) -> list[Case]:
    """Return the cases of all files in a folder, in the order of their names.

    Args:
        folder: has ``*.yaml``.
        settings: the keys that a case may have besides ``id``, ``says``, ``each`` and ``steps``.

    Raises:
        CaseError: a file says what cannot be understood.
    """
    cases: dict[str, Case] = {}
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise CaseError(f"no suites in {folder}")
    for file in files:
        try:
            content = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
        except yaml.YAMLError as error:
            raise CaseError(f"{file.name}: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("cases"), list):
            raise CaseError(f"{file.name}: there is no list `cases`")
        for entry in content["cases"]:
            for case in _expand(entry, file.name, settings):
                if case.id in cases:
                    raise CaseError(f"{file.name}: there are two cases {case.id}")
                cases[case.id] = case
    return list(cases.values())


def _expand(entry: Any, source: str, settings: Collection[str]) -> Iterator[Case]:
    if not isinstance(entry, dict) or not _ID.fullmatch(str(entry.get("id"))):
        raise CaseError(f"{source}: no case, or no id of a rule and what it is about: {str(entry)[:100]}")
    each = entry.get("each", {})
    if not isinstance(each, dict) or not all(isinstance(values, (dict, list)) for values in each.values()):
        raise CaseError(f"{source}: {entry['id']}: `each` is a mapping of names to lists, or to mappings")
    named = [values if isinstance(values, dict) else dict(zip(values, values, strict=True)) for values in each.values()]
    for names in itertools.product(*named):
        values = {name: of[choice] for name, of, choice in zip(each, named, names, strict=True)}
        case = _put_in(entry, values)
        case["id"] = "-".join([case["id"], *map(str, names)])
        yield _case(case, source, settings)


def _put_in(node: Any, values: Mapping[str, Any]) -> Any:
    """Replace each ``${name}``; a text that is nothing else becomes the value itself."""
    if isinstance(node, dict):
        return {_put_in(key, values): _put_in(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_put_in(value, values) for value in node]
    if isinstance(node, str):
        for name, value in values.items():
            mark = "${" + name + "}"
            if node == mark:
                return value
            node = node.replace(mark, str(value))
    return node


def _case(entry: dict[str, Any], source: str, settings: Collection[str]) -> Case:
    name, steps = entry["id"], entry.get("steps")
    if not isinstance(entry.get("says"), str):
        raise CaseError(f"{source}: {name}: a case `says` what must be so, in a sentence")
    if not isinstance(steps, list) or not all(isinstance(step, dict) and step for step in steps):
        raise CaseError(f"{source}: {name}: `steps` is a list of mappings")
    rest = {key: value for key, value in entry.items() if key not in ("id", "says", "each", "steps")}
    if unknown := rest.keys() - set(settings):
        raise CaseError(f"{source}: {name}: what is {', '.join(sorted(unknown))}?")
    return Case(name, entry["says"], tuple(_unrolled(steps, f"{source}: {name}")), rest, source)


def _unrolled(steps: list[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    for step in steps:
        if "repeat" not in step:
            yield step
            continue
        times, inner = step["repeat"], step.get("steps")
        if step.keys() != {"repeat", "steps"} or not isinstance(times, int) or not isinstance(inner, list):
            raise CaseError(f"{where}: `repeat` is a number, and `steps` beside it a list: {str(step)[:100]}")
        for number in range(1, times + 1):
            yield from _put_in(inner, {"round": number})
