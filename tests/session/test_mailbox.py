"""The mailroom alone: whatever order things happen in, events go to those who waited first, and none is lost."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from session_service import Window
from session_service.session.mailbox import ClientEvent, Mail, Mailbox, Mailroom


class MailboxMachine(RuleBasedStateMachine):
    """One mailbox on a loop of its own; several things may happen in one turn of the loop."""

    window = Window(messages=4, size=100)

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.rooms = 0
        self.rooms_before = 0
        self.refused = False
        self.subject = Mailroom(self.window, self.on_room)
        self.mailbox = Mailbox()
        self.number = 0
        self.sizes: dict[int, int] = {}
        self.put_events: list[int] = []
        self.waits: list[asyncio.Task[ClientEvent | None]] = []
        self.ended = self.closed = False

    def on_room(self) -> None:
        self.rooms += 1

    def turn(self) -> None:
        async def several() -> None:
            for _ in range(3):
                await asyncio.sleep(0)

        self.loop.run_until_complete(several())

    def teardown(self) -> None:
        self.subject.close(self.mailbox)
        self.turn()
        assert all(wait.done() for wait in self.waits), "a close leaves nobody waiting"
        assert self.subject.held == (0, 0)
        assert not self.mailbox.waiters
        self.loop.close()

    @precondition(lambda self: not self.ended)
    @rule(size=st.integers(0, 150))
    def put(self, size: int) -> None:
        self.number += 1
        if self.subject.put(self.mailbox, Mail({"event": "", "task_id": "", "data": self.number}, size)):
            self.put_events.append(self.number)
            self.sizes[self.number] = size
        else:
            assert self.mailbox.events, "there is always room for a first one"
            self.refused = True

    @rule()
    def wait(self) -> None:
        self.waits.append(self.loop.create_task(self.subject.next_on_loop(self.mailbox)))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiting = [wait for wait in self.waits if not wait.done()]
        if waiting:
            data.draw(st.sampled_from(waiting)).cancel()

    @rule()
    def let_run(self) -> None:
        self.turn()
        waiting = [wait for wait in self.waits if not wait.done()]
        assert not (waiting and self.mailbox.events), "nobody waits beside an event"
        assert not (waiting and self.ended), "nobody waits for what never comes"
        assert len(self.mailbox.waiters) == len(waiting)

    @precondition(lambda self: not self.ended)
    @rule()
    def end(self) -> None:
        self.subject.end(self.mailbox)
        self.ended = True

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        self.subject.close(self.mailbox)
        self.ended = self.closed = True

    @invariant()
    def events_go_to_those_who_waited_first(self) -> None:
        results: list[Any] = [wait.result() for wait in self.waits if wait.done() and not wait.cancelled()]
        got = [event["data"] for event in results if event is not None]
        assert got == sorted(got)
        assert set(got) <= set(self.put_events)
        if not self.closed:
            assert got + [mail.event["data"] for mail in self.mailbox.events] == self.put_events, "none is lost"
            assert None not in results or self.ended

    @invariant()
    def the_window_holds(self) -> None:
        held = [mail.size for mail in self.mailbox.events]
        assert self.subject.held == (len(held), sum(held))
        assert len(held) <= self.window.messages
        assert sum(held) <= self.window.size or len(held) == 1

    @invariant()
    def a_refusal_is_made_good_once_and_at_the_latest_when_nothing_is_held(self) -> None:
        if self.rooms > self.rooms_before:
            assert self.rooms == self.rooms_before + 1
            assert self.refused, "nothing was refused"
            self.rooms_before, self.refused = self.rooms, False
        assert self.mailbox.events or not self.refused


TestMailbox = MailboxMachine.TestCase
