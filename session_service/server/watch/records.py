"""What the admin service knows of sessions beyond what they know themselves: since when, by which streams, who watches.

Everything here is bounded: the streams that are remembered of a session, and the changes that are kept for a watcher.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterator

from google.protobuf import timestamp_pb2

from ...errors import ProtocolError
from ...host.observers import Observer, SessionView
from ...lifecycle import Standing
from ...v1 import admin_pb2 as pb
from ...v1 import session_pb2

__all__ = ["Record", "Records", "Watcher"]

# As admin.proto says.
MOST_ATTACHMENTS = 16
MOST_CHANGES = 1000


class Record:
    """One session.

    Attributes:
        managed: the session.
        number: counts sessions in the order in which they were opened.
        open_time: when that was.
        attachments: its latest streams, oldest first.
    """

    __slots__ = ("attachments", "managed", "number", "open_time")

    def __init__(self, managed: SessionView, number: int) -> None:
        self.managed = managed
        self.number = number
        self.open_time = now()
        self.attachments: deque[pb.Attachment] = deque(maxlen=MOST_ATTACHMENTS)

    def summary(self) -> pb.SessionSummary:
        """Return what a table has room for."""
        managed, session = self.managed, self.managed.session
        return pb.SessionSummary(
            session_id=session.id,
            app=managed.app,
            principal=managed.principal,
            state=self.state,
            close_reason=_close_reason(managed),
            resumable=managed.resumable,
            open_time=self.open_time,
            generation=managed.generation,
            peer=session.info.peer,
            lag=managed.undelivered,
        )

    @property
    def state(self) -> pb.SessionState.ValueType:
        """Where the session stands."""
        return pb.SessionState.Value(f"SESSION_STATE_{self.managed.standing.name}")


class Watcher:
    """Somebody who is told of changes, at a pace of their own."""

    def __init__(self, app: str, principal: str) -> None:
        """Watch the sessions of an app, and of a principal; empty for any."""
        self._app, self._principal = app, principal
        self._changes: deque[pb.WatchSessionsResponse] = deque()
        self._missed = 0
        self._ended = False
        self._error: ProtocolError | None = None
        self._woken = asyncio.Event()

    def wants(self, managed: SessionView) -> bool:
        """Tell whether a session is among those it watches."""
        return matches(managed, self._app, self._principal)

    def put(self, change: pb.WatchSessionsResponse) -> None:
        """Keep a change, or count it where so many are kept: then those that follow, too, until all are read."""
        if self._missed or len(self._changes) >= MOST_CHANGES:
            self._missed += 1
        else:
            self._changes.append(change)
        self._woken.set()

    def end(self, error: ProtocolError | None = None) -> None:
        """Say no more once what is kept is read; by an error, at once."""
        self._ended = True
        self._error = self._error or error
        self._woken.set()

    async def next(self) -> pb.WatchSessionsResponse | None:
        """Wait for the next change; None when no more will come.

        Raises:
            ProtocolError: what it was ended with.
        """
        while True:
            if self._error is not None:
                raise self._error
            if self._changes:
                return self._changes.popleft()
            if self._missed:
                missed, self._missed = self._missed, 0
                return pb.WatchSessionsResponse(time=now(), missed=missed)
            if self._ended:
                return None
            self._woken.clear()
            await self._woken.wait()


class Records(Observer):
    """All sessions, in the order in which they were opened.

    Attributes:
        watchers: who is told of changes.
    """

    def __init__(self) -> None:
        self.watchers: set[Watcher] = set()
        self._numbers = itertools.count(1)
        self._records: dict[str, Record] = {}

    def get(self, session_id: str) -> Record | None:
        """Return the record of a session, if there is one."""
        return self._records.get(session_id)

    def after(self, number: int) -> Iterator[Record]:
        """Go through the sessions that were opened after one."""
        return (record for record in self._records.values() if record.number > number)

    def opened(self, managed: SessionView) -> None:  # noqa: D102
        self._records[managed.session.id] = Record(managed, next(self._numbers))
        self._tell(managed, pb.SESSION_CHANGE_OPENED)

    def attached(self, managed: SessionView) -> None:  # noqa: D102
        info = managed.session.info
        self._records[managed.session.id].attachments.append(
            pb.Attachment(
                generation=managed.generation,
                peer=info.peer,
                user_agent=info.user_agent_text,
                client_id=managed.client_id,
                attach_time=now(),
            )
        )
        self._tell(managed, pb.SESSION_CHANGE_ATTACHED)

    def detached(self, managed: SessionView, error: ProtocolError | None) -> None:  # noqa: D102
        reason = error.reason if error is not None else "ENDED" if managed.standing is Standing.ENDED else "LOST"
        attachment = self._records[managed.session.id].attachments[-1]
        attachment.detach_time.CopyFrom(now())
        attachment.detach_reason = reason
        self._tell(managed, pb.SESSION_CHANGE_DETACHED, reason)

    def ended(self, managed: SessionView) -> None:  # noqa: D102
        self._tell(managed, pb.SESSION_CHANGE_ENDED)

    def forgotten(self, managed: SessionView) -> None:  # noqa: D102
        del self._records[managed.session.id]

    def end_watches(self) -> None:
        """Tell those who watch that no more will come."""
        for watcher in self.watchers:
            watcher.end()

    def _tell(self, managed: SessionView, change: pb.SessionChange.ValueType, detach_reason: str = "") -> None:
        watchers = [watcher for watcher in self.watchers if watcher.wants(managed)]
        if watchers:
            response = pb.WatchSessionsResponse(
                change=change,
                time=now(),
                session=self._records[managed.session.id].summary(),
                detach_reason=detach_reason,
            )
            for watcher in watchers:
                watcher.put(response)


def matches(managed: SessionView, app: str, principal: str) -> bool:
    """Tell whether a session is one of this app and this principal; empty for any."""
    return (not app or managed.app == app) and (not principal or managed.principal == principal)


def now() -> timestamp_pb2.Timestamp:
    """Return the time."""
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromNanoseconds(time.time_ns())
    return timestamp


def _close_reason(managed: SessionView) -> session_pb2.CloseReason.ValueType:
    reason = managed.session.close_reason
    if reason is None:
        return session_pb2.CLOSE_REASON_UNSPECIFIED
    return session_pb2.CloseReason.Value(f"CLOSE_REASON_{reason.name}")
