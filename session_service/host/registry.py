"""Which sessions there are."""

from __future__ import annotations

from collections.abc import Iterator

from .hosted import ManagedSession

__all__ = ["Registry"]


class Registry:
    """The sessions of one server, by their ids. It is changed on the loop's thread, and may be read from any."""

    def __init__(self) -> None:
        self._sessions: dict[str, ManagedSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[ManagedSession]:
        """Go through the sessions that there are now."""
        return iter(list(self._sessions.values()))

    def get(self, session_id: str) -> ManagedSession | None:
        """Return the session of this id, if there is one."""
        return self._sessions.get(session_id)

    def add(self, managed: ManagedSession) -> None:
        """Keep a session."""
        self._sessions[managed.session.id] = managed

    def remove(self, managed: ManagedSession) -> bool:
        """Keep it no longer; return whether it was there."""
        return self._sessions.pop(managed.session.id, None) is not None
