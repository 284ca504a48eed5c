"""The sending side of a direction: what is not yet acknowledged, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from ..errors import ProtocolViolation, ResumeImpossible
from ..window import Window

__all__ = ["Outbox"]

T = TypeVar("T")


class Outbox(Generic[T]):
    """Numbers elements, keeps them until they are acknowledged, and gives out what the window lets go.

    One line, and three numbers that say how far along it things are::

        acknowledged, gone │ written, kept to be sent again │ waiting
                         acked                             sent     last

    `append` moves ``last`` on, `take` moves ``sent`` on, `ack` moves ``acked`` on, and `resume` moves ``sent`` back.

    Attributes:
        final: the last element ever has been appended.
        window: what the peer granted; a resume may change it.
        acked: every element up to this sequence has been acknowledged.
        sent: the last sequence that was written on the current stream, or that the peer of it said it had.
        unacked_size: the bytes of what was appended and not yet acknowledged.
        appended_size: the bytes of all that has been appended.
        replayed: how many elements streams left unacknowledged, to be sent again on the next.
    """

    __slots__ = (
        "_elements",
        "_highest",
        "_sent_size",
        "acked",
        "appended_size",
        "final",
        "replayed",
        "sent",
        "unacked_size",
        "window",
    )

    def __init__(self, window: Window, acked: int = 0) -> None:
        """Begin after ``acked``: where another process goes on."""
        self.window = window
        self.acked = acked
        self.sent = acked
        self.unacked_size = 0
        self.appended_size = 0
        self.replayed = 0
        self.final = False
        self._highest = acked  # of all streams: no peer can have received more
        self._elements: list[tuple[T, int]] = []  # from ``acked + 1`` to ``last``
        self._sent_size = 0  # of those up to ``sent``

    @property
    def last(self) -> int:
        """The sequence of the newest element, 0 before the first. Another thread may read less, never more."""
        return self.acked + len(self._elements)

    @property
    def head(self) -> tuple[T, int] | None:
        """The first element not yet acknowledged, and its size; None when there is none."""
        return self._elements[0] if self._elements else None

    @property
    def waiting(self) -> bool:
        """True when something has not been written on the current stream."""
        return self.sent - self.acked < len(self._elements)

    @property
    def unacked(self) -> int:
        """How many elements have been appended and not yet acknowledged; from any thread."""
        return len(self._elements)

    @property
    def empty(self) -> bool:
        """True when everything appended has been acknowledged."""
        return not self._elements

    @property
    def finished(self) -> bool:
        """True when the final element was appended and everything has been written on the current stream."""
        return self.final and not self.waiting

    def room(self) -> tuple[int, int]:
        """Return how many elements, and how many bytes, may still be appended; nothing where either is below 1."""
        return self.window.messages - len(self._elements), self.window.size - self.unacked_size

    def append(self, item: T, size: int) -> int:
        """Add an element of ``size`` bytes and return its sequence."""
        self._elements.append((item, size))
        self.unacked_size += size
        self.appended_size += size
        return self.acked + len(self._elements)

    def extend(self, items: Sequence[tuple[T, int]]) -> None:
        """Add several elements, each with its size."""
        self._elements += items
        added = 0
        for _, size in items:
            added += size
        self.unacked_size += added
        self.appended_size += added

    def append_final(self, item: T, size: int) -> int:
        """Add the last element ever and return its sequence. It needs no window (D6), only its turn."""
        self.final = True
        return self.append(item, size)

    def take(self, size: int, frame: int = 0) -> tuple[int, list[T]]:
        """Take what may be written now, as one batch; the caller writes it next.

        Args:
            size: the most bytes of a batch; a first element that is larger comes alone.
            frame: the bytes that a message adds to each element.

        Returns:
            The sequence of the first element, and the elements: none when the window, or the outbox, has no more.
        """
        first, place = self.sent + 1, self.sent - self.acked
        written, most = self._sent_size, self._sent_size + size
        batch: list[T] = []
        fits, last = self.window.fits, len(self._elements) - 1
        for item, extra in self._elements[place:]:
            if not fits(place, written, extra) and not (self.final and place == last):
                break
            if batch and written + extra + frame > most:
                break
            batch.append(item)
            most -= frame
            written += extra
            place += 1
        self.sent += len(batch)
        self._sent_size = written
        if self.sent > self._highest:
            self._highest = self.sent
        return first, batch

    def ack(self, sequence: int) -> bool:
        """Forget everything up to ``sequence``, which the peer will never need again.

        Returns:
            True when it told something new; a lower one than before is ignored (F6).

        Raises:
            ProtocolViolation: nothing of this sequence has been sent (D3).
        """
        if sequence > self.sent:
            raise ProtocolViolation(f"ack {sequence} is beyond what was sent ({self.sent})", sent=self.sent)
        count = sequence - self.acked
        if count <= 0:
            return False
        gone = 0
        for _, size in self._elements[:count]:
            gone += size
        del self._elements[:count]  # before `acked`, for `last`
        self.acked = sequence
        self._sent_size -= gone
        self.unacked_size -= gone
        return True

    def drop(self) -> None:
        """Let go of everything, as if it had been acknowledged: only the numbers stay."""
        last = self.last
        self._elements.clear()
        self._sent_size = self.unacked_size = 0
        self.acked = self.sent = self._highest = last

    def check_resume(self, received: int) -> None:
        """Raise `ResumeImpossible` where `resume` could not serve ``received``; change nothing."""
        if not self.acked <= received <= self._highest:
            raise ResumeImpossible(
                f"cannot go on after {received}: only {self.acked} to {self._highest} are kept",
                acked=self.acked,
                sent=self._highest,
            )

    def resume(self, received: int) -> None:
        """Begin a new stream whose peer has everything up to ``received``: what comes after is sent again.

        Raises:
            ResumeImpossible: it was acknowledged long ago, or never sent (A5).
        """
        self.check_resume(received)
        self.replayed += max(0, self.sent - received)
        self.sent = received  # may be on as well: the stream before this one resumed from below what its peer had
        self._sent_size = sum([size for _, size in self._elements[: received - self.acked]])
