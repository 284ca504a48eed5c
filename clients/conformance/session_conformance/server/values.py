"""What stands for values in a case: what was kept, counts, and texts too long to write down.

- ``$name`` is the value that ``{$as: name}`` kept, or a part of it: ``$limits.event_window.messages``;
- ``$name + 1`` is a number further, ``-`` and ``*`` work too, and names on both sides;
- ``{$repeat: 3, of: X}`` is a list of X three times, in which ``$i`` is 1, 2 and 3;
- ``{$text: 100}`` is a text of so many characters, ``{$bytes: 100}`` so many zero bytes, in base64;
- ``{$nested: 3}`` is arrays within arrays, three levels of them, ``{$nested_text: 3}`` the same as JSON text.

It is put in before anything else looks at a step.
"""

from __future__ import annotations

import base64
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..cases import CaseError
from ..matching import Bindings

__all__ = ["put_in"]

_REFERENCE = re.compile(r"\$([a-z][\w.]*)(?: ([-+*]) (\d+|\$[a-z][\w.]*))?")
_OPERATORS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def put_in(template: Any, bindings: Bindings) -> Any:
    """Return a template with values in it.

    Args:
        template: what the YAML holds.
        bindings: what was kept.

    Raises:
        CaseError: a name that nothing was kept as, or a reference that is none.
    """
    match template:
        case str() if template.startswith("$"):
            return _refer(template, bindings)
        case {"$repeat": count, "of": inner}:
            return [put_in(inner, {**bindings, "i": i}) for i in range(1, _number(count, bindings) + 1)]
        case {"$text": count}:
            return "x" * _number(count, bindings)
        case {"$bytes": count}:
            return base64.b64encode(bytes(_number(count, bindings))).decode()
        case {"$nested": count}:
            nested: list[Any] = []
            for _ in range(_number(count, bindings) - 1):
                nested = [nested]
            return nested
        case {"$nested_text": count}:
            levels = _number(count, bindings)
            return "[" * levels + "]" * levels
        case {"$as": str()}:
            return template
        case Mapping():
            return {key: put_in(inner, bindings) for key, inner in template.items()}
        case list():
            return [put_in(inner, bindings) for inner in template]
        case _:
            return template


def _number(count: Any, bindings: Bindings) -> int:
    return int(put_in(count, bindings))


def _refer(text: str, bindings: Bindings) -> Any:
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise CaseError(f"{text!r} is no reference")
    name, sign, other = found.groups()
    value = _look_up(name, bindings)
    if not sign:
        return value
    return _OPERATORS[sign](int(value), int(_look_up(other[1:], bindings) if other.startswith("$") else other))


def _look_up(path: str, bindings: Bindings) -> Any:
    name, *parts = path.split(".")
    if name not in bindings:
        raise CaseError(f"nothing is kept as {name}")
    value = bindings[name]
    for part in parts:
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value
