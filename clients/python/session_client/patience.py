"""How long a client goes on, and at what pace (protocol D7), without IO: it is told what happens, and when."""

from __future__ import annotations

import math

from .retry import Backoff, RetryPolicy

__all__ = ["Patience"]

# Seconds after which a stream has lived, if heartbeats are no more frequent.
LONG_LIFE = 25.0

# A break is held against an event that was written so few seconds before.
SUSPICION = 5.0

# Breaks after which the event is held back on the next stream, seconds for which it is, and breaks that are the last.
DOUBTS = 3
HOLD = 5.0
LAST = 5


class Patience:
    """What the streams of one session have brought so far.

    Progress is an ack that advanced, a new command, or a stream that lived for a while. Back-off starts anew at nothing
    else; patience also at each attachment that finds nothing of the client's unacknowledged.

    An event is suspected when streams that had written it break at once, one after another. Then it is held back, to
    see whether the stream breaks without it, and goes alone then, to see that it is this one; if the stream breaks with
    it, twice, the event is poisoned.
    """

    def __init__(self, policy: RetryPolicy, now: float) -> None:
        """Begin at ``now``, which like all times here is in seconds of any clock."""
        self._backoff = Backoff(policy)
        self._since = now
        self._attached_at: float | None = None
        self._long_life = math.inf
        self._written_at: float | None = None  # the first unacknowledged event, on this stream
        self._suspect = 0
        self._breaks = 0

    # --- what happens -------------------------------------------------------------------------------------------------

    def attached(self, now: float, heartbeat_interval: float, unacked: bool) -> None:
        """A stream was answered; ``unacked`` where something of the client's is not yet acknowledged."""
        self._attached_at = now
        self._long_life = min(heartbeat_interval, LONG_LIFE)
        if not unacked:
            self._since = now

    def wrote(self, now: float) -> None:
        """The first unacknowledged event is, or has been, written on this stream."""
        if self._written_at is None:
            self._written_at = now

    def acked(self, now: float, written: bool) -> None:
        """An ack advanced; ``written`` where what is now the first unacknowledged event had been written by then."""
        self._progress(now)
        self._written_at = now if written else None

    def received(self, now: float) -> None:
        """A new command came."""
        self._progress(now)

    def broke(self, now: float, first: int, ours: bool) -> None:
        """The stream, or the try to get one, ended.

        Args:
            now: when.
            first: the sequence of the first unacknowledged event.
            ours: an ErrorInfo of the server's says why.
        """
        attached_at, written_at = self._attached_at, self._written_at
        self._attached_at = self._written_at = None
        if attached_at is None:
            return
        if now - attached_at >= self._long_life:
            self._progress(now)
        if ours or written_at is None or now - written_at > SUSPICION:
            self._breaks = 0
        elif first == self._suspect:
            self._breaks += 1
        else:
            self._suspect, self._breaks = first, 1

    def _progress(self, now: float) -> None:
        self._since = now
        self._backoff.reset()

    # --- what follows -------------------------------------------------------------------------------------------------

    def next_delay(self) -> float:
        """Return the seconds to wait before the next try."""
        return self._backoff.next()

    def spent(self, now: float) -> float:
        """Return the seconds that have been tried in vain."""
        return now - self._since

    @property
    def hold(self) -> float:
        """Seconds for which the next stream holds the first event, and all behind it, back; 0 where it does not."""
        return HOLD if self._breaks == DOUBTS else 0.0

    @property
    def suspects(self) -> bool:
        """True when the next stream writes the first unacknowledged event alone."""
        return self._breaks >= DOUBTS

    @property
    def poisoned(self) -> bool:
        """True when the path will not let the first unacknowledged event through."""
        return self._breaks >= LAST
