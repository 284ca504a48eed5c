"""The receiving side of a direction: what came in and is not yet taken over, in order."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from ..errors import SequenceGap, WindowExceeded
from ..window import Window

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """Drops what came before, refuses gaps, keeps what nobody has taken over, and knows what there is to acknowledge.

    Attributes:
        window: what was granted to the peer.
        taken: every element up to this sequence has been taken over and will never be needed again (D4).
        taken_size: the bytes of all that has been taken over.
        duplicates: how many elements came again and were dropped.
    """

    __slots__ = (
        "_acked",
        "_heard",
        "_repeat",
        "_unacked_size",
        "_waiting",
        "_waiting_size",
        "duplicates",
        "taken",
        "taken_size",
        "window",
    )

    def __init__(self, window: Window, taken: int = 0) -> None:
        """Begin after ``taken``: where another process goes on."""
        self.window = window
        self.taken = taken
        self.taken_size = 0
        self.duplicates = 0
        self._acked = taken
        self._heard = taken
        self._repeat = False
        self._unacked_size = 0
        self._waiting: deque[tuple[T, int]] | tuple[()] = ()  # an empty deque takes 760 bytes
        self._waiting_size = 0

    @property
    def expected(self) -> int:
        """The sequence of the next new element."""
        return self.taken + len(self._waiting) + 1

    @property
    def head(self) -> tuple[T, int] | None:
        """The first element not yet taken over, and its size; None when there is none."""
        return self._waiting[0] if self._waiting else None

    @property
    def waiting_size(self) -> int:
        """The bytes of what was received and not yet taken over."""
        return self._waiting_size

    @property
    def has_room(self) -> bool:
        """False while a window's worth waits: a caller that can make its peer wait does so now (P4)."""
        return self.window.has_room(len(self._waiting), self._waiting_size)

    def skip(self, first: int, count: int) -> int:
        """Return how many of ``count`` elements from sequence ``first`` on have been received before.

        Raises:
            SequenceGap: something before them is missing (D2).
        """
        expected = self.taken + len(self._waiting) + 1
        if first == expected:
            return 0
        if first > expected:
            raise SequenceGap(expected, first)
        known = min(expected - first, count)
        if known:
            self.duplicates += known
            self._repeat = True  # the peer may have missed the acknowledgement
            self._heard = max(self._heard, first + known - 1)
        return known

    def put(self, item: T, size: int, exempt: bool = False) -> None:
        """Keep a new element of ``size`` bytes until it is taken over; ``exempt`` if it needs no window (D6).

        Raises:
            WindowExceeded: the peer sent more than it was granted (D5).
        """
        if not exempt and self._waiting and not self.window.fits(len(self._waiting), self._waiting_size, size):
            raise WindowExceeded(
                f"more than {self.window.messages} events or {self.window.size} bytes are unacknowledged:"
                " wait for acknowledgements"
            )
        if not self._waiting:
            self._waiting = deque()
        self._waiting.append((item, size))
        self._waiting_size += size
        self._heard = self.taken + len(self._waiting)

    def take(self) -> None:
        """Count the head as taken over: from now on it is acknowledged."""
        if not self._waiting:
            raise IndexError("nothing waits")
        _, size = self._waiting.popleft()
        if not self._waiting:
            self._waiting = ()
        self._waiting_size -= size
        self._unacked_size += size
        self.taken += 1
        self.taken_size += size

    def drop_waiting(self) -> None:
        """Forget what was received and not taken over; it stays unacknowledged, so the peer still has it (D1a)."""
        self._waiting = ()
        self._waiting_size = 0

    def restart_acks(self, heard: int, told: int) -> None:
        """Begin a new stream: acknowledgements written on the old one may be lost with it.

        Args:
            heard: the last element of which the stream's beginning speaks. An ack covers only what the peer has written
                on the same stream, or what that began with (D8).
            told: how far its beginning acknowledges, as `resumed.received` does.
        """
        self._heard = heard
        self._acked = told
        self._repeat = False

    @property
    def ack_pending(self) -> bool:
        """True when the peer has not been told everything."""
        return (self.taken > self._acked and self._heard > self._acked) or self._repeat

    @property
    def ack_due(self) -> bool:
        """True when the peer should be told at once, for it may be waiting: a quarter of the window (D3)."""
        unacked = min(self.taken, self._heard) - self._acked
        return unacked * 4 >= self.window.messages or (unacked > 0 and self._unacked_size * 4 >= self.window.size)

    def ack(self) -> int:
        """Return what to tell the peer, which the caller does next."""
        self._acked = min(self.taken, self._heard)
        self._unacked_size = 0
        self._repeat = False
        return self._acked
