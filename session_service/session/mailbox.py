"""The events that wait for tasks, and the tasks that wait for events."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypedDict

from ..window import Window
from .stopwatch import Stopwatch
from .waiter import LoopWaiter, ThreadWaiter, Waiter

__all__ = ["ClientEvent", "Mail", "Mailbox", "Mailroom"]


class ClientEvent(TypedDict):
    """An event as an app gets it.

    Attributes:
        event: its name.
        task_id: the task that it is for.
        data: a JSON value, ``bytes`` or a protobuf message.
    """

    event: str
    task_id: str
    data: Any


class Mail(NamedTuple):
    """An event as a task takes it, and its size in bytes."""

    event: ClientEvent
    size: int


class Asker(Protocol):
    """Who waits for an event; in place of a function, which would be made for each wait."""

    def end_of_events(self) -> BaseException:
        """Return what to raise where no event will come."""


class Mailbox:
    """One task's line of events and line of those who wait for them; the mailroom's lock guards both.

    Waiters are served in the order of waiting. An event stays in the mailbox until its waiter really runs, so a wait
    that is cancelled takes none, even in the turn in which one arrived: the first ``len(events)`` waiters are the ones
    that have been woken, always, whoever joins or leaves.

    Attributes:
        events: what waits.
        waiters: who waits.
        ended: no event comes any more (E1); those that are here can still be taken.
        closed: nothing can be taken any more.
    """

    __slots__ = ("closed", "ended", "events", "waiters")

    def __init__(self, ended: bool = False) -> None:
        self.events: deque[Mail] | tuple[()] = ()  # an empty deque takes 760 bytes
        self.waiters: list[Waiter] = []
        self.ended = ended
        self.closed = False

    @property
    def ready(self) -> bool:
        """True when a newcomer need not wait: there is an event for it, or there never will be one."""
        return self.closed or len(self.events) > len(self.waiters) or (self.ended and not self.events)

    @property
    def over(self) -> bool:
        """True when nothing is here and nothing will come: who asks could know."""
        return self.closed or (self.ended and not self.events)

    def wake(self) -> None:
        if self.ended and not self.events:
            for waiter in self.waiters:
                waiter.wake()
        else:
            for waiter, _ in zip(self.waiters, self.events, strict=False):
                waiter.wake()


class Mailroom:
    """All mailboxes of a session: they share one window, which clicks that wait for their callback share with them.

    No other code runs under the lock: neither what is told of room, nor what observes the stopwatch.

    Attributes:
        window: what they hold together at most.
        on_room: called once after each refusal, when half of the window is free.
        stalls: how often they were full when something came.
        dropped: how many events came for no task, or were left in mailboxes that closed.
        stopwatch: times how long mail waits to be taken, and clicks to be run; None where nobody wants to know.
    """

    __slots__ = (
        "_held",
        "_held_size",
        "_lock",
        "_loop",
        "_room_wanted",
        "dropped",
        "on_room",
        "stalls",
        "stopwatch",
        "window",
    )

    def __init__(self, window: Window, on_room: Callable[[], None]) -> None:
        self.window = window
        self.on_room = on_room
        self._lock = threading.Lock()
        self._held = 0
        self._held_size = 0
        self._room_wanted = False
        self.stalls = 0
        self.dropped = 0
        self.stopwatch: Stopwatch | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the one of whoever waits on a loop: there is but one

    def hold(self, size: int) -> bool:
        """Count something that has to wait; return False where the window is full."""
        with self._lock:
            return self._hold(size)

    def release(self, sizes: list[int]) -> None:
        """Count no longer what `hold` counted."""
        with self._lock:
            self._held -= len(sizes)
            self._held_size -= sum(sizes)
        if self._room_wanted:
            self._offer_room()

    @property
    def held(self) -> tuple[int, int]:
        """How much counts against the window: events, and their bytes."""
        with self._lock:
            return self._held, self._held_size

    def put(self, mailbox: Mailbox, mail: Mail) -> bool:
        """Deliver an event; return False where the window is full."""
        with self._lock:
            if not self._hold(mail.size):
                return False
            if self.stopwatch is not None and self.stopwatch.item is None:
                self.stopwatch.start(mail)
            events, waiters = mailbox.events, mailbox.waiters
            if not events:
                events = mailbox.events = deque()
            events.append(mail)
            if len(events) <= len(waiters):
                waiters[len(events) - 1].wake()  # those before it have been woken
            return True

    async def next_on_loop(self, mailbox: Mailbox, asker: Asker | None = None) -> ClientEvent | None:
        """Wait for the next event.

        Args:
            mailbox: whose.
            asker: is asked what to raise where there will never be one.

        Returns:
            None where there will never be one, and nobody says what to raise.
        """
        waiter = None
        with self._lock:
            if (mailbox.events or mailbox.ended or mailbox.closed) and mailbox.ready:
                mail = self._take(mailbox, len(mailbox.waiters))
            else:
                if self._loop is None:
                    self._loop = asyncio.get_running_loop()
                waiter = LoopWaiter(self._loop)
                mailbox.waiters.append(waiter)
        if waiter is not None:
            try:
                await waiter.future
            except BaseException:
                self._leave(mailbox, waiter)
                raise
            mail = self._take_in_turn(mailbox, waiter)
        if mail is None:
            if asker is not None:
                raise asker.end_of_events()
            return None
        if self._room_wanted or self.stopwatch is not None:
            self._taken(mail)
        return mail.event

    def next_in_thread(self, mailbox: Mailbox, timeout: float | None) -> ClientEvent | None:
        """Block for the next event, like `next_on_loop`; TimeoutError after ``timeout`` seconds."""
        waiter = None
        with self._lock:
            if mailbox.ready:
                mail = self._take(mailbox, len(mailbox.waiters))
            else:
                waiter = ThreadWaiter()
                mailbox.waiters.append(waiter)
        if waiter is not None:
            try:
                if not waiter.wait(timeout):
                    raise TimeoutError(f"no event within {timeout} s")
            except BaseException:
                self._leave(mailbox, waiter)
                raise
            mail = self._take_in_turn(mailbox, waiter)
        if mail is None:
            return None
        if self._room_wanted or self.stopwatch is not None:
            self._taken(mail)
        return mail.event

    def end(self, mailbox: Mailbox) -> None:
        """No event comes any more."""
        with self._lock:
            mailbox.ended = True
            mailbox.wake()

    def close(self, mailbox: Mailbox) -> None:
        """End it at once; the events that nobody took are dropped."""
        with self._lock:
            left = len(mailbox.events)
            self._held -= left
            self._held_size -= sum(size for _, size in mailbox.events)
            self.dropped += left
            mailbox.events = ()
            mailbox.closed = mailbox.ended = True
            mailbox.wake()
        if left:
            if self.stopwatch is not None:
                self.stopwatch.give_up()  # it may be among them
            if self._room_wanted:
                self._offer_room()

    def _take(self, mailbox: Mailbox, place: int) -> Mail | None:
        """Take what is due to the waiter at ``place`` in the line: one behind another may run first."""
        events = mailbox.events
        if not events or place >= len(events):
            return None
        mail = events[place]
        del events[place]  # most often the first
        if not events:
            mailbox.events = ()
        self._held -= 1
        self._held_size -= mail.size
        return mail

    def _take_in_turn(self, mailbox: Mailbox, waiter: Waiter) -> Mail | None:
        """Leave the line with what is due to a waiter that was woken."""
        with self._lock:
            place = mailbox.waiters.index(waiter)
            del mailbox.waiters[place]
            mail = self._take(mailbox, place)
            if mailbox.ended:
                mailbox.wake()  # those behind it may have waited for this event to be the last
            return mail

    def _taken(self, mail: Mail) -> None:
        """Tell who wants to know; the lock is free again."""
        if self._room_wanted:
            self._offer_room()
        stopwatch = self.stopwatch
        if stopwatch is not None and stopwatch.item is mail:
            stopwatch.stop()

    def _leave(self, mailbox: Mailbox, waiter: Waiter) -> None:
        with self._lock:
            mailbox.waiters.remove(waiter)
            mailbox.wake()

    def _hold(self, size: int) -> bool:
        if self._held and not self.window.fits(self._held, self._held_size, size):
            if not self._room_wanted:
                self.stalls += 1
            self._room_wanted = True
            return False
        self._held += 1
        self._held_size += size
        return True

    def _offer_room(self) -> None:
        with self._lock:
            half = self._held * 2 <= self.window.messages and self._held_size * 2 <= self.window.size
            if not half or not self._room_wanted:
                return
            self._room_wanted = False
        self.on_room()
