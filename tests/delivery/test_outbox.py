"""The sending side of a direction, rule by rule (docs/protocol.md)."""

from __future__ import annotations

import pytest

from session_service.delivery import Outbox
from session_service.errors import ProtocolViolation, ResumeImpossible
from session_service.window import Window

BATCH = 1000


def outbox_of(count: int, *, window: Window | None = None, size: int = 1) -> Outbox[int]:
    """Return an outbox that holds its own sequences, 1 to ``count``, nothing of it taken."""
    outbox: Outbox[int] = Outbox(window or Window())
    for sequence in range(1, count + 1):
        outbox.append(sequence, size)
    return outbox


# --- D1: sequences ---


def test_sequences_start_at_1_and_grow_by_one_d1() -> None:
    outbox: Outbox[str] = Outbox(Window())
    assert outbox.last == 0
    assert [outbox.append(item, 1) for item in "abc"] == [1, 2, 3]
    assert outbox.last == 3


def test_the_first_that_is_not_acknowledged_is_the_head_d3() -> None:
    outbox = outbox_of(2, size=7)
    assert outbox.head == (1, 7)
    outbox.take(BATCH)
    outbox.ack(1)
    assert outbox.head == (2, 7)
    outbox.ack(2)
    assert outbox.head is None


def test_a_batch_carries_the_sequence_of_its_first_element_d1() -> None:
    outbox = outbox_of(2)
    assert outbox.take(BATCH) == (1, [1, 2])
    outbox.append(3, 1)
    assert outbox.take(BATCH) == (3, [3])


def test_several_elements_at_once_are_as_many_one_after_the_other_d1() -> None:
    together, singly = outbox_of(1), outbox_of(1)
    together.extend([(2, 10), (3, 5)])
    for sequence, size in ((2, 10), (3, 5)):
        singly.append(sequence, size)
    for outbox in (together, singly):
        assert (outbox.last, outbox.unacked_size, outbox.appended_size, outbox.room()) == (
            3,
            16,
            16,
            (1021, 2**20 - 16),
        )
        assert outbox.take(BATCH) == (1, [1, 2, 3])


def test_sequences_survive_a_resume_and_are_never_used_again_d1() -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    outbox.ack(3)
    outbox.resume(3)
    assert outbox.append(4, 1) == 4
    assert outbox.take(BATCH) == (4, [4])


def test_the_last_sequence_does_not_depend_on_what_was_taken_or_replayed_d1() -> None:
    outbox = outbox_of(3)
    outbox.take(2)
    assert outbox.last == 3
    outbox.resume(0)
    assert outbox.last == 3
    assert outbox.append(4, 1) == 4


def test_what_is_unacknowledged_is_counted_whether_it_was_sent_or_not() -> None:
    outbox = outbox_of(3)
    assert outbox.unacked == 3
    outbox.take(2)
    assert outbox.unacked == 3
    outbox.ack(2)
    assert outbox.unacked == 1
    outbox.resume(2)
    assert outbox.unacked == 1
    outbox.drop()
    assert outbox.unacked == 0


# --- taking ---


def test_elements_are_taken_once_and_in_order() -> None:
    outbox = outbox_of(3)
    assert outbox.take(BATCH) == (1, [1, 2, 3])
    assert outbox.take(BATCH) == (4, [])


def test_a_batch_is_no_larger_than_asked_f7() -> None:
    outbox = outbox_of(5, size=10)
    assert outbox.take(20) == (1, [1, 2])
    assert outbox.take(29) == (3, [3, 4])
    assert outbox.take(20) == (5, [5])


def test_what_a_message_adds_to_each_element_counts_for_a_batch_and_not_for_the_window_f7() -> None:
    outbox = outbox_of(5, size=10, window=Window(100, 50))
    assert outbox.take(29, 5) == (1, [1])
    assert outbox.take(30, 5) == (2, [2, 3])
    assert outbox.take(1000, 5) == (4, [4, 5])


def test_an_element_larger_than_a_batch_comes_alone_f7() -> None:
    outbox: Outbox[int] = Outbox(Window())
    for sequence, size in enumerate((1, 50, 1), start=1):
        outbox.append(sequence, size)
    assert [outbox.take(20) for _ in range(3)] == [(1, [1]), (2, [2]), (3, [3])]


def test_an_outbox_waits_while_something_has_not_been_written() -> None:
    outbox = outbox_of(1)
    assert outbox.waiting
    outbox.take(BATCH)
    assert not outbox.waiting
    outbox.resume(0)
    assert outbox.waiting


# --- D3: acknowledgements ---


def test_an_ack_is_cumulative_d3() -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    assert outbox.ack(2) is True
    assert outbox.acked == 2
    assert not outbox.empty
    assert outbox.ack(3) is True
    assert outbox.empty


@pytest.mark.parametrize("lower", [0, 1, 2])
def test_an_ack_that_says_nothing_new_is_ignored_and_never_shrinks_what_was_acknowledged_d3(lower: int) -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    outbox.ack(2)
    assert outbox.ack(lower) is False
    assert outbox.acked == 2


