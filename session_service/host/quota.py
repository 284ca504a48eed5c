"""What one principal may use of a server."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Config
from ..errors import SessionLimit

__all__ = ["Quota", "Quotas", "Rate"]

Clock = Callable[[], float]

# From so many principals on, those that use nothing are looked for and forgotten.
LEAST_SWEEP = 1000

# (now - 1) + 1 may be a little later than now.
ROUNDING = 1e-6


class Rate:
    """An allowance that grows at a steady rate, and that saves up one second's worth, or one unit if that is more."""

    def __init__(self, per_second: float, clock: Clock) -> None:
        self._cost = 1 / per_second
        self._saved = max(1.0, self._cost)  # in seconds
        self._clock = clock
        self._paid_at = clock() - self._saved  # when all that was taken is paid for

    def take(self, amount: float) -> float:
        """Take ``amount``; return how many seconds later it is paid for, which the taker has to wait."""
        now = self._clock()
        self._paid_at = max(self._paid_at, now - self._saved) + amount * self._cost
        return max(0.0, self._paid_at - now)

    def try_take(self) -> bool:
        """Take one, if that is paid for."""
        now = self._clock()
        paid_at = max(self._paid_at, now - self._saved) + self._cost
        if paid_at > now + ROUNDING:
            return False
        self._paid_at = paid_at
        return True

    def give_back(self, amount: float) -> None:
        """Undo a `take` whose taker has not waited to the end."""
        self._paid_at -= amount * self._cost

    @property
    def full(self) -> bool:
        """Tell whether forgetting it would change nothing."""
        return self._paid_at <= self._clock() - self._saved


class Quota:
    """What one principal uses.

    Attributes:
        sessions: how many it has.
        events: bytes of events; None where they are not limited.
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._opens = Rate(config.principal_open_rate, clock) if config.principal_open_rate else None
        self.sessions = 0
        self.events = Rate(config.principal_event_rate, clock) if config.principal_event_rate else None

    def check_open(self) -> None:
        """Count an attempt to open a session.

        Raises:
            SessionLimit: there are too many, or they come too fast.
        """
        most, rate = self._config.max_principal_sessions, self._config.principal_open_rate
        if most and self.sessions >= most:
            raise SessionLimit(
                f"you have {self.sessions} sessions, and no more are allowed: close one, or try again later"
            )
        if self._opens is not None and not self._opens.try_take():
            raise SessionLimit(f"you open more than {rate:g} sessions a second: try again later")

    @property
    def idle(self) -> bool:
        """Tell whether forgetting it would change nothing."""
        return not self.sessions and all(rate is None or rate.full for rate in (self._opens, self.events))


class Quotas:
    """The quotas of all principals of one server, as long as they matter."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._quotas: dict[str, Quota] = {}
        self._sweep_at = LEAST_SWEEP

    def __len__(self) -> int:
        return len(self._quotas)

    def of(self, principal: str) -> Quota:
        """Return the quota of the principal of this name."""
        quota = self._quotas.get(principal)
        if quota is None:
            if len(self._quotas) >= self._sweep_at:
                self._quotas = {name: quota for name, quota in self._quotas.items() if not quota.idle}
                self._sweep_at = max(LEAST_SWEEP, 2 * len(self._quotas))
            quota = self._quotas[principal] = Quota(self._config, self._clock)
        return quota
