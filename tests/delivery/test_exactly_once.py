"""An outbox and an inbox joined by a link that delays and breaks: whatever happens, exactly once and in order."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from session_service.delivery import Inbox, Outbox
from session_service.window import Window

MAX_SIZE = 40
WINDOWS = st.builds(Window, messages=st.integers(1, 6), size=st.integers(1, 100))


class Link(RuleBasedStateMachine):
    """One direction of a session, its two ends honest; the elements are their own sequences.

    What the machine checks against is its own account of the rules: the sizes of all elements, what the taker took, and
    the acks that arrived.
    """

    # Whether the receiver begins a stream with what it has taken, as `resumed.received` does (D5); what it received and
    # did not take then dies with the old stream (D1a). `Resume.received` says what it received, taken or not, and
    # acknowledges nothing (D4).
    tells_taken: bool
    # Whether there is a last element: `closed` counts as the last command (E2), `close` is no event.
    has_final: bool

    @initialize(window=WINDOWS, length=st.integers(0, 15))
    def open(self, window: Window, length: int) -> None:
        self.outbox: Outbox[int] = Outbox(window)
        self.inbox: Inbox[int] = Inbox(window)
        self.up = True
        self.batches: deque[tuple[int, list[int]]] = deque()
        self.acks: deque[int] = deque()
        self.length = length
        self.sizes: list[int] = []
        self.ended = False
        self.taken: list[int] = []
        self.acked = 0
        self.largest_window = window

    # --- what the sender does ---

    def may_append(self) -> bool:
        return len(self.sizes) < self.length and min(self.outbox.room()) >= 1

    @precondition(lambda self: self.may_append())
    @rule(size=st.integers(1, MAX_SIZE))
    def append(self, size: int) -> None:
        self.sizes.append(size)
        assert self.outbox.append(len(self.sizes), size) == len(self.sizes)

    @precondition(lambda self: self.has_final and not self.ended and len(self.sizes) == self.length)
    @rule(size=st.integers(1, MAX_SIZE))
    def append_final(self, size: int) -> None:
        self.ended = True
        self.sizes.append(size)
        assert self.outbox.append_final(len(self.sizes), size) == len(self.sizes)

    @precondition(lambda self: self.up)
    @rule(batch_size=st.integers(1, 2 * MAX_SIZE))
    def write(self, batch_size: int) -> None:
        first, batch = self.outbox.take(batch_size)
        if not batch:
            return
        assert batch == list(range(first, first + len(batch)))
        assert len(batch) == 1 or self.size_of(first, batch[-1]) <= batch_size
        for sequence in batch:
            self.check_within_window(sequence)
        self.batches.append((first, batch))

    def size_of(self, first: int, last: int) -> int:
        return sum(self.sizes[first - 1 : last])

    def is_final(self, sequence: int) -> bool:
        return self.ended and sequence == len(self.sizes)

    def check_within_window(self, sequence: int) -> None:
        """D5, word by word; the final element needs no window (D6)."""
        if self.is_final(sequence):
            return
        window = self.outbox.window
        assert sequence <= self.acked + window.messages
        assert self.size_of(self.acked + 1, sequence) <= window.size or sequence == self.acked + 1

    @precondition(lambda self: self.acks)
    @rule()
    def deliver_ack(self) -> None:
        sequence = self.acks.popleft()
        assert self.outbox.ack(sequence) is (sequence > self.acked)
        self.acked = max(self.acked, sequence)
        assert self.outbox.acked == self.acked

    # --- what the receiver does ---

    @precondition(lambda self: self.batches)
    @rule()
    def deliver(self) -> None:
        first, batch = self.batches.popleft()
        for sequence in batch[self.inbox.skip(first, len(batch)) :]:
            self.inbox.put(sequence, self.sizes[sequence - 1], exempt=self.is_final(sequence))

    @precondition(lambda self: self.inbox.head)
    @rule()
    def take(self) -> None:
        assert self.inbox.head is not None
        self.taken.append(self.inbox.head[0])
        self.inbox.take()

    @precondition(lambda self: self.up and self.inbox.ack_pending)
    @rule()
    def write_ack(self) -> None:
        ack = self.inbox.ack()
        assert ack == len(self.taken)
        assert not self.inbox.ack_pending
        self.acks.append(ack)

    # --- what the link does ---

    @precondition(lambda self: self.up)
    @rule()
    def cut(self) -> None:
        self.up = False
        self.batches.clear()
        self.acks.clear()

    @precondition(lambda self: not self.up)
    @rule(window=WINDOWS, repeat_open=st.booleans())
    def resume(self, window: Window, repeat_open: bool) -> None:
        """Begin a new stream; the sender of events may have missed `opened` and say it all again (A6)."""
        self.up = True
        self.inbox.window = self.outbox.window = window
        self.largest_window = Window(
            max(self.largest_window.messages, window.messages), max(self.largest_window.size, window.size)
        )
        if self.tells_taken:
            self.inbox.drop_waiting()
        self.inbox.restart_acks(told=self.tells_taken)
        received = self.inbox.expected - 1
        if self.tells_taken and repeat_open and self.acked == 0:
            received = 0
        self.outbox.resume(received)
        if self.tells_taken:
            self.outbox.ack(received)
            self.acked = received
        assert self.outbox.acked == self.acked

    def teardown(self) -> None:
        """Progress: once the link holds and the taker takes, everything arrives and is acknowledged."""
        if not hasattr(self, "outbox"):
            return
        if not self.up:
            self.resume(self.outbox.window, repeat_open=True)
        # Each round carries one element at least, or the acks that make room for one.
        for _ in range(2 * len(self.sizes) + 2):
            self.write(MAX_SIZE)
            while self.batches:
                self.deliver()
            while self.inbox.head:
                self.take()
            if self.inbox.ack_pending:
                self.write_ack()
            while self.acks:
                self.deliver_ack()
        assert len(self.taken) == len(self.sizes)
        assert self.outbox.empty
        assert self.outbox.finished is self.ended

    # --- what holds after every step ---

    @invariant()
    def what_was_taken_is_1_to_n_in_order(self) -> None:
        assert self.taken == list(range(1, len(self.taken) + 1))
        assert self.inbox.taken == len(self.taken)

    @invariant()
    def what_is_kept_is_a_window_plus_one_at_most(self) -> None:
        kept = self.outbox.last - self.outbox.acked
        assert kept <= self.largest_window.messages + self.ended
        size = self.size_of(self.outbox.acked + 1, self.outbox.last)
        assert size < self.largest_window.size + MAX_SIZE + (self.sizes[-1] if self.ended else 0)
        waiting = self.inbox.expected - 1 - self.inbox.taken
        assert waiting <= self.largest_window.messages + self.ended

    @invariant()
    def no_ack_exceeds_what_was_taken(self) -> None:
        assert self.outbox.acked <= len(self.taken)
        assert all(ack <= len(self.taken) for ack in self.acks)

    @invariant()
    def the_outbox_counts_what_was_appended(self) -> None:
        assert self.outbox.last == len(self.sizes)
        assert self.outbox.empty is (self.acked == len(self.sizes))


class CommandLink(Link):
    """Commands: the client says what it has received, which acknowledges nothing (D4)."""

    tells_taken = False
    has_final = True


class EventLink(Link):
    """Events: the server says what it has taken over, which acknowledges it (D5)."""

    tells_taken = True
    has_final = False


SETTINGS = settings(max_examples=300, stateful_step_count=30, deadline=None, report_multiple_bugs=False)

TestCommandsArriveExactlyOnceAndInOrder = CommandLink.TestCase
TestCommandsArriveExactlyOnceAndInOrder.settings = SETTINGS
TestEventsArriveExactlyOnceAndInOrder = EventLink.TestCase
TestEventsArriveExactlyOnceAndInOrder.settings = SETTINGS