def test_an_ack_beyond_what_was_sent_is_a_violation_and_changes_nothing_d3() -> None:
    outbox = outbox_of(3)
    outbox.take(2)
    with pytest.raises(ProtocolViolation) as caught:
        outbox.ack(3)
    assert caught.value.details == {"sent": "2"}
    assert outbox.acked == 0
    assert outbox.take(BATCH) == (3, [3])


def test_an_ack_from_the_future_is_a_violation_before_anything_was_sent_d3() -> None:
    with pytest.raises(ProtocolViolation):
        Outbox(Window()).ack(2**64 - 1)


def test_an_ack_speaks_only_of_what_the_current_stream_has_carried_d8() -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    outbox.resume(1)
    with pytest.raises(ProtocolViolation):
        outbox.ack(2)
    outbox.take(1)
    assert outbox.ack(2) is True


# --- D5: the window ---


def test_no_more_elements_go_out_than_the_window_lets_unacknowledged_d5() -> None:
    outbox = outbox_of(5, window=Window(messages=2, size=100))
    assert outbox.take(BATCH) == (1, [1, 2])
    assert outbox.take(BATCH) == (3, [])


def test_an_ack_makes_room_for_as_many_as_it_acknowledges_d5() -> None:
    outbox = outbox_of(5, window=Window(messages=2, size=100))
    outbox.take(BATCH)
    outbox.ack(1)
    assert outbox.take(BATCH) == (3, [3])
    outbox.ack(3)
    assert outbox.take(BATCH) == (4, [4, 5])


def test_no_more_bytes_go_out_than_the_window_lets_unacknowledged_d5() -> None:
    outbox = outbox_of(5, window=Window(messages=100, size=25), size=10)
    assert outbox.take(BATCH) == (1, [1, 2])
    outbox.ack(1)
    assert outbox.take(BATCH) == (3, [3])


def test_an_element_larger_than_the_window_goes_out_alone_once_it_is_the_first_unacknowledged_d5() -> None:
    outbox: Outbox[int] = Outbox(Window(messages=100, size=25))
    for sequence, size in enumerate((1, 50, 1), start=1):
        outbox.append(sequence, size)
    assert outbox.take(BATCH) == (1, [1])
    assert outbox.take(BATCH) == (2, [])
    outbox.ack(1)
    assert outbox.take(BATCH) == (2, [2])
    assert outbox.take(BATCH) == (3, [])
    outbox.ack(2)
    assert outbox.take(BATCH) == (3, [3])


def test_a_replay_obeys_the_window_too_d5() -> None:
    outbox = outbox_of(4, window=Window(messages=4, size=100))
    outbox.take(BATCH)
    outbox.window = Window(messages=2, size=100)
    outbox.resume(0)
    assert outbox.take(BATCH) == (1, [1, 2])
    assert outbox.take(BATCH) == (3, [])


def test_what_the_peer_has_and_did_not_acknowledge_counts_against_the_window_after_a_resume_d5() -> None:
    outbox = outbox_of(4, window=Window(messages=3, size=100))
    outbox.take(BATCH)
    outbox.resume(2)
    assert outbox.take(BATCH) == (3, [3])
    assert outbox.take(BATCH) == (4, [])


def test_sizes_are_counted_right_across_a_resume_and_an_ack_d5() -> None:
    outbox = outbox_of(4, window=Window(messages=100, size=30), size=10)
    outbox.take(BATCH)
    outbox.resume(1)
    assert outbox.room() == (96, -10)
    assert outbox.take(BATCH) == (2, [2, 3])
    outbox.ack(3)
    assert outbox.room() == (99, 20)
    assert outbox.take(BATCH) == (4, [4])
    outbox.ack(4)
    assert outbox.room() == (100, 30)


def test_whatever_is_not_acknowledged_is_kept_d5() -> None:
    outbox = outbox_of(5)
    outbox.take(BATCH)
    outbox.ack(2)
    outbox.resume(2)
    assert outbox.take(BATCH) == (3, [3, 4, 5])


def test_room_is_what_the_window_leaves_beside_all_that_is_kept_d5() -> None:
    outbox = outbox_of(3, window=Window(messages=4, size=100), size=10)
    assert outbox.room() == (1, 70)
    outbox.take(10)
    assert outbox.room() == (1, 70)
    outbox.ack(1)
    assert outbox.room() == (2, 80)


def test_room_is_below_1_when_the_window_is_full_or_has_shrunk_d5() -> None:
    outbox = outbox_of(4, window=Window(messages=4, size=40), size=10)
    assert outbox.room() == (0, 0)
    outbox.window = Window(messages=2, size=20)
    assert outbox.room() == (-2, -20)


# --- the final element: E2, D6, A7 ---


def test_the_final_element_needs_no_window_d6() -> None:
    outbox = outbox_of(2, window=Window(messages=2, size=2))
    assert outbox.append_final(3, 1) == 3
    assert outbox.take(BATCH) == (1, [1, 2, 3])


