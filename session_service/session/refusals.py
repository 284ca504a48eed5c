"""How a task goes on asking for what is over."""

from __future__ import annotations

import math

__all__ = ["MOST_REFUSALS", "Refusals"]

# An honest task asks once for each of its loops and clean-ups.
MOST_REFUSALS = 100

# Seconds: the pause grows by it with each further refusal, so that the next hundred take half a second together.
PAUSE = 0.0001
LONGEST_PAUSE = 0.1


class Refusals:
    """What one task was refused although it could know that it was over.

    Attributes:
        rounds: how often it has gone on for `MOST_REFUSALS`, or through a whole grace.
    """

    __slots__ = ("_count", "_last", "_since", "rounds")

    def __init__(self) -> None:
        self.rounds = 0
        self._count = 0  # in this round
        self._since = self._last = -math.inf

    def note(self, now: float, grace: float) -> bool:
        """Note one at a time in seconds; return whether it completes a round.

        One that comes later than ``grace`` seconds after the one before does not go on with anything: the task has
        worked meanwhile, as it may (protocol E1).
        """
        if now - self._last > grace:
            self._since = now
        self._last = now
        self._count += 1
        if self._count < MOST_REFUSALS and now - self._since <= grace:
            return False
        self.rounds += 1
        self._count, self._since = 0, now
        return True

    @property
    def pause(self) -> float:
        """How many seconds the task shall wait before it may go on: none in its first round."""
        further = (self.rounds - 1) * MOST_REFUSALS + self._count
        return min(max(further, 0) * PAUSE, LONGEST_PAUSE)
