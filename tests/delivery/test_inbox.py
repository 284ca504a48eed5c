"""The receiving side of a direction, rule by rule (docs/protocol.md)."""

from __future__ import annotations

import pytest

from session_service.delivery import Inbox
from session_service.errors import SequenceGap, WindowExceeded
from session_service.window import Window


def inbox_of(count: int, *, taken: int = 0, window: Window | None = None) -> Inbox[int]:
    """Return an inbox that received the sequences 1 to ``count``, one byte each, the first ``taken`` taken over."""
    inbox: Inbox[int] = Inbox(window or Window())
    for sequence in range(1, count + 1):
        inbox.put(sequence, 1)
    for _ in range(taken):
        inbox.take()
    return inbox


def test_sequences_are_expected_from_1_on_d1() -> None:
    inbox: Inbox[int] = Inbox(Window())
    assert inbox.expected == 1
    assert inbox.skip(1, 1) == 0


def test_what_was_received_is_no_longer_expected_whether_it_was_taken_over_or_not_d2() -> None:
    assert inbox_of(3).expected == 4
    assert inbox_of(3, taken=2).expected == 4


def test_elements_are_taken_over_in_the_order_they_came_in_d1a() -> None:
    inbox = inbox_of(2)
    assert inbox.head == (1, 1)
    assert inbox.head == (1, 1)
    inbox.take()
    assert inbox.taken == 1
    assert inbox.head == (2, 1)
    inbox.take()
    assert inbox.taken == 2
    assert inbox.head is None


# --- D2: duplicates and gaps ---


@pytest.mark.parametrize(
    ("first", "count", "skipped"),
    [
        pytest.param(4, 2, 0, id="all new"),
        pytest.param(3, 2, 1, id="overlapping"),
        pytest.param(1, 5, 3, id="everything from the first on"),
        pytest.param(1, 2, 2, id="all old"),
        pytest.param(1, 3, 3, id="exactly what is there"),
    ],
)
def test_elements_that_came_before_are_dropped_d2(first: int, count: int, skipped: int) -> None:
    assert inbox_of(3, taken=1).skip(first, count) == skipped


@pytest.mark.parametrize("first", [5, 6, 2**64 - 1])
def test_a_gap_is_refused_with_the_sequence_that_was_expected_d2(first: int) -> None:
    inbox = inbox_of(3, taken=1)
    with pytest.raises(SequenceGap) as caught:
        inbox.skip(first, 1)
    assert caught.value.expected == 4
    assert caught.value.details == {"expected": "4"}
    assert inbox.expected == 4


def test_a_dropped_element_is_acknowledged_again_d2() -> None:
    inbox = inbox_of(3, taken=3)
    inbox.ack()
    assert not inbox.ack_pending
    inbox.skip(3, 1)
    assert inbox.ack_pending
    assert inbox.ack() == 3
    assert not inbox.ack_pending


def test_a_new_element_asks_for_no_ack_before_it_is_taken_over_d4() -> None:
    inbox: Inbox[int] = Inbox(Window())
    inbox.skip(1, 1)
    inbox.put(1, 1)
    assert not inbox.ack_pending


# --- D3, D4: acknowledgements ---


def test_only_what_was_taken_over_is_acknowledged_d4() -> None:
    inbox = inbox_of(3)
    assert inbox.ack() == 0
    inbox.take()
    assert inbox.ack_pending
    assert inbox.ack() == 1


def test_an_ack_is_said_once_d3() -> None:
    inbox = inbox_of(1, taken=1)
    inbox.ack()
    assert not inbox.ack_pending
    assert not inbox.ack_due


def test_an_ack_is_due_when_a_quarter_of_the_elements_of_the_window_is_unacknowledged_d3() -> None:
    inbox = inbox_of(3, window=Window(messages=12, size=1000))
    inbox.take()
    inbox.take()
    assert not inbox.ack_due
    inbox.take()
    assert inbox.ack_due
    inbox.ack()
    assert not inbox.ack_due


def test_an_ack_is_due_when_a_quarter_of_the_bytes_of_the_window_is_unacknowledged_d3() -> None:
    inbox: Inbox[int] = Inbox(Window(messages=1000, size=100))
    inbox.put(1, 24)
    inbox.put(2, 1)
    inbox.take()
    assert not inbox.ack_due
    inbox.take()
    assert inbox.ack_due
    inbox.ack()
    assert not inbox.ack_due


def test_every_ack_is_due_at_once_where_the_window_is_one_element_d3() -> None:
    assert inbox_of(1, taken=1, window=Window(messages=1, size=1000)).ack_due


# --- D5: the window ---


def test_elements_beyond_the_granted_number_are_refused_d5() -> None:
    inbox = inbox_of(2, window=Window(messages=2, size=1000))
    with pytest.raises(WindowExceeded):
        inbox.put(3, 1)
    assert inbox.expected == 3


def test_elements_beyond_the_granted_bytes_are_refused_d5() -> None:
    inbox: Inbox[int] = Inbox(Window(messages=100, size=10))
    inbox.put(1, 6)
    with pytest.raises(WindowExceeded):
        inbox.put(2, 5)
    inbox.put(2, 4)
    assert inbox.expected == 3


