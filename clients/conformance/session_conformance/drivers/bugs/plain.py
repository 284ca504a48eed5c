"""Bugs in plain sessions: P."""

from __future__ import annotations

from typing import Any

from session_client import session
from session_client.stream import StreamEnd

from .planting import bug, patch


@bug
def breaks_plain_sessions() -> None:
    """Come back to a plain session (P3)."""

    def make(original: Any) -> Any:
        async def verdict(self: session.ClientSession, end: StreamEnd, exhausted: bool, seconds: float) -> Any:
            return None if not self._conversation.resumable else await original(self, end, exhausted, seconds)

        return verdict

    patch(session.ClientSession, "_verdict", make)
