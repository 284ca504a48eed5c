"""Bugs in how long a client tries, and at what pace: D7."""

from __future__ import annotations

import math
from typing import Any

from session_client import patience
from session_client.conversation import Conversation
from session_client.patience import Patience

from .planting import bug, patch


@bug
def takes_attachments_for_progress() -> None:
    """Start patience anew at each attachment (D7)."""
    patch(
        Patience, "attached", lambda original: lambda self, now, interval, unacked: original(self, now, interval, False)
    )


@bug
def loses_idle_sessions() -> None:
    """Start patience anew at progress only, also while nothing is unacknowledged (D7)."""
    patch(
        Patience, "attached", lambda original: lambda self, now, interval, unacked: original(self, now, interval, True)
    )


@bug
def hurries_back() -> None:
    """Start the back-off anew at each attachment (D7)."""

    def make(original: Any) -> Any:
        def attached(self: Patience, now: float, heartbeat_interval: float, unacked: bool) -> None:
            original(self, now, heartbeat_interval, unacked)
            self._backoff.reset()

        return attached

    patch(Patience, "attached", make)


@bug
def sees_no_progress_in_acks() -> None:
    """Take an ack for nothing new (D7)."""

    def acked(self: Patience, now: float, written: bool) -> None:
        self._written_at = now if written else None

    patch(Patience, "acked", lambda _: acked)


@bug
def sees_no_progress_in_commands() -> None:
    """Take a command for nothing new (D7)."""
    patch(Patience, "received", lambda _: lambda self, now: None)


@bug
def sees_no_progress_in_a_life() -> None:
    """Take a stream that lived for a while for nothing new (D7)."""

    def make(original: Any) -> Any:
        def attached(self: Patience, now: float, heartbeat_interval: float, unacked: bool) -> None:
            original(self, now, heartbeat_interval, unacked)
            self._long_life = math.inf

        return attached

    patch(Patience, "attached", make)


@bug
def sends_poison_for_ever() -> None:
    """Send what breaks each stream again and again (D7)."""
    patch(Patience, "poisoned", lambda _: property(lambda self: False))


@bug
def holds_nothing_back() -> None:
    """Send what has broken three streams at once on the fourth (D7)."""
    patch(Patience, "hold", lambda _: property(lambda self: 0.0))


@bug
def holds_everything_back() -> None:
    """Write nothing at all while an event is held back (D7)."""

    def make(original: Any) -> Any:
        def next_request(self: Conversation, ack: bool = False, heartbeat: bool = False) -> bytes | None:
            data: bytes | None = None if self.held else original(self, ack, heartbeat)
            return data

        return next_request

    patch(Conversation, "next_request", make)


@bug
def takes_the_path_for_poison() -> None:
    """Hold a break against an event that was not even written (D7)."""

    def make(original: Any) -> Any:
        def broke(self: Patience, now: float, first: int, ours: bool) -> None:
            if self._attached_at is not None and self.hold:
                self._written_at = now
            original(self, now, first, ours)

        return broke

    patch(Patience, "broke", make)


@bug
def counts_refused_streams() -> None:
    """Hold a stream that was never attached against the event before (D7)."""

    def make(original: Any) -> Any:
        def broke(self: Patience, now: float, first: int, ours: bool) -> None:
            if self._attached_at is None and self._breaks:
                self._attached_at = self._written_at = now
            original(self, now, first, ours)

        return broke

    patch(Patience, "broke", make)


@bug
def counts_errors_of_the_server() -> None:
    """Hold the server's own errors against an event (D7)."""
    patch(Patience, "broke", lambda original: lambda self, now, first, ours: original(self, now, first, False))


@bug
def counts_late_breaks() -> None:
    """Hold a break against an event, however long before it was written (D7)."""
    patience.SUSPICION = math.inf
