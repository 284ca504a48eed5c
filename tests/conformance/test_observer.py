"""The observer of the wire knows what no client may ever do; each rule has a message that is against it."""

from __future__ import annotations

from typing import Any

import pytest
from session_conformance.matching import fill
from session_conformance.observer import Observer, Stream

from session_service.v1 import session_pb2 as pb

OPEN = {"open": {"app": "echo", "resumable": True, "request_id": "a-request-id-of-some-length", "client_id": "c"}}
RESUME = {"resume": {"session_id": "s", "resume_token": "t", "client_id": "c"}}
OPENED = {"opened": {"session_id": "s", "resume_token": "t", "limits": {"max_message_bytes": 4000000}}}


class Wire:
    """What passes, shortly written.

    Attributes:
        observer: who sees it.
        stream: the current one.
    """

    def __init__(self) -> None:
        self.observer = Observer()
        self.observer.on_open()
        self.stream: Stream

    def begin(self, literal: Any) -> None:
        self.stream = self.observer.begin({})
        self.up(literal)

    def up(self, literal: Any) -> None:
        self.observer.on_request(self.stream, fill(pb.AttachRequest(), literal))

    def down(self, literal: Any) -> None:
        self.observer.on_response(self.stream, fill(pb.AttachResponse(), literal))

    def open(self, **limits: Any) -> None:
        self.begin(OPEN)
        self.down({"opened": {**OPENED["opened"], "limits": limits}})
        self.observer.on_opened()

    def resume(self, received: int = 0, resumed: int = 0) -> None:
        self.observer.on_cancel(self.stream)
        self.begin({"resume": {**RESUME["resume"], "received": received}})
        self.down({"resumed": {"received": resumed}})

    def half_close(self) -> None:
        self.observer.on_half_close(self.stream)
        self.observer.confirm_half_close(self.stream)

    @property
    def broken(self) -> list[str]:
        return [violation.partition(":")[0] for violation in self.observer.violations]


@pytest.fixture
def wire() -> Wire:
    return Wire()


def events(first: int, *values: Any) -> dict[str, Any]:
    return {"events": [{"event": "say", "value": value} for value in values], "first_sequence": first}


def commands(first: int, count: int) -> dict[str, Any]:
    return {"commands": [{"command": "c"}] * count, "first_sequence": first}


def test_a_client_that_keeps_the_rules_breaks_none(wire: Wire) -> None:
    wire.open()
    wire.up(events(1, "one", "two"))
    wire.down({**commands(1, 3), "ack": 1})
    wire.observer.on_receive(2)
    wire.up({"ack": 1})
    wire.observer.on_received(2, 2)
    wire.up({})
    wire.resume(received=3, resumed=1)
    wire.up({**events(2, "two", "three"), "ack": 1})
    wire.observer.on_close()
    wire.up({"close": {}, "ack": 3})
    wire.down({"closed": {"sequence": 4}})
    wire.up({"ack": 4})
    wire.half_close()
    assert wire.broken == []


def test_f0_a_call_has_no_deadline(wire: Wire) -> None:
    wire.observer.begin({}, has_deadline=True)
    assert wire.broken == ["F0"]


def test_f1_and_f2_open_or_resume_comes_first_and_once(wire: Wire) -> None:
    wire.begin({})
    wire.up(OPEN)
    assert wire.broken == ["F1", "F2"]


def test_f6_events_have_a_sequence(wire: Wire) -> None:
    wire.open()
    wire.up(events(0, "one"))
    assert wire.broken == ["F6"]


def test_f7_requests_are_no_larger_than_allowed(wire: Wire) -> None:
    wire.open(max_message_bytes=1000)
    wire.up(events(1, "x" * 1000))
    assert wire.broken == ["F7"]


def test_f7_batches_are_cut(wire: Wire) -> None:
    wire.open()
    wire.up(events(1, *["x" * 200_000] * 2))
    assert wire.broken == ["F7"]


def test_p1_a_plain_open_has_no_request_id(wire: Wire) -> None:
    wire.begin({"open": {"app": "echo", "request_id": "a-request-id-of-some-length"}})
    assert wire.broken == ["P1"]


