"""When the credentials of a call are over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ...errors import ProtocolError, Unauthenticated
from ...session import Principal

__all__ = ["ExpiryTimer"]

# The clock of credentials is the wall clock, which can be set, so it is looked at now and then.
LONGEST_SLEEP = 30.0


class ExpiryTimer:
    """Calls ``fail`` within the block when the credentials of ``principal`` expire."""

    __slots__ = ("_expires_at", "_fail", "_timer")

    def __init__(self, principal: Principal, fail: Callable[[ProtocolError], None]) -> None:
        self._expires_at = principal.expires_at
        self._fail = fail
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """Begin to look."""
        if self._expires_at is not None:
            self._look(self._expires_at)

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, expires_at: float) -> None:
        left = expires_at - time.time()
        if left <= 0:
            self._fail(Unauthenticated("the credentials have expired: attach again with fresh ones"))
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(left, LONGEST_SLEEP), self._look, expires_at)
