"""The sans-IO core of the client: what it writes, and what it makes of responses."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest
from google.protobuf import duration_pb2, wrappers_pb2
from google.protobuf.message import DecodeError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from session_client import CloseReason, Command, Position
from session_client.conversation import Closed, Conversation

from session_service import Window
from session_service.delivery import Inbox, Outbox
from session_service.errors import PayloadError, ProtocolViolation, ResumeImpossible, SequenceGap, WindowExceeded
from session_service.payload import encode_closed
from session_service.v1 import session_pb2 as pb

JSON = pb.PAYLOAD_FORMAT_JSON


def conversation(resumable: bool = True, *, window: Window | None = None) -> Conversation:
    opening = pb.Open(app="app", resumable=resumable, command_format=JSON)
    if resumable:
        opening.request_id, opening.client_id = "request-0123456789", "client"
    return Conversation(opening, None, window or Window())


def adopted(received: int = 0, sent: int = 0) -> Conversation:
    return Conversation(None, Position("s-1", "token", received, sent), Window())


def limits(events: Window | None = None, commands: Window | None = None, max_message: int = 4_000_000) -> pb.Limits:
    events, commands = events or Window(), commands or Window()
    return pb.Limits(
        event_window=pb.Window(messages=events.messages, bytes=events.size),
        command_window=pb.Window(messages=commands.messages, bytes=commands.size),
        max_message_bytes=max_message,
        heartbeat_interval=duration_pb2.Duration(seconds=7, nanos=500_000_000),
    )


def receive(client: Conversation, **fields: Any) -> None:
    client.receive(pb.AttachResponse(**fields).SerializeToString())


def open_(client: Conversation, **granted: Any) -> pb.AttachRequest:
    """Begin the first stream, answered."""
    request = pb.AttachRequest.FromString(client.first_request())
    receive(client, opened=pb.Opened(session_id="s-1", resume_token="token", limits=limits(**granted)))
    return request


def resume(client: Conversation, received: int = 0, **granted: Any) -> pb.AttachRequest:
    """Begin a later stream, answered."""
    request = pb.AttachRequest.FromString(client.first_request())
    receive(client, resumed=pb.Resumed(received=received, limits=limits(**granted)))
    return request


def written(client: Conversation, *, ack: bool = False, heartbeat: bool = False) -> pb.AttachRequest | None:
    data = client.next_request(ack, heartbeat)
    return None if data is None else pb.AttachRequest.FromString(data)


def sent(client: Conversation, **how: bool) -> pb.AttachRequest:
    request = written(client, **how)
    assert request is not None
    return request


def command(value: Any) -> pb.Command:
    return pb.Command(task_id="main-1", command="c", json=json.dumps(value))


def events_of(request: pb.AttachRequest) -> list[Any]:
    return [json.loads(event.json) for event in request.events]


def specs(client: Conversation) -> list[Any]:
    """Take all that there is: the specs, and how it ended."""
    found = []
    while (item := client.take()) is not None:
        found.append(item.spec if isinstance(item, Command) else item.reason)
    return found


# --- how a stream begins ----------------------------------------------------------------------------------------------


def test_the_first_stream_begins_with_the_open_alone() -> None:
    client = conversation()
    request = pb.AttachRequest.FromString(client.first_request())
    assert request.open.app == "app"
    assert request == pb.AttachRequest(open=request.open)


def test_an_open_that_was_not_answered_is_repeated_to_the_letter() -> None:
    client = conversation()
    assert client.first_request() == client.first_request()
    assert not client.opened


def test_nothing_follows_the_first_request_before_it_is_answered() -> None:
    client = conversation()
    client.first_request()
    assert not client.send("say", 1, "")
    client.close("", now=True)
    assert written(client, ack=True, heartbeat=True) is None


def test_the_answer_to_open_tells_who_and_how_much() -> None:
    client = conversation()
    open_(client, events=Window(20, 70_000))
    assert (client.id, client.attached, client.opened) == ("s-1", True, True)
    assert client.outbox.window == Window(20, 70_000)
    assert client.heartbeat_interval == 7.5
    assert client.position == Position("s-1", "token", 0, 0)


def test_a_later_stream_begins_with_what_was_received_taken_or_not() -> None:
    client = conversation()
    open_(client)
    receive(client, commands=[command(1), command(2), command(3)], first_sequence=1)
    client.take()
    request = pb.AttachRequest.FromString(client.first_request())
    assert (request.resume.session_id, request.resume.resume_token) == ("s-1", "token")
    assert (request.resume.received, request.resume.client_id) == (3, "client")
    assert not client.attached


def test_an_adopted_session_resumes_from_its_position_and_numbers_on_from_the_server() -> None:
    client = adopted(received=4, sent=9)
    assert resume(client, received=7).resume.received == 4
    assert client.taken_over == 7
    assert client.send("say", "eight", "")
    assert sent(client).first_sequence == 8
    receive(client, commands=[command("five")], first_sequence=5)
    assert specs(client) == ["five"]


def test_an_adopted_session_claims_nothing_before_the_server_has_said_it() -> None:
    assert adopted(sent=9).taken_over == 0


@pytest.mark.parametrize("control", [{"resumed": pb.Resumed()}, {"closed": pb.Closed()}, {"draining": pb.Draining()}])
def test_an_open_is_answered_by_opened_and_nothing_else(control: dict[str, Any]) -> None:
    client = conversation()
    client.first_request()
    with pytest.raises(ProtocolViolation):
        receive(client, **control)
    assert not client.attached


def test_a_resume_is_answered_by_resumed_and_nothing_else() -> None:
    client = conversation()
    open_(client)
    client.first_request()
    with pytest.raises(ProtocolViolation):
        receive(client, opened=pb.Opened(session_id="s-2"))
    assert client.id == "s-1"


def test_a_server_that_takes_back_an_ack_is_not_believed() -> None:
    client = conversation()
    open_(client)
    client.send("say", 1, "")
    sent(client)
    receive(client, ack=1)
    client.first_request()
    with pytest.raises(ResumeImpossible):
        receive(client, resumed=pb.Resumed(received=0, limits=limits()))


def test_new_limits_come_with_each_stream() -> None:
    client = conversation()
    open_(client, events=Window(20, 1 << 20))
    resume(client, events=Window(16, 1 << 16))
    assert client.outbox.window == Window(16, 1 << 16)


def test_each_attach_brings_a_limit_of_its_own_for_what_is_sent_from_then_on() -> None:
    client = conversation()
    open_(client, max_message=200_000)
    assert client.send("say", "x" * 150_000, "")
    resume(client, max_message=100_000)
    with pytest.raises(PayloadError, match="of at most 98976"):
        client.send("say", "x" * 150_000, "")
    assert client.outbox.last == 1
    resume(client, max_message=8_000_000)
    assert client.send("say", "x" * 150_000, "")
    assert client.outbox.last == 2


def test_windows_that_the_server_does_not_name_have_the_default_size() -> None:
    client = conversation()
    client.first_request()
    receive(client, opened=pb.Opened(session_id="s-1", resume_token="token", limits=pb.Limits()))
    assert client.outbox.window == client.inbox.window == Window(1024, 1 << 20)


def test_a_heartbeat_before_the_answer_says_nothing() -> None:
    client = conversation()
    client.first_request()
    receive(client)
    assert not client.attached
    receive(client, opened=pb.Opened(session_id="s-1", resume_token="token", limits=limits()))
    assert client.attached


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_are_numbered_from_one_and_go_in_one_batch() -> None:
    client = conversation()
    open_(client)
    for value in ("a", "b"):
        assert client.send("say", value, "task-7")
    request = sent(client)
    assert (request.first_sequence, events_of(request), request.events[0].task_id) == (1, ["a", "b"], "task-7")
    assert written(client) is None
    client.send("say", "c", "")
    assert sent(client).first_sequence == 3


def test_while_it_is_suspected_the_first_event_goes_alone_until_it_is_acknowledged() -> None:
    client = conversation()
    open_(client)
    for value in ("a", "b", "c"):
        client.send("say", value, "")
    sent(client)
    client.end_stream()
    resume(client)
    client.suspect = 1
    assert events_of(sent(client)) == ["a"]
    assert written(client) is None
    assert not events_of(sent(client, heartbeat=True))
    receive(client, ack=1)
    assert events_of(sent(client)) == ["b", "c"]


def test_a_large_event_goes_alone() -> None:
    client = conversation()
    open_(client)
    for value in ("a", "b" * 400_000, "c"):
        client.send("say", value, "")
    assert [len(sent(client).events) for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])
@pytest.mark.parametrize("size", [1, 100, 5_000, 60_000])
def test_no_message_is_larger_than_the_server_takes(resumable: bool, size: int) -> None:
    """Neither by the frames of many small events, nor by a long reason of the close behind them."""
    client = conversation(resumable)
    open_(client, events=Window(100_000, 4 << 20), max_message=65_536)
    count = min(10_000, 1_000_000 // size)
    for _ in range(count):
        assert client.send("", "x" * size, "")
    client.close("\N{GRINNING FACE}" * 1000, now=False)
    messages = []
    while (data := client.next_request()) is not None:
        messages.append(data)
    assert max(len(data) for data in messages) <= 65_536
    requests = [pb.AttachRequest.FromString(data) for data in messages]
    assert sum(len(request.events) for request in requests) == count
    assert [request.HasField("close") for request in requests] == [False] * (len(requests) - 1) + [True]


def test_no_event_fits_a_full_window_until_an_ack_makes_room() -> None:
    client = conversation()
    open_(client, events=Window(2, 1 << 20))
    assert [client.send("say", number, "") for number in range(3)] == [True, True, False]
    sent(client)
    assert not client.send("say", 2, "")
    receive(client, ack=1)
    assert client.send("say", 2, "")
    assert events_of(sent(client)) == [2]
    assert client.taken_over == 1


def test_a_window_of_bytes_lets_one_event_of_any_size_go_alone() -> None:
    client = conversation()
    open_(client, events=Window(100, 1000))
    assert client.send("say", "x" * 5000, "")
    assert not client.send("say", "y", "")
    assert len(sent(client).events) == 1
    receive(client, ack=1)
    assert client.send("say", "y", "")


@pytest.mark.parametrize("data", [float("nan"), {1: 2}, {1, 2}, 2**64, object(), "\ud800", [[float("inf")]]])
def test_what_cannot_be_carried_uses_no_sequence(data: Any) -> None:
    client = conversation()
    open_(client)
    with pytest.raises(PayloadError):
        client.send("say", data, "")
    assert client.position.sent == 0
    assert written(client) is None
    client.send("say", "next", "")
    assert sent(client).first_sequence == 1


def test_an_event_that_no_message_could_hold_uses_no_sequence() -> None:
    client = conversation()
    open_(client, max_message=100_000)
    with pytest.raises(PayloadError, match="send it in parts"):
        client.send("say", "x" * 100_000, "")
    assert written(client) is None


def test_a_message_is_never_larger_than_the_server_allows() -> None:
    client = conversation()
    open_(client, max_message=100_000)
    client.send("say", "x" * (100_000 - 1024 - 20), "")
    receive(client, commands=[command(1)], first_sequence=1)
    client.close("y" * 10_000, now=False)
    data = client.next_request()
    assert data is not None
    assert len(data) <= 100_000


def test_a_new_stream_sends_again_what_the_server_has_not_with_the_same_sequences() -> None:
    client = conversation()
    open_(client)
    for number in range(1, 6):
        client.send("say", number, "")
    sent(client)
    receive(client, ack=2)
    resume(client, received=3)
    request = sent(client)
    assert (request.first_sequence, events_of(request)) == (4, [4, 5])
    assert client.taken_over == 3
    assert client.position.sent == 5


def test_replay_obeys_the_window_too() -> None:
    client = conversation()
    open_(client, events=Window(20, 1 << 20))
    for number in range(1, 11):
        client.send("say", number, "")
    sent(client)
    resume(client, received=0, events=Window(16, 1 << 20))
    client.outbox.window = Window(3, 1 << 20)
    assert events_of(sent(client)) == [1, 2, 3]
    assert written(client) is None
    receive(client, ack=2)
    assert events_of(sent(client)) == [4, 5]


def test_events_of_the_time_between_streams_wait_for_the_next() -> None:
    client = conversation()
    open_(client)
    client.first_request()
    assert client.send("say", "meanwhile", "")
    assert written(client) is None
    receive(client, resumed=pb.Resumed(limits=limits()))
    assert events_of(sent(client)) == ["meanwhile"]


def test_an_ack_of_what_was_never_sent_breaks_the_stream() -> None:
    client = conversation()
    open_(client)
    with pytest.raises(ProtocolViolation):
        receive(client, ack=1)


def test_a_lower_ack_is_ignored() -> None:
    client = conversation()
    open_(client)
    client.send("say", 1, "")
    client.send("say", 2, "")
    sent(client)
    receive(client, ack=2)
    receive(client, ack=1)
    assert client.taken_over == 2


# --- commands, and their acks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [{"json": '{"a": 1}'}, {"blob": b"\x00\xff"}, {}])
def test_a_command_is_what_the_app_sent(payload: dict[str, Any]) -> None:
    client = conversation()
    open_(client)
    receive(client, commands=[pb.Command(task_id="t", command="c", **payload)], first_sequence=1)
    expected = {"a": 1} if "json" in payload else payload.get("blob")
    assert client.take() == Command("c", "t", expected)


def test_a_command_carries_a_protobuf_message_unpacked() -> None:
    client = conversation()
    open_(client)
    message = pb.Command(command="c")
    message.message.Pack(wrappers_pb2.StringValue(value="typed"))
    receive(client, commands=[message], first_sequence=1)
    item = client.take()
    assert isinstance(item, Command)
    assert item.spec == wrappers_pb2.StringValue(value="typed")


def test_a_command_is_acknowledged_when_the_next_one_is_asked_for() -> None:
    client = conversation()
    open_(client)
    receive(client, commands=[command(1), command(2)], first_sequence=1)
    assert written(client, ack=True) is None
    client.take()
    assert written(client, ack=True) is None
    client.take()
    assert sent(client, ack=True).ack == 1
    assert client.take() is None
    assert sent(client, ack=True).ack == 2


def test_a_position_counts_the_command_in_hand_and_none_that_only_waits() -> None:
    client = conversation()
    open_(client)
    receive(client, commands=[command(1), command(2)], first_sequence=1)
    received = [client.position.received]
    for _ in range(3):
        client.take()
        received.append(client.position.received)
    assert received == [0, 1, 2, 2]


def test_an_ack_rides_on_what_goes_anyway_and_else_waits_to_be_asked_for() -> None:
    client = conversation()
    open_(client)
    receive(client, commands=[command(1)], first_sequence=1)
    client.take()
    client.release()
    assert written(client) is None
    client.send("say", 1, "")
    assert sent(client).ack == 1
    assert written(client, ack=True) is None


def test_an_ack_goes_alone_at_a_quarter_of_the_window() -> None:
    client = conversation(window=Window(8, 1 << 20))
    open_(client, commands=Window(8, 1 << 20))
    receive(client, commands=[command(number) for number in range(3)], first_sequence=1)
    client.take()
    client.take()
    assert written(client) is None
    client.take()
    assert sent(client).ack == 2


def test_a_new_stream_is_told_again_what_was_taken() -> None:
    client = conversation()
    open_(client)
    receive(client, commands=[command(1), command(2)], first_sequence=1)
    specs(client)
    assert sent(client, ack=True).ack == 2
    resume(client)
    assert sent(client, ack=True).ack == 2
    assert written(client, ack=True) is None


def test_duplicates_are_dropped_and_acknowledged_again() -> None:
    client = conversation()
    open_(client)
    receive(client, commands=[command(1), command(2)], first_sequence=1)
    assert specs(client) == [1, 2]
    sent(client, ack=True)
    receive(client, commands=[command(1), command(2), command(3)], first_sequence=1)
    assert specs(client) == [3]
    assert sent(client, ack=True).ack == 3
    receive(client, commands=[command(2)], first_sequence=2)
    assert sent(client, ack=True).ack == 3
    assert specs(client) == []


def test_a_gap_is_found_and_names_what_was_due() -> None:
    client = conversation()
    open_(client)
    receive(client, commands=[command(1)], first_sequence=1)
    with pytest.raises(SequenceGap) as caught:
        receive(client, commands=[command(3)], first_sequence=3)
    assert caught.value.expected == 2
    with pytest.raises(SequenceGap):
        receive(client, closed=pb.Closed(sequence=5))
    assert client.closed is None


def test_more_commands_than_the_window_grants_break_the_stream() -> None:
    client = conversation()
    open_(client, commands=Window(2, 1 << 20))
    with pytest.raises(WindowExceeded):
        receive(client, commands=[command(number) for number in range(3)], first_sequence=1)


def test_what_does_not_decode_is_raised_and_changes_nothing() -> None:
    client = conversation()
    open_(client)
    with pytest.raises(DecodeError):
        client.receive(b"\xff\xff\xff")
    with pytest.raises(PayloadError):
        receive(client, commands=[pb.Command(json="{no json")], first_sequence=1)
    receive(client, commands=[command("good")], first_sequence=1)
    assert specs(client) == ["good"]


def test_a_command_that_nobody_got_is_given_out_again_and_not_acknowledged() -> None:
    client = conversation()
    open_(client)
    receive(client, commands=[command(1), command(2)], first_sequence=1)
    item = client.take()
    assert isinstance(item, Command)
    client.give_back(item)
    assert written(client, ack=True) is None
    assert specs(client) == [1, 2]
    client.close("", now=False)
    receive(client, commands=[command(3), command(4)], first_sequence=3)
    item = client.take()
    assert isinstance(item, Command)
    client.give_back(item)
    assert specs(client) == [3, 4]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_closed_comes_after_every_command_and_is_acknowledged_when_it_is_taken() -> None:
    client = conversation()
    open_(client)
    receive(client, commands=[command(1)], first_sequence=1)
    receive(client, closed=pb.Closed(reason=pb.CLOSE_REASON_COMPLETED, message="done", sequence=2))
    assert client.closed == Closed(CloseReason.COMPLETED, "done")
    assert not client.finished
    assert specs(client) == [1, CloseReason.COMPLETED]
    assert not client.finished
    assert sent(client, ack=True).ack == 2
    assert client.finished
    assert client.take() is None


def test_a_reason_of_a_newer_server_is_unspecified() -> None:
    client = conversation()
    open_(client)
    client.receive(b"\x22\x04\x08\x63\x18\x01")  # closed { reason: 99, sequence: 1 }
    assert client.closed == Closed(CloseReason.UNSPECIFIED, "")


def test_close_waits_behind_the_events_and_goes_once_a_stream() -> None:
    client = conversation()
    open_(client, events=Window(1, 1 << 20))
    client.send("say", 1, "")
    sent(client)
    resume(client, events=Window(1, 1 << 20))
    client.close("enough", now=False)
    request = sent(client)
    assert (events_of(request), request.close.reason, request.close.now) == ([1], "enough", False)
    assert written(client, ack=True) is None
    resume(client, received=1)
    assert sent(client).HasField("close")
    assert written(client) is None


def test_close_does_not_overtake_events_that_wait_for_the_window() -> None:
    client = conversation()
    open_(client)
    for number in range(4):
        client.send("say", number, "")
    client.outbox.window = Window(3, 1 << 20)
    client.close("", now=False)
    assert not sent(client).HasField("close")
    receive(client, ack=1)
    request = sent(client)
    assert events_of(request) == [3]
    assert request.HasField("close")


def test_close_now_goes_at_once_and_after_a_graceful_one() -> None:
    client = conversation()
    open_(client)
    client.send("say", 1, "")
    client.outbox.window = Window(0, 0)
    client.outbox.append(b"", 1)  # one that the window holds back
    client.close("", now=False)
    first = sent(client)
    assert not first.HasField("close")
    client.close("hurry", now=True)
    request = sent(client)
    assert (request.close.now, request.close.reason) == (True, "hurry")
    client.close("slower", now=False)
    assert written(client) is None


def test_close_acknowledges_everything_now_and_later_and_keeps_it_to_be_read() -> None:
    client = conversation(window=Window(2, 1 << 20))
    open_(client, commands=Window(2, 1 << 20))
    receive(client, commands=[command(1), command(2)], first_sequence=1)
    client.take()
    client.close("", now=False)
    assert sent(client).ack == 2
    receive(client, commands=[command(3), command(4)], first_sequence=3)
    receive(client, commands=[command(5)], first_sequence=5)
    assert sent(client, ack=True).ack == 5
    receive(client, closed=pb.Closed(reason=pb.CLOSE_REASON_CLIENT, sequence=6))
    assert sent(client, ack=True).ack == 6
    assert client.finished
    assert specs(client) == [2, 3, 4, 5, CloseReason.CLIENT]


def test_closed_that_comes_again_is_acknowledged_again() -> None:
    client = conversation()
    open_(client)
    receive(client, closed=pb.Closed(sequence=1))
    resume(client)
    receive(client, closed=pb.Closed(sequence=1))
    assert len(specs(client)) == 1
    assert sent(client, ack=True).ack == 1


def test_draining_is_noted() -> None:
    client = conversation()
    open_(client)
    assert not client.draining
    receive(client, draining=pb.Draining())
    assert client.draining


def test_an_empty_response_changes_nothing_and_a_heartbeat_writes_an_empty_request() -> None:
    client = conversation()
    open_(client)
    client.receive(b"")
    assert written(client) is None
    assert client.next_request(heartbeat=True) == b""


# --- plain sessions ---------------------------------------------------------------------------------------------------


def test_a_plain_session_keeps_no_books() -> None:
    client = conversation(resumable=False)
    request = pb.AttachRequest.FromString(client.first_request())
    assert (request.open.request_id, request.open.client_id) == ("", "")
    receive(client, opened=pb.Opened(session_id="s-1", limits=limits()))
    client.send("say", 1, "")
    assert sent(client) == pb.AttachRequest(events=[pb.Event(event="say", json="1")])
    receive(client, commands=[command(1), command(2)])
    assert specs(client) == [1, 2]
    assert written(client, ack=True) is None
    client.close("", now=False)
    assert sent(client) == pb.AttachRequest(close=pb.Close())
    receive(client, closed=pb.Closed(reason=pb.CLOSE_REASON_CLIENT))
    assert specs(client) == [CloseReason.CLIENT]
    assert client.finished
    assert client.taken_over == 0


def test_a_plain_session_never_fills_its_window_once_it_has_written() -> None:
    client = conversation(resumable=False)
    open_(client, events=Window(16, 1 << 20))
    for _ in range(5):
        for number in range(16):
            assert client.send("say", number, "")
        assert not client.send("say", 16, "")
        sent(client)
        written(client)


# --- whatever happens -------------------------------------------------------------------------------------------------


class Joined(RuleBasedStateMachine):
    """A client and a server that keep the rules, over a link that holds back, and breaks.

    What is checked is the machine's own account: who sent what, who took what, and which acks have arrived.
    """

    @initialize(
        events=st.builds(Window, messages=st.integers(1, 5), size=st.integers(30, 150)),
        commands=st.builds(Window, messages=st.integers(1, 5), size=st.integers(30, 150)),
    )
    def begin(self, events: Window, commands: Window) -> None:
        self.window = commands
        self.client = conversation(window=commands)
        self.inbox: Inbox[str] = Inbox(events)
        self.outbox: Outbox[bytes] = Outbox(commands)
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.server_attached = False
        self.close_seen = False
        self.events: list[str] = []
        self.server_took: list[str] = []
        self.commands: list[str] = []
        self.client_took: list[str] = []
        self.closes_written = 0
        self.asks = False
        self.connect()

    # --- the link

    @rule()
    def connect(self) -> None:
        """Lose the stream, and all that is under way, and begin another."""
        self.up.clear()
        self.down.clear()
        self.inbox.drop_waiting()
        self.server_attached = False
        self.close_seen = False
        self.closes_written = 0
        self.up.append(self.client.first_request())

    @precondition(lambda self: self.up)
    @rule()
    def deliver_up(self) -> None:
        request = pb.AttachRequest.FromString(self.up.popleft())
        if request.ack:
            self.outbox.ack(request.ack)
        control = request.WhichOneof("control")
        if control in ("open", "resume"):
            self.attach(request)
        if request.events:
            skipped = self.inbox.skip(request.first_sequence, len(request.events))
            for event in request.events[skipped:]:
                self.inbox.put(json.loads(event.json), event.ByteSize())
        self.close_seen |= control == "close"

    def attach(self, request: pb.AttachRequest) -> None:
        self.outbox.resume(request.resume.received)
        heard = self.inbox.taken if request.HasField("resume") else 0
        self.inbox.restart_acks(heard, told=heard)
        granted = limits(self.inbox.window, self.outbox.window)
        if request.HasField("open"):
            response = pb.AttachResponse(opened=pb.Opened(session_id="s-1", resume_token="t", limits=granted))
        else:
            response = pb.AttachResponse(resumed=pb.Resumed(received=self.inbox.taken, limits=granted))
        self.down.append(response.SerializeToString())
        self.server_attached = True

    @precondition(lambda self: self.down)
    @rule()
    def deliver_down(self) -> None:
        self.client.receive(self.down.popleft())

    # --- the client

    @precondition(lambda self: not self.client.closing and len(self.events) < 30)
    @rule(length=st.integers(0, 40))
    def send(self, length: int) -> None:
        text = f"{len(self.events)}:" + "x" * length
        if self.client.send("e", text, ""):
            self.events.append(text)

    @precondition(lambda self: self.client.attached)
    @rule(ack=st.booleans())
    def client_writes(self, ack: bool) -> None:
        data = self.client.next_request(ack)
        if data is None:
            return
        request = pb.AttachRequest.FromString(data)
        last = request.first_sequence + len(request.events) - 1
        if request.events:
            acked = self.client.taken_over
            assert last <= acked + self.inbox.window.messages
            assert last == acked + 1 or self.size_of(acked, last) <= self.inbox.window.size
        if request.HasField("close"):
            self.closes_written += 1
            assert self.closes_written == 1
            assert not self.client.outbox.waiting
        self.up.append(data)

    def size_of(self, acked: int, last: int) -> int:
        return sum(pb.Event(event="e", json=json.dumps(text)).ByteSize() for text in self.events[acked:last])

    @rule()
    def client_takes(self) -> None:
        item = self.client.take()
        self.asks = item is None or not isinstance(item, Command)  # then all before is acknowledged
        if isinstance(item, Command):
            self.client_took.append(item.spec)
        elif item is not None:
            self.client_took.append("closed")

    @precondition(lambda self: self.client.opened)
    @rule()
    def close(self) -> None:
        self.client.close("", now=False)

    # --- the server

    @precondition(lambda self: self.inbox.head is not None)
    @rule()
    def server_takes(self) -> None:
        assert self.inbox.head is not None
        self.server_took.append(self.inbox.head[0])
        self.inbox.take()

    @precondition(lambda self: not self.outbox.final and min(self.outbox.room()) > 0 and len(self.commands) < 30)
    @rule(length=st.integers(0, 40))
    def server_commands(self, length: int) -> None:
        text = f"{len(self.commands)}:" + "x" * length
        self.commands.append(text)
        response = pb.AttachResponse(commands=[command(text)])
        self.outbox.append(response.SerializeToString(), response.commands[0].ByteSize())

    @precondition(lambda self: self.close_seen and self.inbox.head is None and not self.outbox.final)
    @rule()
    def server_ends(self) -> None:
        data = encode_closed("CLIENT", "", self.outbox.last + 1)
        self.outbox.append_final(data, len(data))
        self.commands.append("closed")

    @precondition(lambda self: self.server_attached)
    @rule(size=st.integers(1, 200))
    def server_writes(self, size: int) -> None:
        first, batch = self.outbox.take(size)
        head = pb.AttachResponse(first_sequence=first if batch else 0)
        if self.inbox.ack_pending:
            head.ack = self.inbox.ack()
        self.down.append(head.SerializeToString() + b"".join(batch))

    # --- both

    @rule(ack=st.booleans(), size=st.integers(1, 200))
    def exchange(self, ack: bool, size: int) -> None:
        """Carry everything: without it few runs get far."""
        if self.client.attached:
            self.client_writes(ack)
        while self.up:
            self.deliver_up()
        if self.server_attached:
            self.server_writes(size)
        while self.down:
            self.deliver_down()

    # --- what holds

    @invariant()
    def exactly_once_and_in_order(self) -> None:
        assert self.server_took == self.events[: len(self.server_took)]
        assert self.client_took == self.commands[: len(self.client_took)]

    @invariant()
    def nothing_is_acknowledged_before_the_application_asked_for_more(self) -> None:
        if not self.client.closing:
            assert self.outbox.acked <= max(0, len(self.client_took) - 1) + self.asks
            assert self.client.position.received == len(self.client_took)

    @invariant()
    def what_is_taken_over_was(self) -> None:
        assert self.client.taken_over <= len(self.server_took)

    def teardown(self) -> None:
        """Whatever has happened: from here on the link holds, and everything arrives."""
        self.connect()
        for _ in range(400):
            while self.up:
                self.deliver_up()
            while self.down:
                self.deliver_down()
            if self.client.attached:
                self.client.close("", now=False)
                self.client_writes(ack=True)
            while self.inbox.head is not None:
                self.server_takes()
            self.client_takes()
            if self.close_seen and not self.outbox.final:
                self.server_ends()
            if self.server_attached:
                self.server_writes(200)
            if self.outbox.final and self.outbox.empty and self.client_took == self.commands and not self.up:
                break
        assert self.server_took == self.events
        assert self.client_took == self.commands
        assert self.client_took[-1] == "closed"
        assert self.client.finished


Joined.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
test_everything_arrives_once_and_in_order_over_a_link_that_breaks = Joined.TestCase
