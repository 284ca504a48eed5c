"""Stopwatches, and what a session has them time."""

from __future__ import annotations

import asyncio

from session_service import CoroutineSession, Window, get_current_session
from session_service.session.mailbox import Mail, Mailbox, Mailroom
from session_service.session.stopwatch import RESTING, Stopwatch


class Times:
    """What was observed."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.stopwatch = Stopwatch(self.observe)

    def observe(self, seconds: float, stopwatch: Stopwatch) -> None:
        assert stopwatch is self.stopwatch
        self.seconds.append(seconds)


def test_it_tells_how_long_something_took_and_rests_until_it_is_woken() -> None:
    times = Times()
    times.stopwatch.start("something")
    assert times.stopwatch.item == "something"
    times.stopwatch.stop()
    assert len(times.seconds) == 1
    assert times.seconds[0] >= 0
    assert times.stopwatch.item is RESTING


def test_what_it_gives_up_is_not_told_and_it_is_ready_for_the_next() -> None:
    times = Times()
    times.stopwatch.start("something")
    times.stopwatch.give_up()
    assert (times.seconds, times.stopwatch.item) == ([], None)


def test_giving_up_does_not_wake_it() -> None:
    times = Times()
    times.stopwatch.start("something")
    times.stopwatch.stop()
    times.stopwatch.give_up()
    assert times.stopwatch.item is RESTING


async def test_an_event_that_is_taken_is_timed_and_what_comes_meanwhile_is_not() -> None:
    async def app() -> None:
        for _ in range(2):
            await get_current_session().next_client_event()

    times, ended = Times(), asyncio.Event()
    session = CoroutineSession(app, on_session_close=lambda _: ended.set())
    session.time_events(times.stopwatch)
    for _ in range(2):
        session.send_client_event({"event": "say"})
    await asyncio.wait_for(ended.wait(), 5)
    assert len(times.seconds) == 1


async def test_an_event_that_nobody_takes_any_more_is_given_up() -> None:
    async def app() -> None:
        await asyncio.Event().wait()

    times, ended = Times(), asyncio.Event()
    session = CoroutineSession(app, on_session_close=lambda _: ended.set())
    session.time_events(times.stopwatch)
    session.send_client_event({"event": "say"})
    assert times.stopwatch.item is not None
    session.close()
    await asyncio.wait_for(ended.wait(), 5)
    assert (times.seconds, times.stopwatch.item) == ([], None)


def test_who_is_told_by_the_mailroom_may_ask_it_for_its_lock_is_free() -> None:
    def look(*_: object) -> None:
        seen.append(mailroom.held)

    seen: list[tuple[int, int]] = []
    mailroom, mailbox = Mailroom(Window(2, 100), look), Mailbox()
    mailroom.stopwatch = Stopwatch(look)
    for number in range(3):
        mailroom.put(mailbox, Mail({"event": "say", "task_id": "", "data": number}, 1))

    mailroom.next_in_thread(mailbox, 0)
    assert seen == [(1, 1), (1, 1)], "there is room, and an event was timed"
    mailroom.put(mailbox, Mail({"event": "say", "task_id": "", "data": 3}, 1))
    mailroom.put(mailbox, Mail({"event": "say", "task_id": "", "data": 4}, 1))
    mailroom.close(mailbox)
    assert seen[2:] == [(0, 0)]
    mailroom.put(other := Mailbox(), Mail({"event": "say", "task_id": "", "data": 5}, 1))
    mailroom.hold(1)
    assert not mailroom.put(other, Mail({"event": "say", "task_id": "", "data": 6}, 1))
    mailroom.release([1])
    assert seen[3:] == [(1, 1)]
