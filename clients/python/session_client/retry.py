"""When to try again."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Backoff", "RetryPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How a client comes back.

    Attributes:
        initial: seconds, at most, before the first try.
        maximum: seconds, at most, before any later one; it doubles until there.
        total: seconds without progress after which the session counts as lost (protocol D7).
        attach_timeout: seconds that one try may take.
    """

    initial: float = 0.2
    maximum: float = 10.0
    total: float = 120.0
    attach_timeout: float = 10.0


class Backoff:
    """Exponential delays with full jitter (Brooker, "Exponential Backoff And Jitter", 2015), until they are reset."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._tries = 0

    def reset(self) -> None:
        """Begin anew."""
        self._tries = 0

    def next(self) -> float:
        """Return the seconds to wait before the next try."""
        most = min(self._policy.maximum, self._policy.initial * 2.0 ** min(self._tries, 60))
        self._tries += 1
        return random.uniform(0, most)
