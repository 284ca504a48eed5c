"""The sending side of a direction: what is not yet acknowledged, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from ..errors import ProtocolViolation, ResumeImpossible
from ..window import Window

__all__ = ["Outbox"]

T = TypeVar("T")


class Outbox(Generic[T]):
    """Numbers elements, keeps them until they are acknowledged, and gives out what the window lets go.

    ::

        append ──> _queue ──take──> _sent ──ack──> gone
                     ^                │
                     └─────resume─────┘

    Attributes:
        final: the last element ever has been appended.
        window: what the peer granted; a resume may change it.
        acked: every element up to this sequence has been acknowledged.
        sent: the last sequence that was written on the current stream, or that the peer of it said it had.
        appended_size: the bytes of all that has been appended.
        replayed: how many elements streams left unacknowledged, to be sent again on the next.
    """

    __slots__ = (
        "_highest",
        "_queue",
        "_queue_size",
        "_sent",
        "_sent_size",
        "acked",
        "appended_size",
        "final",
        "replayed",
        "sent",
        "window",
    )

    def __init__(self, window: Window, acked: int = 0) -> None:
        """Begin after ``acked``: where another process goes on."""
        self.window = window
        self.acked = acked
        self.sent = acked
        self.appended_size = 0
        self.replayed = 0
        self._highest = acked  # of all streams: no peer can have received more
        self._sent: deque[tuple[T, int]] = deque()
        self._sent_size = 0
        self._queue: deque[tuple[T, int]] = deque()
        self._queue_size = 0
        self.final = False

    @property
    def last(self) -> int:
        """The sequence of the newest element, 0 before the first."""
        return self.sent + len(self._queue)

    @property
    def waiting(self) -> bool:
        """True when something has not been written on the current stream."""
        return bool(self._queue)

    @property
    def unacked_size(self) -> int:
        """The bytes of what was appended and not yet acknowledged."""
        return self._sent_size + self._queue_size

    @property
    def empty(self) -> bool:
        """True when everything appended has been acknowledged."""
        return not self._sent and not self._queue

    @property
    def finished(self) -> bool:
        """True when the final element was appended and everything has been written on the current stream."""
        return self.final and not self._queue

    def room(self) -> tuple[int, int]:
        """Return how many elements, and how many bytes, may still be appended; nothing where either is below 1."""
        return (
            self.window.messages - len(self._sent) - len(self._queue),
            self.window.size - self._sent_size - self._queue_size,
        )

    def append(self, item: T, size: int) -> int:
        """Add an element of ``size`` bytes and return its sequence."""
        self._queue.append((item, size))
        self._queue_size += size
        self.appended_size += size
        return self.sent + len(self._queue)

    def extend(self, items: Sequence[tuple[T, int]]) -> None:
        """Add several elements, each with its size."""
        self._queue.extend(items)
        for _, size in items:
            self._queue_size += size
            self.appended_size += size

    def append_final(self, item: T, size: int) -> int:
        """Add the last element ever and return its sequence. It needs no window (D6), only its turn."""
        self.final = True
        return self.append(item, size)

    def take(self, size: int) -> tuple[int, list[T]]:
        """Take what may be written now, as one batch; the caller writes it next.

        Args:
            size: the most bytes of a batch; a first element that is larger comes alone.

        Returns:
            The sequence of the first element, and the elements: none when the window, or the outbox, has no more.
        """
        first = self.sent + 1
        batch: list[T] = []
        queue, sent = self._queue, self._sent
        while queue:
            item, extra = queue[0]
            exempt = not sent or (self.final and len(queue) == 1)
            if not exempt and not self.window.fits(len(sent), self._sent_size, extra):
                break
            if batch and extra > size:
                break
            size -= extra
            batch.append(item)
            sent.append(queue.popleft())
            self._sent_size += extra
            self._queue_size -= extra
        if batch:
            self.sent += len(batch)
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
        if sequence <= self.acked:
            return False
        for _ in range(sequence - self.acked):
            _, size = self._sent.popleft()
            self._sent_size -= size
        self.acked = sequence
        return True

    def drop(self) -> None:
        """Let go of everything, as if it had been acknowledged: only the numbers stay."""
        last = self.last
        self._sent.clear()
        self._queue.clear()
        self._sent_size = self._queue_size = 0
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
        while self.sent > received:
            self.sent -= 1  # first, for `last` is also read from other threads: it may seem less, never more
            item, size = self._sent.pop()
            self._queue.appendleft((item, size))
            self._sent_size -= size
            self._queue_size += size
        while self.sent < received:  # the stream before this one resumed from below what its peer already had
            item, size = self._queue.popleft()
            self._sent.append((item, size))
            self._sent_size += size
            self._queue_size -= size
            self.sent += 1