def test_a_plain_client_keeps_no_sequences(wire: Wire) -> None:
    wire.begin({"open": {"app": "echo"}})
    wire.down({"opened": {"limits": {"event_window": {"messages": 1, "bytes": 1}}}})
    wire.up(events(0, "one", "two"))
    wire.half_close()
    assert wire.broken == []
    assert wire.stream.last_event == 2


@pytest.mark.parametrize(
    "second",
    [events(3, "three"), events(1, "one"), events(2, "two", "three") | {"first_sequence": 9}],
    ids=["gap", "again", "leap"],
)
def test_d1_sequences_are_contiguous(wire: Wire, second: Any) -> None:
    wire.open()
    wire.up(events(1, "one"))
    wire.up(second)
    assert wire.broken[:1] == ["D1"]


def test_d1_a_stream_begins_with_the_event_that_is_due(wire: Wire) -> None:
    wire.open()
    wire.up(events(1, "one", "two"))
    wire.resume(resumed=0)
    wire.up(events(2, "two"))
    assert wire.broken == ["D1"]


def test_d1_an_event_that_is_sent_again_is_the_same(wire: Wire) -> None:
    wire.open()
    wire.up(events(1, "one"))
    wire.resume()
    wire.up(events(1, "another one"))
    assert wire.broken == ["D1"]


def test_d1_what_a_dead_process_sent_is_free_again(wire: Wire) -> None:
    wire.open()
    wire.up(events(1, "one", "two"))
    wire.observer.on_resume(0)
    wire.resume(resumed=1)
    wire.up(events(2, "another two"))
    assert wire.broken == []


def test_d3_an_ack_never_shrinks(wire: Wire) -> None:
    wire.open()
    wire.down(commands(1, 3))
    wire.observer.on_receive(0)
    wire.up({"ack": 2})
    wire.up({"ack": 1})
    assert wire.broken == ["D3"]


def test_d4_an_ack_waits_for_the_application(wire: Wire) -> None:
    wire.open()
    wire.down(commands(1, 3))
    wire.observer.on_receive(2)
    wire.observer.on_received(2, 2)
    wire.up({"ack": 1})
    wire.up({"ack": 2})
    assert wire.broken == ["D4"]


def test_d4_what_was_taken_before_a_detach_is_done_with(wire: Wire) -> None:
    wire.open()
    wire.down(commands(1, 3))
    wire.observer.on_receive(2)
    wire.observer.on_received(2, 2)
    wire.observer.on_release()
    wire.up({"ack": 2})
    assert wire.broken == []


def test_d4_closed_is_acknowledged_before_the_client_leaves(wire: Wire) -> None:
    wire.open()
    wire.down({"closed": {"sequence": 1}})
    wire.half_close()
    assert wire.broken == ["D4"]


def test_d5_events_keep_to_the_window(wire: Wire) -> None:
    wire.open(event_window={"messages": 16, "bytes": 65536})
    wire.up(events(1, *range(16)))
    wire.down({"ack": 1})
    wire.up(events(17, "one more"))
    assert wire.broken == []
    wire.up(events(18, "too many"))
    assert wire.broken == ["D5"]


def test_d5_sizes_keep_to_the_window(wire: Wire) -> None:
    wire.open(event_window={"messages": 16, "bytes": 65536})
    wire.up(events(1, "x" * 40_000))
    wire.up(events(2, "x" * 40_000))
    assert wire.broken == ["D5"]


def test_d5_a_large_event_goes_alone(wire: Wire) -> None:
    wire.open(event_window={"messages": 16, "bytes": 65536})
    wire.up(events(1, "x" * 80_000))
    assert wire.broken == []


def test_d5_before_its_limits_a_client_keeps_to_the_least_that_is_granted(wire: Wire) -> None:
    wire.begin({**OPEN, **events(1, *range(17))})
    assert wire.broken == ["D5"]


def test_d7a_a_session_that_was_opened_is_never_opened_again(wire: Wire) -> None:
    wire.open()
    wire.observer.on_cancel(wire.stream)
    wire.begin(OPEN)
    assert wire.broken == ["D7a"]


