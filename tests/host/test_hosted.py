"""A session with what outlives its streams: what ends it, and what lets go of it, is what the joint table says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from session_service import get_current_session
from session_service.config import Config
from session_service.errors import ProtocolError, SessionUnknown
from session_service.host import ManagedSession, Observer, SessionManager, SessionView
from session_service.lifecycle import JOINT, CloseReason, Consequence, Link, Standing, Trigger
from session_service.session import SessionInfo
from session_service.testing.clock import VirtualLoop
from session_service.window import Window

# In seconds: what a trigger takes, and what is never over.
SOON, NEVER = 10.0, 100_000.0


class Stream:
    """A stream that does nothing."""

    client_id = ""

    def wake(self) -> None: ...

    def events_taken(self) -> None: ...

    def fail(self, error: ProtocolError) -> None: ...

    def forgotten(self) -> None: ...

    def announce_draining(self, grace: float) -> None: ...


async def waits() -> None:
    await get_current_session().next_client_event()


def in_virtual_time(scenario: Callable[[], Awaitable[None]]) -> None:
    loop = VirtualLoop(limit=1e6)
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()


def attach(managed: ManagedSession, stream: Stream) -> Stream:
    managed.attach(stream, received=0, command_window=Window())
    return stream


async def brought_to(manager: SessionManager, ended: bool, link: Link, sequenced: bool) -> ManagedSession:
    managed = manager.open("waits", info=SessionInfo(), params={}, resumable=sequenced)
    stream = attach(managed, Stream())
    if ended:
        managed.session.close()
        await asyncio.sleep(1)
        managed.feed()
        managed.outbox.take(1 << 20)
    if link is Link.DETACHED:
        managed.detach(stream)
    return managed


LASTING = [state for state, due in JOINT.items() if Trigger.AT_ONCE not in due]
TRIGGERS = [Trigger.RESUME_WINDOW, Trigger.LIFETIME, Trigger.IDLE, Trigger.ALL_ACKED]


def named(item: object) -> str:
    if isinstance(item, tuple):
        ended, link, sequenced = item
        return f"{'ended' if ended else 'running'}-{link.name}-{'sequenced' if sequenced else 'plain'}"
    return item.name if isinstance(item, Trigger) else str(item)


@pytest.mark.parametrize("trigger", TRIGGERS, ids=named)
@pytest.mark.parametrize("state", LASTING, ids=named)
def test_what_comes_about_has_the_consequence_of_its_cell(state: tuple[bool, Link, bool], trigger: Trigger) -> None:
    async def scenario() -> None:
        manager = SessionManager(
            {"waits": waits},
            Config(
                resume_window=SOON if trigger is Trigger.RESUME_WINDOW else NEVER,
                session_lifetime=SOON if trigger is Trigger.LIFETIME else 0,
                idle_timeout=SOON if trigger is Trigger.IDLE else 0,
            ),
        )
        managed = await brought_to(manager, *state)
        reason = managed.session.close_reason
        if trigger is Trigger.ALL_ACKED:
            managed.ack(managed.outbox.sent)
        else:
            await asyncio.sleep(1.5 * SOON)
        consequence = JOINT[state].get(trigger)
        assert (manager.get(managed.session.id) is None) is (consequence is Consequence.FORGET)
        assert (managed.link is Link.FORGOTTEN) is (consequence is Consequence.FORGET)
        assert managed.session.close_reason is (CloseReason.EXPIRED if consequence is Consequence.EXPIRE else reason)
        managed.session.close()
        await asyncio.sleep(1)

    in_virtual_time(scenario)


def test_a_plain_session_that_loses_its_stream_is_closed_at_once_and_forgotten_when_it_has_ended() -> None:
    async def scenario() -> None:
        manager = SessionManager({"waits": waits}, Config())
        managed = await brought_to(manager, False, Link.DETACHED, False)
        assert managed.session.close_reason is CloseReason.CLIENT
        assert managed.standing is Standing.DETACHED
        await asyncio.sleep(1)
        assert (managed.link, len(manager)) == (Link.FORGOTTEN, 0)

    in_virtual_time(scenario)


def test_a_plain_session_that_has_ended_is_forgotten_with_its_stream() -> None:
    async def scenario() -> None:
        manager = SessionManager({"waits": waits}, Config())
        managed = await brought_to(manager, True, Link.DETACHED, False)
        assert (managed.link, len(manager)) == (Link.FORGOTTEN, 0)

    in_virtual_time(scenario)


@pytest.mark.parametrize("come_back", [False, True])
def test_a_resume_window_after_the_end_is_prolonged_by_acks_and_by_no_stream(come_back: bool) -> None:
    async def scenario() -> None:
        manager = SessionManager({"waits": waits}, Config(resume_window=SOON))
        managed = await brought_to(manager, True, Link.ATTACHED, True)  # a second of its window has gone by
        await asyncio.sleep(SOON / 2)
        if come_back:
            managed.detach(attach(managed, Stream()))
            attach(managed, Stream())
        await asyncio.sleep(SOON / 2 - 1.01)
        assert len(manager) == 1
        await asyncio.sleep(0.02)
        assert len(manager) == 0

    in_virtual_time(scenario)


def test_a_stream_that_comes_too_late_is_told_so_and_changes_nothing() -> None:
    async def scenario() -> None:
        manager = SessionManager({"waits": waits}, Config())
        managed = await brought_to(manager, True, Link.ATTACHED, True)
        manager.forget(managed)
        before = managed.stream, managed.generation
        with pytest.raises(SessionUnknown):
            attach(managed, Stream())
        assert (managed.link, managed.stream, managed.generation) == (Link.FORGOTTEN, *before)

    in_virtual_time(scenario)


async def test_observers_see_the_generation_of_the_stream_that_is_lost() -> None:
    class Generations(Observer):
        def __init__(self) -> None:
            self.attached_as: list[int] = []
            self.lost_as: list[int] = []

        def attached(self, managed: SessionView) -> None:
            self.attached_as.append(managed.generation)

        def detached(self, managed: SessionView, error: ProtocolError | None) -> None:
            self.lost_as.append(managed.generation)

    generations = Generations()
    manager = SessionManager({"waits": waits}, Config(), observers=[generations])
    managed = manager.open("waits", info=SessionInfo(), params={}, resumable=True)
    first, second = attach(managed, Stream()), attach(managed, Stream())
    managed.detach(first)
    managed.detach(second)
    assert (generations.attached_as, generations.lost_as) == ([1, 2], [1, 2])
    managed.session.close()
    while not managed.session.ended:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
