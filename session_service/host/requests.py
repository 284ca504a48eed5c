"""The opens that clients may repeat, and how long they are remembered (protocol A6)."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque

from ..session import Principal

__all__ = ["LEAST_REQUEST_ID", "REQUEST_ID_MEMORY", "Request", "Requests", "request_of"]

# In characters: a request id is as good as a token.
LEAST_REQUEST_ID = 16

# How long a request id is remembered after its session: a client repeats an open for 60 s at most.
REQUEST_ID_MEMORY = 120.0

# A principal, and the digest of the request id of an open.
Request = tuple[str, bytes]


def request_of(principal: Principal, request_id: str) -> Request:
    """Return what a repeat of an open is known by: not the id itself, which may be megabytes."""
    return principal.name, hashlib.sha256(request_id.encode()).digest()


class Requests:
    """What each request has opened, while its session is there, and for a time after that."""

    def __init__(self, resume_window: float) -> None:
        """Remember requests for as long as the longest resume window, in seconds, at least."""
        self._memory = max(REQUEST_ID_MEMORY, resume_window)
        # The app and the session's id, which may be gone.
        self._opened: dict[Request, tuple[str, str]] = {}
        # Those whose sessions are gone, with when they are forgotten, in that order: so all have the same time to live.
        self._past: deque[tuple[float, Request]] = deque()

    def __len__(self) -> int:
        return len(self._opened)

    def find(self, request: Request) -> tuple[str, str] | None:
        """Return the name of the app that it has opened, and the session's id; None if it has opened nothing."""
        return self._opened.get(request)

    def add(self, request: Request, app: str, session_id: str) -> None:
        """Remember what a request has opened."""
        self._opened[request] = app, session_id

    def retire(self, request: Request) -> None:
        """Begin to forget a request: its session is gone."""
        loop = asyncio.get_running_loop()
        if not self._past:
            loop.call_later(self._memory, self._forget)
        self._past.append((loop.time() + self._memory, request))

    def _forget(self) -> None:
        """Forget those whose time is over: one timer for all, since there may be many."""
        loop = asyncio.get_running_loop()
        while self._past and self._past[0][0] <= loop.time():
            self._opened.pop(self._past.popleft()[1], None)
        if self._past:
            loop.call_at(self._past[0][0], self._forget)