def test_d8_an_ack_covers_what_its_stream_has_brought(wire: Wire) -> None:
    wire.open()
    wire.down(commands(1, 3))
    wire.observer.on_receive(0)
    wire.resume(received=1)
    wire.up({"ack": 3})
    assert wire.broken == ["D8"]


def test_a1_a_resumable_client_half_closes_only_after_closed(wire: Wire) -> None:
    wire.open()
    wire.observer.on_half_close(wire.stream)
    assert wire.broken == []  # it may be the beginning of a cancellation
    wire.observer.confirm_half_close(wire.stream)
    assert wire.broken == ["A1"]


def test_a1_a_client_that_has_acknowledged_closed_may_half_close_the_next_stream(wire: Wire) -> None:
    wire.open()
    wire.observer.on_receive(0)
    wire.down({"closed": {"sequence": 1}})
    wire.resume(received=1)
    wire.up({"ack": 1})
    wire.half_close()
    assert wire.broken == []


def test_e2_a_client_half_closes_when_it_sees_failed(wire: Wire) -> None:
    wire.open()
    wire.down({"failed": {}})
    wire.half_close()
    assert wire.broken == []


@pytest.mark.parametrize(("close", "broken"), [({"close": {"now": True}}, []), ({}, ["A1"])])
def test_a6_an_open_that_is_given_up_is_closed_and_half_closed(wire: Wire, close: Any, broken: list[str]) -> None:
    wire.begin(OPEN)
    wire.observer.on_give_up()
    wire.up(close)
    wire.half_close()
    assert wire.broken == broken


def test_a2_a_resume_names_the_session_and_its_token(wire: Wire) -> None:
    wire.open()
    wire.begin({"resume": {**RESUME["resume"], "resume_token": "guess"}})
    assert wire.broken == ["A2"]


def test_a3_a_client_keeps_its_client_id(wire: Wire) -> None:
    wire.open()
    wire.begin({"resume": {**RESUME["resume"], "client_id": "d"}})
    wire.begin({"resume": {**RESUME["resume"], "client_id": ""}})
    assert wire.broken == ["A3", "A3"]


def test_a3_a_client_has_one_stream(wire: Wire) -> None:
    wire.open()
    wire.begin(RESUME)
    wire.observer.check_alone(wire.stream)
    assert wire.broken == ["A3"]


@pytest.mark.parametrize("received", [0, 4])
def test_a5_a_resume_goes_on_between_the_ack_and_the_last_command(wire: Wire, received: int) -> None:
    wire.open()
    wire.down(commands(1, 3))
    wire.observer.on_receive(2)
    wire.up({"ack": 1})
    wire.resume(received=received)
    assert wire.broken == ["A5"]


@pytest.mark.parametrize("change", [{"request_id": "another-request-id-of-some-length"}, {"app": "greet"}])
def test_a6_an_open_is_repeated_as_it_was(wire: Wire, change: Any) -> None:
    wire.begin(OPEN)
    wire.observer.on_cancel(wire.stream)
    wire.begin({"open": {**OPEN["open"], **change}})
    assert wire.broken == ["A6"]


def test_a6_a_request_id_is_long(wire: Wire) -> None:
    wire.begin({"open": {**OPEN["open"], "request_id": "short"}})
    assert wire.broken == ["A6"]


def test_e1_events_do_not_follow_a_close(wire: Wire) -> None:
    wire.open()
    wire.up({**events(1, "one"), "close": {}})
    wire.up(events(2, "two"))
    assert wire.broken == ["E1"]


def test_d3_an_ack_that_an_older_stream_still_brings_is_no_step_back(wire: Wire) -> None:
    wire.open()
    wire.down(commands(1, 2))
    wire.observer.on_receive(0)
    older = wire.stream
    wire.resume(received=2)
    wire.up({"ack": 2})
    newer, wire.stream = wire.stream, older
    wire.up({"ack": 1})
    assert wire.broken == []

    wire.stream = newer
    wire.up({"ack": 1})
    assert wire.broken == ["D3"]
