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
    """

    __slots__ = ("_acked", "_repeat", "_unacked_size", "_waiting", "_waiting_size", "taken", "window")

    def __init__(self, window: Window, taken: int = 0) -> None:
        """Begin after ``taken``: where another process goes on."""
        self.window = window
        self.taken = taken
        self._acked = taken
        self._repeat = False
        self._unacked_size = 0
        self._waiting: deque[tuple[T, int]] = deque()
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
    def has_room(self) -> bool:
        """False while a window's worth waits: a caller that can make its peer wait does so now (P4)."""
        return self.window.has_room(len(self._waiting), self._waiting_size)

    def skip(self, first: int, count: int) -> int:
        """Return how many of ``count`` elements from sequence ``first`` on have been received before.

        Raises:
            SequenceGap: something before them is missing (D2).
        """
        expected = self.expected
        if first > expected:
            raise SequenceGap(expected, first)
        if first < expected:
            self._repeat = True  # the peer may have missed the acknowledgement
        return min(expected - first, count)

    def put(self, item: T, size: int, exempt: bool = False) -> None:
        """Keep a new element of ``size`` bytes until it is taken over; ``exempt`` if it needs no window (D6).

        Raises:
            WindowExceeded: the peer sent more than it was granted (D5).
        """
        if not exempt and not self.window.fits(len(self._waiting), self._waiting_size, size):
            raise WindowExceeded(
                f"more than {self.window.messages} events or {self.window.size} bytes are unacknowledged:"
                " wait for acknowledgements"
            )
        self._waiting.append((item, size))
        self._waiting_size += size

    def take(self) -> None:
        """Count the head as taken over: from now on it is acknowledged."""
        _, size = self._waiting.popleft()
        self._waiting_size -= size
        self._unacked_size += size
        self.taken += 1

    def drop_waiting(self) -> None:
        """Forget what was received and not taken over; it stays unacknowledged, so the peer still has it (D1a)."""
        self._waiting.clear()
        self._waiting_size = 0

    def restart_acks(self, told: bool) -> None:
        """Begin a new stream: acknowledgements written on the old one may be lost with it.

        Args:
            told: the new stream begins with what has been taken, as `resumed.received` does; so no ack is pending.
        """
        self._repeat = not told and self.taken > 0
        if told:
            self._acked = self.taken
            self._unacked_size = 0

    @property
    def ack_pending(self) -> bool:
        """True when the peer has not been told everything."""
        return self._repeat or self.taken > self._acked

    @property
    def ack_due(self) -> bool:
        """True when the peer should be told at once, for it may be waiting: a quarter of the window (D3)."""
        return (self.taken - self._acked) * 4 >= self.window.messages or self._unacked_size * 4 >= self.window.size

    def ack(self) -> int:
        """Return what to tell the peer, which the caller does next."""
        self._acked = self.taken
        self._unacked_size = 0
        self._repeat = False
        return self.taken