def test_one_element_may_be_larger_than_the_window_d5() -> None:
    inbox: Inbox[int] = Inbox(Window(messages=100, size=10))
    inbox.put(1, 1000)
    assert inbox.head == (1, 1000)
    with pytest.raises(WindowExceeded):
        inbox.put(2, 1)


def test_taking_over_makes_room_again_d5() -> None:
    inbox = inbox_of(2, taken=1, window=Window(messages=2, size=2))
    inbox.put(3, 1)
    assert inbox.expected == 4


def test_an_inbox_knows_the_size_of_what_waits() -> None:
    inbox = inbox_of(3, taken=1)
    inbox.put(4, 1000)
    assert inbox.waiting_size == 1002
    inbox.take()
    assert inbox.waiting_size == 1001


def test_nothing_is_taken_over_that_has_not_come() -> None:
    with pytest.raises(IndexError, match="nothing waits"):
        inbox_of(1, taken=1).take()


def test_no_element_at_all_is_no_duplicate_wherever_it_would_begin_d2() -> None:
    inbox = inbox_of(3, taken=3)
    inbox.ack()
    assert inbox.skip(2, 0) == 0
    assert inbox.duplicates == 0
    assert not inbox.ack_pending


def test_an_inbox_has_room_until_a_window_s_worth_waits_p4() -> None:
    inbox: Inbox[int] = Inbox(Window(messages=2, size=10))
    inbox.put(1, 1)
    assert inbox.has_room
    inbox.put(2, 1)
    assert not inbox.has_room
    inbox.take()
    assert inbox.has_room
    inbox.put(3, 9)
    assert not inbox.has_room


def test_an_element_that_needs_no_window_is_kept_beyond_it_d6() -> None:
    inbox = inbox_of(2, window=Window(messages=2, size=2))
    inbox.put(3, 5, exempt=True)
    assert inbox.expected == 4
    with pytest.raises(WindowExceeded):
        inbox.put(4, 0)


# --- D1a: the end of a stream ---


def test_what_was_received_and_not_taken_over_can_be_dropped_d1a() -> None:
    inbox = inbox_of(3, taken=1)
    inbox.drop_waiting()
    assert inbox.head is None
    assert (inbox.taken, inbox.expected) == (1, 2)


def test_what_was_dropped_is_not_acknowledged_and_is_received_again_d1a() -> None:
    inbox = inbox_of(3, taken=1)
    inbox.drop_waiting()
    assert inbox.ack() == 1
    assert inbox.skip(2, 2) == 0
    inbox.put(2, 1)
    inbox.put(3, 1)
    inbox.take()
    inbox.take()
    assert inbox.taken == 3


def test_what_was_dropped_leaves_its_room_d1a() -> None:
    inbox = inbox_of(2, window=Window(messages=2, size=2))
    inbox.drop_waiting()
    assert inbox.has_room
    inbox.put(1, 2)
    assert inbox.head == (1, 2)


# --- D4: acknowledgements on a new stream ---


@pytest.mark.parametrize("acked_on_the_old_stream", [False, True])
def test_a_new_stream_that_does_not_tell_what_was_taken_acknowledges_it_again_d4(acked_on_the_old_stream: bool) -> None:
    # `Resume.received` acknowledges nothing, and the old stream may have lost its last ack: were it not said again, a
    # peer with a full window would wait for ever.
    inbox = inbox_of(2, taken=2, window=Window(messages=2, size=1000))
    if acked_on_the_old_stream:
        inbox.ack()
    inbox.restart_acks(heard=2, told=0)
    assert inbox.ack_pending
    assert inbox.ack() == 2
    assert not inbox.ack_pending


def test_a_new_stream_that_begins_with_what_was_taken_need_not_acknowledge_it_d5() -> None:
    inbox = inbox_of(3, taken=3, window=Window(messages=4, size=4))
    inbox.skip(1, 1)
    inbox.restart_acks(heard=3, told=3)
    assert not inbox.ack_pending
    assert not inbox.ack_due


def test_a_new_stream_has_nothing_to_acknowledge_where_nothing_was_taken_d4() -> None:
    inbox = inbox_of(2)
    inbox.restart_acks(heard=2, told=0)
    assert not inbox.ack_pending


def test_an_ack_covers_only_what_its_own_stream_has_brought_d8() -> None:
    inbox = inbox_of(3, taken=3)
    inbox.restart_acks(heard=0, told=0)  # `opened`, again, names nothing
    assert not inbox.ack_pending
    assert inbox.skip(1, 1) == 1
    assert inbox.ack() == 1
    assert inbox.skip(2, 2) == 2
    assert inbox.ack() == 3


def test_acks_go_on_as_usual_on_a_new_stream_d3() -> None:
    inbox = inbox_of(3, taken=2, window=Window(messages=4, size=100))
    inbox.restart_acks(heard=3, told=2)
    inbox.take()
    assert inbox.ack_pending
    assert inbox.ack_due
    assert inbox.ack() == 3


def test_an_inbox_can_go_on_where_another_left_off() -> None:
    inbox: Inbox[int] = Inbox(Window(), taken=5)
    assert (inbox.taken, inbox.expected) == (5, 6)
    assert not inbox.ack_pending
    assert inbox.skip(4, 3) == 2
