"""What a SessionManager keeps, and what it lets go of. The rules themselves are tested in tests/protocol."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from session_service.config import Config
from session_service.errors import ProtocolError, SessionUnknown
from session_service.host import SessionManager
from session_service.session import AbstractSession, SessionInfo
from session_service.testing.clock import VirtualLoop

REQUEST_ID = "7c1a4c9e-36f5-4a27-9f0e-3f2f8f0f6b11"


class Stream:
    """A stream that does nothing but end."""

    client_id = ""

    def __init__(self) -> None:
        self.woken, self.over = asyncio.Event(), asyncio.Event()

    def wake(self) -> None:
        self.woken.set()

    def events_taken(self) -> None: ...

    def fail(self, error: ProtocolError) -> None: ...

    def forgotten(self) -> None:
        self.over.set()

    def announce_draining(self, grace: float) -> None: ...


async def app() -> None: ...


async def test_a_request_id_is_remembered_and_its_session_is_not() -> None:
    manager = SessionManager({"app": app}, Config())

    async def open_and_end() -> weakref.ref[object]:
        managed = manager.open("app", info=SessionInfo(), params={}, resumable=True, request_id=REQUEST_ID)
        stream = Stream()
        managed.attach(stream, received=0, command_window=manager.config.command_window)
        async with asyncio.timeout(5):
            await stream.woken.wait()
            managed.feed()
            sequence, [_closed] = managed.outbox.take(1)
            managed.ack(sequence)
            await stream.over.wait()
        return weakref.ref(managed)

    ended = await open_and_end()
    gc.collect()
    assert ended() is None
    assert len(manager) == 0
    with pytest.raises(SessionUnknown):
        manager.open("app", info=SessionInfo(), params={}, resumable=True, request_id=REQUEST_ID)


def test_each_request_id_is_forgotten_when_its_time_is_over() -> None:
    async def open_and_end(manager: SessionManager, request_id: str) -> None:
        managed = manager.open("app", info=SessionInfo(), params={}, resumable=True, request_id=request_id)
        managed.session.close()
        await asyncio.sleep(1)
        assert managed.session.ended
        manager.forget(managed)

    def known(manager: SessionManager, request_id: str) -> bool:
        try:
            managed = manager.open("app", info=SessionInfo(), params={}, resumable=True, request_id=request_id)
        except SessionUnknown:
            return True
        managed.session.close()
        return False

    async def scenario() -> None:
        manager = SessionManager({"app": app}, Config())
        ids = [f"a request id, {seconds} s late" for seconds in (0, 50, 100)]
        for request_id in ids:
            await open_and_end(manager, request_id)
            await asyncio.sleep(50)
        # Now it is 153: the first was forgotten at 121, the others will be at 172 and 223.
        assert [known(manager, request_id) for request_id in ids[1:]] == [True, True]
        assert not known(manager, ids[0])
        await asyncio.sleep(30)
        assert [known(manager, request_id) for request_id in ids[2:]] == [True]
        assert not known(manager, ids[1])
        await asyncio.sleep(50)
        assert not known(manager, ids[2])
        await asyncio.sleep(1)  # the sessions that were opened to ask have ended
        assert AbstractSession.active_session_count() == 0

    loop = VirtualLoop(limit=1e6)
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()
