"""Exactly-once delivery without IO: the two sides of a direction.

Each direction of a session has an `Outbox` where its elements come from and an `Inbox` where they go; a session has one
of each on either end. They know sequences, acknowledgements and windows, and nothing of streams, clocks or payloads:
the caller reads, writes and waits. The rules are those of docs/protocol.md, D1 to D8 and A4 to A6.
"""

from .inbox import Inbox
from .outbox import Outbox

__all__ = ["Inbox", "Outbox"]
