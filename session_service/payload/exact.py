"""What a format carries exactly: JSON text from Python values and back, or a `PayloadError` (protocol F4, F7).

orjson does the work. What it would let pass (NaN as null, integers beyond 64 bits as floats, hundreds of levels) can be
told from the text at a glance; only a text that looks like it is walked value by value.
"""

from __future__ import annotations

import enum
import json
import math
import re
import uuid
from typing import Any

import orjson

from ..errors import PayloadError

__all__ = ["MAX_EXACT_IN_DOUBLE", "Format", "dump", "load"]

# Writing is left to the caller where orjson would pick one of several texts: datetimes and dataclasses.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS

MAX_EXACT_IN_DOUBLE = 2**53


class Format(enum.Enum):
    """How JSON values become a payload, and what it can carry.

    VALUE nests to 30 levels, since protobuf can write deeper than it can read (three messages a level, 100 in all).

    Attributes:
        max_depth: the deepest nesting of arrays and objects.
    """

    VALUE = 30
    JSON = 200

    def __init__(self, max_depth: int) -> None:
        self.max_depth = max_depth

    def carries(self, number: int) -> bool:
        """Tell whether an integer goes through unchanged."""
        if self is Format.VALUE:
            return -MAX_EXACT_IN_DOUBLE <= number <= MAX_EXACT_IN_DOUBLE
        return -(2**63) <= number < 2**64


_VALUE, _JSON = Format.VALUE, Format.JSON  # an attribute of an enum's class is slow to find

# A text of fewer bytes nests nowhere too deep, in either format.
_LEAST_DEEP = 2 * _VALUE.max_depth

# What an integer beyond 2^53, or beyond 64 bits, looks like in JSON text.
_DIGITS = b"0123456789"
_DIGITS_53_BITS = re.compile(rb"\d{16}")
_DIGITS_63_BITS = re.compile(rb"\d{19}")


def dump(value: Any, fmt: Format, path: str) -> bytes:
    """Return a value as JSON text that ``fmt`` carries exactly; raise a `PayloadError` that names what it cannot."""
    try:
        text = orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:
        _check(value, fmt, path, 0)
        raise PayloadError(path, str(error)) from None
    # orjson refuses integers beyond 64 bits by itself. `in` takes twice as long: it tries to find an integer first.
    suspicious = text.find(b"null") >= 0 or (fmt is _VALUE and _DIGITS_53_BITS.search(text))
    if suspicious or (len(text) > _LEAST_DEEP and _looks_deep(text, fmt)):
        _check(value, fmt, path, 0)
    return text


def load(text: str) -> Any:
    """Return the value of a JSON text; raise a `PayloadError` where it is none, or could not be kept exactly."""
    data = text.encode()
    try:
        value = orjson.loads(data)
        # Counting digits takes a fifth of looking for many in a row.
        if len(data) - len(data.translate(None, _DIGITS)) >= 19 and _DIGITS_63_BITS.search(data):
            json.loads(text, parse_int=_checked_int)
        if len(data) > _LEAST_DEEP and _looks_deep(data, _JSON):
            _check(value, _JSON, "json", 0)
    except (ValueError, RecursionError) as error:
        raise PayloadError("json", str(error)) from None
    return value


def _looks_deep(text: bytes, fmt: Format) -> bool:
    return text.count(b"[") + text.count(b"{") > fmt.max_depth


def _checked_int(digits: str) -> int:
    # Python refuses to convert thousands of digits, and orjson has read the text already.
    if len(digits) > 20 or not Format.JSON.carries(int(digits)):
        raise ValueError(f"the integer {digits[:24]} is beyond 64 bits")
    return int(digits)


def _check(value: Any, fmt: Format, path: str, depth: int) -> None:
    """Raise a `PayloadError` that names where ``value`` holds what ``fmt`` cannot carry."""
    while isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, (bool, uuid.UUID)):
        return
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise PayloadError(path, "the text holds a lone surrogate, which UTF-8 cannot carry") from None
    elif isinstance(value, int):
        if not fmt.carries(value):
            limit = "2^53" if fmt is Format.VALUE else "64 bits"
            raise PayloadError(path, f"an integer beyond {limit}: send it as text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise PayloadError(path, f"{value} is no JSON number")
    elif isinstance(value, (dict, list)) or type(value) is tuple:
        if depth == fmt.max_depth:
            raise PayloadError(path, f"nested deeper than {fmt.max_depth} levels")
        if isinstance(value, dict):
            for key, item in value.items():
                if type(key) is not str:
                    raise PayloadError(path, f"the key {key!r:.80} is no text")
                _check(key, fmt, path, depth + 1)
                _check(item, fmt, f"{path}.{key}" if key.isidentifier() else f"{path}[{key!r}]", depth + 1)
        else:
            for index, item in enumerate(value):
                _check(item, fmt, f"{path}[{index}]", depth + 1)
    else:
        raise PayloadError(path, f"{type(value).__qualname__} is no JSON value")
