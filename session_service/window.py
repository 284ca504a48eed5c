"""The one pair of numbers that bounds a direction: replay buffer and backpressure at once (protocol D5)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """The most that may be under way and not yet acknowledged.

    Attributes:
        messages: how many events or commands.
        size: their encoded sizes together, in bytes. One alone may be larger.
    """

    messages: int = 1024
    size: int = 1 << 20

    def has_room(self, messages: int, size: int) -> bool:
        """Tell whether anything may join ``messages`` elements of ``size`` bytes together."""
        return messages < self.messages and size < self.size

    def fits(self, messages: int, size: int, extra: int) -> bool:
        """Tell whether ``extra`` bytes more may join ``messages`` elements of ``size`` bytes; the first always may."""
        return messages == 0 or (messages < self.messages and size + extra <= self.size)
