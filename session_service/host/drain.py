"""How a server gets rid of its sessions in good order (protocol E3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ..lifecycle import CloseReason, Link
from .registry import Registry

__all__ = ["Drain", "Drained"]

# Of the 20 s that a shutdown may take beyond its grace: for tasks and deferred calls to end, and for attached clients
# to take the rest.
ENDING_TIME = 15.5
DELIVERY_TIME = 3.0


@dataclass(frozen=True, slots=True)
class Drained:
    """How a drain went.

    Attributes:
        closed: sessions that had to be closed since the grace was over.
        undelivered: sessions whose clients have not had everything.
        commands: how many commands those had not acknowledged.
    """

    closed: int
    undelivered: int
    commands: int


class Drain:
    """The end of all sessions of a server, once it has begun.

    Attributes:
        over_at: the loop's time at which the grace is over; None before it has begun.
        changed: to be set when a session has ended, has lost its stream, or is forgotten.
    """

    def __init__(self, sessions: Registry) -> None:
        self._sessions = sessions
        self.over_at: float | None = None
        self.changed = asyncio.Event()
        self._hurried = False

    @property
    def grace_left(self) -> float | None:
        """The seconds that sessions have to end by themselves; None before it has begun."""
        return None if self.over_at is None else max(0.0, self.over_at - asyncio.get_running_loop().time())

    async def run(self, grace: float) -> Drained:
        """Let the sessions there are end, and close the rest after ``grace`` seconds.

        Returns when no session is left, or at the latest 18.5 s after the grace.
        """
        self._announce(grace)
        self._hurried = True
        while self._hurried:  # by `shorten`
            self._hurried = False
            await self._wait(lambda: not len(self._sessions) or self._hurried, self.grace_left or 0)
        rest = [managed for managed in self._sessions if not managed.session.closed()]
        for managed in rest:
            managed.session.close(reason=CloseReason.SHUTDOWN)
        await self._wait(lambda: all(managed.session.ended for managed in self._sessions), ENDING_TIME)
        await self._wait(lambda: not any(managed.link is Link.ATTACHED for managed in self._sessions), DELIVERY_TIME)
        lost = list(self._sessions)
        return Drained(len(rest), len(lost), sum(managed.undelivered for managed in lost))

    def shorten(self, grace: float) -> None:
        """Close what is left after ``grace`` seconds, where it would be done later."""
        left = self.grace_left
        if left is not None and grace < left:
            self._announce(grace)
            self._hurried = True
            self.changed.set()

    def _announce(self, grace: float) -> None:
        self.over_at = asyncio.get_running_loop().time() + grace
        for managed in self._sessions:
            if managed.stream is not None:
                managed.stream.announce_draining(grace)

    async def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not done():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pass