def test_the_final_element_waits_for_its_turn_behind_what_the_window_holds_back_e2() -> None:
    outbox = outbox_of(3, window=Window(messages=2, size=100))
    outbox.append_final(4, 1)
    assert outbox.take(BATCH) == (1, [1, 2])
    assert outbox.take(BATCH) == (3, [])
    assert not outbox.finished
    outbox.ack(1)
    assert outbox.take(BATCH) == (3, [3, 4])
    assert outbox.finished


def test_the_final_element_counts_against_the_size_of_a_batch_f7() -> None:
    outbox = outbox_of(2, size=10)
    outbox.append_final(3, 10)
    assert outbox.take(25) == (1, [1, 2])
    assert outbox.take(25) == (3, [3])


def test_an_outbox_is_finished_when_the_current_stream_has_carried_the_final_element_and_again_after_a_resume_e2() -> (
    None
):
    outbox = outbox_of(1)
    outbox.take(BATCH)
    assert not outbox.finished
    outbox.append_final(2, 1)
    assert not outbox.finished
    outbox.take(BATCH)
    assert outbox.finished
    outbox.resume(0)
    assert not outbox.finished
    assert outbox.take(BATCH) == (1, [1, 2])
    assert outbox.finished


def test_the_final_element_is_kept_until_it_is_acknowledged_a7() -> None:
    outbox: Outbox[str] = Outbox(Window())
    outbox.append_final("closed", 1)
    outbox.take(BATCH)
    assert not outbox.empty
    outbox.resume(0)
    assert outbox.take(BATCH) == (1, ["closed"])
    outbox.ack(1)
    assert outbox.empty


# --- A4 to A6: resuming ---


@pytest.mark.parametrize("received", [0, 1, 2, 3])
def test_a_resume_replays_what_the_peer_has_not_received_and_goes_on_live_a4(received: int) -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    outbox.resume(received)
    outbox.append(4, 1)
    assert outbox.take(BATCH) == (received + 1, list(range(received + 1, 5)))


def test_a_resume_with_everything_acknowledged_replays_nothing_a4() -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    outbox.ack(3)
    outbox.resume(3)
    assert outbox.take(BATCH) == (4, [])


def test_a_resume_before_the_first_element_works_a4() -> None:
    outbox: Outbox[int] = Outbox(Window())
    outbox.resume(0)
    outbox.append(1, 1)
    assert outbox.take(BATCH) == (1, [1])


def test_a_resume_acknowledges_nothing_d4() -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    outbox.resume(3)
    assert outbox.acked == 0
    outbox.resume(0)
    assert outbox.take(BATCH) == (1, [1, 2, 3])


def test_a_resume_below_what_is_kept_is_impossible_and_changes_nothing_a5() -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    outbox.ack(2)
    with pytest.raises(ResumeImpossible) as caught:
        outbox.resume(1)
    assert caught.value.details == {"acked": "2", "sent": "3"}
    assert (outbox.acked, outbox.sent, outbox.last) == (2, 3, 3)


def test_a_resume_above_what_was_ever_sent_is_impossible_and_changes_nothing_a5() -> None:
    outbox = outbox_of(3)
    outbox.take(2)
    with pytest.raises(ResumeImpossible):
        outbox.resume(3)
    assert outbox.take(BATCH) == (3, [3])


@pytest.mark.parametrize("received", [1, 2**64 - 1])
def test_nothing_was_received_where_nothing_was_sent_a5(received: int) -> None:
    with pytest.raises(ResumeImpossible):
        outbox_of(3).resume(received)


@pytest.mark.parametrize(("received", "possible"), [(0, False), (1, True), (2, True), (3, False)])
def test_a_resume_can_be_checked_before_anything_changes_a3(received: int, possible: bool) -> None:
    outbox = outbox_of(3)
    outbox.take(2)
    outbox.ack(1)
    if possible:
        outbox.check_resume(received)
    else:
        with pytest.raises(ResumeImpossible):
            outbox.check_resume(received)
    assert (outbox.acked, outbox.sent, outbox.last) == (1, 2, 3)


def test_a_repeated_open_gets_everything_from_1_again_a6() -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    outbox.resume(0)
    assert outbox.take(BATCH) == (1, [1, 2, 3])


def test_a_repeated_open_is_refused_once_something_was_acknowledged_a6() -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    outbox.ack(1)
    with pytest.raises(ResumeImpossible):
        outbox.resume(0)


def test_what_any_earlier_stream_carried_may_have_been_received_though_a_later_one_carried_less_a5() -> None:
    outbox = outbox_of(3)
    outbox.take(BATCH)
    outbox.resume(0)
    outbox.take(1)
    outbox.resume(2)
    assert outbox.take(BATCH) == (3, [3])
    outbox.ack(3)
    assert outbox.empty


def test_an_outbox_can_go_on_where_another_left_off() -> None:
    outbox: Outbox[int] = Outbox(Window(messages=2, size=100), acked=5)
    assert outbox.empty
    assert [outbox.append(item, 1) for item in (6, 7, 8)] == [6, 7, 8]
    assert outbox.take(BATCH) == (6, [6, 7])
    with pytest.raises(ResumeImpossible):
        outbox.check_resume(4)
    outbox.resume(5)
    assert outbox.take(BATCH) == (6, [6, 7])
