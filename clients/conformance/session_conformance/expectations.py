"""What a case expects of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cases import CaseError
from .matching import Bindings, differences
from .observer import Stream

__all__ = ["unlike"]


def unlike(seen: Stream, wanted: Mapping[str, Any], bindings: Bindings) -> tuple[list[str], bool]:
    """Return what is not as a case wants it, and whether it may still become so.

    - ``requests: {NUMBER: PATTERN}``: these have come, maybe with others; the first is 1.
    - ``events: {SEQUENCE: PATTERN}``: these have come, maybe with others.
    - ``first_event``, ``last_event``: the sequences of the first and last that have come; null where there is none.
    - ``ack: N``: the last ack is this one; null where there is none. ``acks: N``: so many have come, or more.
    - ``close``: the client's, or null.
    - ``heartbeats: N``: so many, or more.
    - ``half_closed``, ``cancelled``: true or false. ``closing: true``: the client has closed or half-closed.

    Args:
        seen: the stream.
        wanted: some of these.
        bindings: gets what ``$as`` keeps.

    Raises:
        CaseError: there is another one.
    """
    missing: list[str] = []  # it may come
    wrong: list[str] = []  # it will not become right
    for name, pattern in wanted.items():
        match name:
            case "requests":
                for number, request in pattern.items():
                    if number > len(seen.requests):
                        missing.append(f"request {number} has not come")
                    else:
                        wrong += differences(seen.requests[number - 1], request, bindings)
            case "events":
                for sequence, event in pattern.items():
                    if sequence not in seen.events:
                        missing.append(f"event {sequence} has not come")
                    else:
                        wrong += differences(seen.events[sequence], event, bindings, f"event {sequence}")
            case "first_event" | "last_event" | "ack":
                value, due = getattr(seen, name), pattern or 0
                if value != due:
                    is_missing = value < due if name != "first_event" else not value
                    (missing if is_missing else wrong).append(f"{name} is {value or 'none'}, expected {pattern}")
            case "close":
                if seen.close is None:
                    missing += [] if pattern is None else ["close has not come"]
                else:
                    wrong += ["close has come"] if pattern is None else differences(seen.close, pattern)
            case "heartbeats" | "acks":
                count = getattr(seen, name)
                missing += [] if count >= pattern else [f"{count} {name} have come, expected {pattern}"]
            case "half_closed" | "cancelled" | "closing":
                value = getattr(seen, name)
                (wrong if value else missing).extend([] if value is pattern else [f"{name} is {value}"])
            case _:
                raise CaseError(f"what is {name} of a stream?")
    return wrong + missing, not wrong
