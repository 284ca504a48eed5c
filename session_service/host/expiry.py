"""The timers that end sessions of which nobody hears any more, and that let go of those that have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from ..lifecycle import Consequence, Trigger

__all__ = ["Expiring", "Expiry"]

logger = logging.getLogger(__name__)

# How often within an idle timeout it is looked whether anything has happened: so a session lives a quarter of it longer
# at most, and an event costs nothing for it.
IDLE_LOOKS = 4


class Expiring(Protocol):
    """What has timers here: a session."""

    @property
    def resume_window(self) -> float:
        """Seconds that it is kept detached, or ended and undelivered."""

    @property
    def progress(self) -> object:
        """Equal to what it was where neither side has said a thing since."""

    def come_about(self, trigger: Trigger, message: str = "") -> None:
        """Do what follows from a trigger in the states of now; ``message`` is for the client."""


Timers = dict[Expiring, asyncio.TimerHandle]


class Expiry:
    """The timers of all sessions of a server. A session that waits for nothing has none, and nothing of it is here."""

    def __init__(self, lifetime: float, idle_timeout: float) -> None:
        """Set the limits of each session, in seconds; 0 for none."""
        self._lifetime, self._idle_timeout = lifetime, idle_timeout
        self._windows: Timers = {}
        self._lifetimes: Timers = {}
        self._idle: Timers = {}
        self._timers = (
            (Trigger.RESUME_WINDOW, self._windows),
            (Trigger.LIFETIME, self._lifetimes),
            (Trigger.IDLE, self._idle),
        )

    def begin(self, session: Expiring) -> None:
        """Limit a session that has started."""
        if self._lifetime > 0:
            self._lifetimes[session] = asyncio.get_running_loop().call_later(
                self._lifetime, self._on_limit, session, Trigger.LIFETIME
            )
        if self._idle_timeout > 0:
            self._look(session, None, 0)

    def settle(self, session: Expiring, due: Mapping[Trigger, Consequence], *, anew: bool = False) -> None:
        """Have the timers that the states of a session call for.

        Args:
            session: whose states may have changed.
            due: what may come about in them.
            anew: a resume window begins now, also where one has begun before.
        """
        for trigger, timers in self._timers:
            again = anew and timers is self._windows
            if timers and (again or trigger not in due) and (timer := timers.pop(session, None)) is not None:
                timer.cancel()
        if Trigger.RESUME_WINDOW in due and session not in self._windows:
            self._windows[session] = asyncio.get_running_loop().call_later(
                session.resume_window, self._on_window, session
            )

    def _on_window(self, session: Expiring) -> None:
        del self._windows[session]
        session.come_about(Trigger.RESUME_WINDOW)

    def _look(self, session: Expiring, seen: object, looks: int) -> None:
        progress = session.progress
        looks = looks + 1 if progress == seen else 0
        if looks == IDLE_LOOKS:
            self._on_limit(session, Trigger.IDLE)
        else:
            self._idle[session] = asyncio.get_running_loop().call_later(
                self._idle_timeout / IDLE_LOOKS, self._look, session, progress, looks
            )

    def _on_limit(self, session: Expiring, trigger: Trigger) -> None:
        for timers in (self._lifetimes, self._idle):
            if (timer := timers.pop(session, None)) is not None:
                timer.cancel()
        if trigger is Trigger.LIFETIME:
            message = f"the session has had its lifetime of {self._lifetime:g} s"
        else:
            message = f"the session has been idle for {self._idle_timeout:g} s"
        session.come_about(trigger, message)
