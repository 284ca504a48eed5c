"""Rules D1 to D8 of docs/protocol.md, as far as a server can be tested for them, and what they promise together."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest

from session_service import AbstractSession, Window, get_current_session
from session_service.server import attachment
from session_service.v1 import session_pb2 as pb
from tests.session.kinds import CoroutineKind, Kind, ThreadKind, eventually

from .peer import Peer, Serve, Service, event, resume_of, value

JSON = pb.PAYLOAD_FORMAT_JSON

# The least that a server may grant.
SMALL = Window(16, 64 * 1024)

NOBODY = "task-0"


@pytest.fixture(params=[CoroutineKind, ThreadKind], ids=["coroutine", "thread"])
async def kind(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[Kind]:
    """Either kind of session; its gates open before the server stops."""
    kind: Kind = request.param()
    yield kind
    await kind.finish()


@pytest.fixture(autouse=True)
def no_errors_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelname == "ERROR"]
    # All loops of a process share one completion queue of grpc.aio, which reports what came for an earlier test's loop.
    assert [error for error in errors if "PollerCompletionQueue" not in error] == []


@pytest.fixture
def no_ack_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acks go alone for no other reason than a quarter of the window."""
    monkeypatch.setattr(attachment, "ACK_DELAY", 3600.0)


async def echo() -> None:
    session = get_current_session()
    while True:
        session.send_task_command({"command": "echo", "spec": (await session.next_client_event())["data"]})


async def swallow() -> None:
    session = get_current_session()
    while True:
        await session.next_client_event()


def say(*data: object) -> list[pb.Event]:
    return [event("say", item) for item in data]


def sender(specs: list[Any]) -> Callable[[], Awaitable[None]]:
    """Return an app that sends these at once, and then takes events for ever."""

    async def app() -> None:
        session = get_current_session()
        for spec in specs:
            session.send_task_command({"command": "item", "spec": spec})
        await swallow()

    return app


async def numbered(peer: Peer, count: int) -> list[tuple[int, Any]]:
    """Receive this many commands; return the sequence and the value of each."""
    items: list[tuple[int, Any]] = []
    while len(items) < count:
        response = await peer.receive()
        items += [(response.first_sequence + n, value(command)) for n, command in enumerate(response.commands)]
    assert len(items) == count, items
    return items


async def nothing_more(peer: Peer, sequence: int) -> None:
    """Fail where the server has more to write: it answers an event of this sequence, for nobody, with an ack alone."""
    await peer.send(events=[event(task_id=NOBODY)], first_sequence=sequence)
    for response in await peer.receive_until(lambda response: response.ack == sequence):
        assert response == pb.AttachResponse(ack=response.ack)


async def fill(peer: Peer, count: int = SMALL.messages) -> None:
    """Fill the mailboxes of a session that takes no events; all these are taken over."""
    await peer.send(events=say(*range(1, count + 1)), first_sequence=1)
    await peer.receive_until(lambda response: response.ack == count)


async def closing(service: Service) -> None:
    """Wait until the only session of a server has begun to close."""
    [managed] = service.server.manager
    await eventually(managed.session.closed)


# --- D1 ---------------------------------------------------------------------------------------------------------------


async def test_D1_commands_are_numbered_from_1_across_all_streams(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=say("a", "b"), first_sequence=1)
    assert await numbered(peer, 2) == [(1, "a"), (2, "b")]
    for sequence, text in enumerate("cde", 3):
        peer.cancel()
        peer = await service.resume(peer, received=sequence - 1)
        await peer.send(events=say(text), first_sequence=sequence, ack=sequence - 1)
        assert await numbered(peer, 1) == [(sequence, text)]


async def test_D1_a_command_that_is_sent_again_has_the_sequence_it_had(serve: Serve) -> None:
    service = await serve({"app": sender(["a", "b", "c"])})
    peer = await service.open("app", resumable=True, command_format=JSON)
    first = await numbered(peer, 3)
    for _ in range(3):
        peer.cancel()
        peer = await service.resume(peer)
        assert await numbered(peer, 3) == first


async def test_D1_a_batch_carries_the_sequence_of_its_first_item(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=say(1, 2, 3), first_sequence=1)
    await peer.send(events=say(4), first_sequence=4)
    await peer.send(events=say(5, 6), first_sequence=5)
    assert await numbered(peer, 6) == [(n, n) for n in range(1, 7)]


# --- D1a --------------------------------------------------------------------------------------------------------------


async def test_D1a_events_not_taken_over_die_with_their_stream_and_are_sent_again(serve: Serve, kind: Kind) -> None:
    go = kind.gate()

    async def app(session: AbstractSession) -> None:
        await kind.at(go)
        while True:
            session.send_task_command({"command": "got", "spec": await kind.event(session)})

    service = await serve({"app": kind.app(app)}, event_window=SMALL)
    peer = await service.open("app", resumable=True, command_format=JSON)
    await fill(peer)
    await peer.send(events=say("lost", "lost"), first_sequence=17)
    await peer.send(open=pb.Open())  # breaks the stream, behind those two
    assert (await peer.status()).metadata["received"] == "16"

    peer = await service.resume(peer)
    assert peer.resumed.received == 16
    await peer.send(events=say("again", "last"), first_sequence=17)
    go.open()
    assert [spec for _, spec in await numbered(peer, 18)] == [*range(1, 17), "again", "last"]


async def test_D1a_while_one_event_waits_all_later_ones_wait_behind_it(serve: Serve, kind: Kind) -> None:
    go = kind.gate()

    async def app(session: AbstractSession) -> None:
        await kind.at(go)
        while True:
            session.send_task_command({"command": "got", "spec": await kind.event(session)})

    service = await serve({"app": kind.app(app)}, event_window=SMALL)
    peer = await service.open("app", resumable=True, command_format=JSON)
    await fill(peer)
    # The second would be dropped at once, which is to be taken over, were it the first.
    await peer.send(events=[*say("waits"), event(task_id=NOBODY), *say("behind")], first_sequence=17)
    await peer.send(events=say("last"), first_sequence=20)
    await peer.send(first_sequence=22, events=say("gap"))
    status = await peer.status()
    assert (status.metadata["expected"], status.metadata["received"]) == ("21", "16")

    peer = await service.resume(peer)
    await peer.send(events=[*say("waits"), event(task_id=NOBODY), *say("behind")], first_sequence=17)
    await peer.send(events=say("last"), first_sequence=20)
    go.open()
    assert [spec for _, spec in await numbered(peer, 19)] == [*range(1, 17), "waits", "behind", "last"]


# --- D2 ---------------------------------------------------------------------------------------------------------------


async def test_D2_duplicates_are_dropped_and_acknowledged_again(serve: Serve) -> None:
    service = await serve({"swallow": swallow})
    peer = await service.open("swallow", resumable=True)
    for _ in range(3):
        await peer.send(events=say("a", "b", "c"), first_sequence=1)
        await peer.receive_until(lambda response: response.ack == 3)
    await peer.send(events=say("b"), first_sequence=2)
    assert (await peer.receive()).ack == 3


async def test_D2_of_a_batch_that_overlaps_only_the_new_events_are_taken(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=say(1, 2, 3), first_sequence=1)
    await peer.send(events=say(-2, -3, 4, 5), first_sequence=2)
    await peer.send(events=say(-1, -2), first_sequence=1)
    await peer.send(events=say(-5, 6), first_sequence=5)
    assert await numbered(peer, 6) == [(n, n) for n in range(1, 7)]


@pytest.mark.parametrize("first", [3, 4, 2**63, 2**64 - 1])
async def test_D2_a_gap_is_refused_and_says_what_was_expected(serve: Serve, first: int) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=say("one"), first_sequence=1)
    await numbered(peer, 1)
    await peer.send(events=say("no", "no"), first_sequence=first)
    status = await peer.status()
    assert (status.code, status.reason, status.retry) == (grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_GAP", "RESUME")
    assert (status.metadata["expected"], status.metadata["received"]) == ("2", "1")

    peer = await service.resume(peer, received=1)
    assert peer.resumed.received == 1
    await peer.send(events=say("two"), first_sequence=2)
    assert await numbered(peer, 1) == [(2, "two")]


# --- D3 ---------------------------------------------------------------------------------------------------------------


async def test_D3_an_ack_covers_everything_up_to_it(serve: Serve) -> None:
    service = await serve({"app": sender(["a", "b", "c"])})
    peer = await service.open("app", resumable=True, command_format=JSON)
    await numbered(peer, 3)
    await peer.send(ack=2)
    await nothing_more(peer, 1)
    refused = service.attach()
    await refused.send(resume=resume_of(peer, received=1))
    assert (await refused.status()).reason == "RESUME_IMPOSSIBLE"
    peer = await service.resume(peer, received=2)
    assert await numbered(peer, 1) == [(3, "c")]


async def test_D3_a_lower_ack_than_before_is_ignored(serve: Serve) -> None:
    service = await serve({"app": sender(["a", "b", "c"])})
    peer = await service.open("app", resumable=True, command_format=JSON)
    await numbered(peer, 3)
    await peer.send(ack=2)
    await peer.send(ack=1)
    await nothing_more(peer, 1)
    refused = service.attach()
    await refused.send(resume=resume_of(peer, received=1))
    assert (await refused.status()).reason == "RESUME_IMPOSSIBLE"


@pytest.mark.parametrize("ack", [4, 1000, 2**64 - 1])
async def test_D3_an_ack_of_what_was_not_sent_is_refused(serve: Serve, ack: int) -> None:
    service = await serve({"app": sender(["a", "b", "c"])})
    peer = await service.open("app", resumable=True, command_format=JSON)
    await numbered(peer, 3)
    await peer.send(ack=ack)
    status = await peer.status()
    assert (status.code, status.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROTOCOL_VIOLATION")
    assert status.retry == "NEVER"
    peer = await service.resume(peer)  # it acknowledged nothing
    assert len(await numbered(peer, 3)) == 3


@pytest.mark.usefixtures("no_ack_timer")
async def test_D3_an_ack_rides_on_the_commands_that_go_anyway(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    for sequence in (1, 2, 3):
        await peer.send(events=say("x"), first_sequence=sequence)
        response = await peer.receive()
        assert (response.first_sequence, response.ack, len(response.commands)) == (sequence, sequence, 1)


@pytest.mark.usefixtures("no_ack_timer")
async def test_D3_an_ack_rides_on_a_heartbeat(serve: Serve) -> None:
    service = await serve({"swallow": swallow}, heartbeat_interval=0.1)
    peer = await service.open("swallow", resumable=True)
    await peer.send(events=say("x"), first_sequence=1)
    await peer.receive_until(lambda response: response.ack == 1)


@pytest.mark.usefixtures("no_ack_timer")
async def test_D3_an_ack_goes_alone_when_a_quarter_of_the_window_is_unacknowledged(serve: Serve) -> None:
    service = await serve({"swallow": swallow}, event_window=SMALL)
    peer = await service.open("swallow", resumable=True)
    for sequence in (1, 2, 3, 4):
        await peer.send(events=say("x"), first_sequence=sequence)
    assert await peer.receive() == pb.AttachResponse(ack=4)
    await peer.send(events=[event("say", "x" * (SMALL.size // 4))], first_sequence=5)
    assert await peer.receive() == pb.AttachResponse(ack=5)


async def test_D3_an_ack_goes_alone_after_a_moment(serve: Serve) -> None:
    service = await serve({"swallow": swallow})
    peer = await service.open("swallow", resumable=True)
    for sequence in (1, 2, 3):
        await peer.send(events=say("x"), first_sequence=sequence)
        assert await peer.receive() == pb.AttachResponse(ack=sequence)


async def test_D3_an_ack_causes_no_answer(serve: Serve) -> None:
    service = await serve({"app": sender(list(range(10)))})
    peer = await service.open("app", resumable=True, command_format=JSON)
    await numbered(peer, 10)
    for ack in range(1, 11):
        await peer.send(ack=ack)
    await peer.send(events=say("x"), first_sequence=1)
    assert await peer.receive() == pb.AttachResponse(ack=1)


async def test_D3_an_ack_makes_room_and_wakes_those_who_wait_for_it(serve: Serve, kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        for number in range(1, 31):
            session.send_task_command({"command": "item", "spec": number})
            await kind.drain(session)
        await kind.event(session)

    service = await serve({"app": kind.app(app)}, command_window=Window(3))
    peer = await service.open("app", resumable=True, command_format=JSON)
    assert await numbered(peer, 3) == [(1, 1), (2, 2), (3, 3)]
    for ack in range(1, 28):
        await peer.send(ack=ack)
        assert await numbered(peer, 1) == [(ack + 3, ack + 3)]


# --- D4 ---------------------------------------------------------------------------------------------------------------


async def test_D4_an_event_is_acknowledged_only_when_the_session_has_taken_it_over(serve: Serve, kind: Kind) -> None:
    speak, take = kind.gate(), kind.gate()

    async def app(session: AbstractSession) -> None:
        await kind.at(speak)
        session.send_task_command({"command": "alive"})
        await kind.at(take)
        while True:
            await kind.event(session)

    service = await serve({"app": kind.app(app)}, event_window=SMALL)
    peer = await service.open("app", resumable=True)
    await fill(peer)
    await peer.send(events=say("full"), first_sequence=17)
    speak.open()
    response = await peer.receive()
    assert (len(response.commands), response.ack) == (1, 0)  # an ack would have ridden along
    take.open()
    await peer.receive_until(lambda response: response.ack == 17)


async def test_D4_received_acknowledges_nothing(serve: Serve) -> None:
    service = await serve({"app": sender(["a", "b", "c"])})
    peer = await service.open("app", resumable=True, command_format=JSON)
    await numbered(peer, 3)
    for received, rest in [(3, []), (1, ["b", "c"]), (2, ["c"]), (0, ["a", "b", "c"])]:
        peer = await service.resume(peer, received=received)
        assert [spec for _, spec in await numbered(peer, len(rest))] == rest
        await nothing_more(peer, peer.resumed.received + 1)


async def test_D4_events_that_close_now_overtook_are_not_acknowledged(serve: Serve, kind: Kind) -> None:
    forever = kind.gate()

    async def app(session: AbstractSession) -> None:
        await kind.at(forever)

    service = await serve({"app": kind.app(app)}, event_window=SMALL)
    peer = await service.open("app", resumable=True)
    await fill(peer)
    await peer.send(events=say("full", "full"), first_sequence=17, close=pb.Close(now=True))
    await closing(service)
    forever.open()
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert {response.ack for response in responses} == {0}
    peer = await service.resume(peer)
    assert peer.resumed.received == 16


# --- D5 ---------------------------------------------------------------------------------------------------------------


async def test_D5_a_command_goes_out_only_within_the_window_of_messages(serve: Serve) -> None:
    service = await serve({"app": sender(list(range(1, 11)))})
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=3))
    assert await numbered(peer, 3) == [(1, 1), (2, 2), (3, 3)]
    await nothing_more(peer, 1)
    await peer.send(ack=2)
    assert await numbered(peer, 2) == [(4, 4), (5, 5)]
    await nothing_more(peer, 2)
    await peer.send(ack=5)
    assert await numbered(peer, 3) == [(6, 6), (7, 7), (8, 8)]
    await nothing_more(peer, 3)


async def test_D5_a_command_goes_out_only_within_the_window_of_bytes(serve: Serve) -> None:
    service = await serve({"app": sender(["x" * 1000] * 6)})
    peer = await service.open("app", resumable=True, command_format=JSON)
    size = (await peer.receive_commands(6))[0].ByteSize()
    peer.cancel()

    async def granted(size: int) -> Peer:
        return await service.resume(peer, command_window=pb.Window(bytes=size))

    exact = await granted(size * 3)
    await numbered(exact, 3)
    await nothing_more(exact, 1)
    await exact.send(ack=1)
    await numbered(exact, 1)
    await nothing_more(exact, 2)

    short = await service.resume(peer, received=1, command_window=pb.Window(bytes=size * 3 - 1))
    await numbered(short, 2)
    await nothing_more(short, 3)


async def test_D5_an_item_larger_than_the_window_goes_alone(serve: Serve) -> None:
    big = "x" * 5000
    service = await serve({"app": sender(["a", big, "b", big, big])})
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(bytes=2000))
    for sequence, spec in enumerate(["a", big, "b", big, big], 1):
        assert await numbered(peer, 1) == [(sequence, spec)]
        await nothing_more(peer, sequence)
        await peer.send(ack=sequence)


async def test_D5_an_event_larger_than_the_window_may_come_alone(serve: Serve) -> None:
    service = await serve({"echo": echo}, event_window=SMALL)
    peer = await service.open("echo", resumable=True, command_format=JSON)
    big = "x" * (3 * SMALL.size)
    for sequence in (1, 2):
        await peer.send(events=say(big), first_sequence=sequence)
        assert await numbered(peer, 1) == [(sequence, big)]


async def test_D5_replay_obeys_the_window_that_the_resume_granted(serve: Serve) -> None:
    service = await serve({"app": sender(list(range(1, 13)))})
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=10))
    await numbered(peer, 10)
    peer = await service.resume(peer, command_window=pb.Window(messages=3))
    assert peer.resumed.limits.command_window.messages == 3
    assert await numbered(peer, 3) == [(1, 1), (2, 2), (3, 3)]
    await nothing_more(peer, 1)
    for ack in range(1, 10):
        await peer.send(ack=ack)
        assert await numbered(peer, 1) == [(ack + 3, ack + 3)]


async def test_D5_what_the_client_has_and_did_not_acknowledge_counts_against_the_window(serve: Serve) -> None:
    service = await serve({"app": sender(list(range(1, 11)))})
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=5))
    await numbered(peer, 5)
    peer = await service.resume(peer, received=5, command_window=pb.Window(messages=3))
    await nothing_more(peer, 1)  # 6 is beyond the last ack, 0, and 3
    await peer.send(ack=3)
    assert await numbered(peer, 1) == [(6, 6)]
    await peer.send(ack=5)
    assert await numbered(peer, 2) == [(7, 7), (8, 8)]
    await nothing_more(peer, 2)


async def test_D5_the_window_begins_at_the_highest_ack_of_any_stream(serve: Serve) -> None:
    service = await serve({"app": sender(list(range(1, 11)))})
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=5))
    await numbered(peer, 5)
    await peer.send(ack=4)
    await numbered(peer, 4)
    peer = await service.resume(peer, received=4, command_window=pb.Window(messages=2))
    assert await numbered(peer, 2) == [(5, 5), (6, 6)]
    await nothing_more(peer, 1)


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (pb.Window(), pb.Window(messages=20, bytes=3000)),
        (pb.Window(messages=5), pb.Window(messages=5, bytes=3000)),
        (pb.Window(bytes=7), pb.Window(messages=20, bytes=7)),
        (pb.Window(messages=21, bytes=3001), pb.Window(messages=20, bytes=3000)),
        (pb.Window(messages=2**32 - 1, bytes=2**32 - 1), pb.Window(messages=20, bytes=3000)),
    ],
)
async def test_D5_the_server_caps_the_window_it_is_asked_for(
    serve: Serve, asked: pb.Window, granted: pb.Window
) -> None:
    service = await serve({"echo": echo}, command_window=Window(20, 3000))
    peer = await service.open("echo", resumable=True, command_window=asked)
    assert peer.opened.limits.command_window == granted
    peer = await service.resume(peer, command_window=asked)
    assert peer.resumed.limits.command_window == granted


async def test_D5_the_default_window_is_1024_messages_and_1_mib(serve: Serve) -> None:
    service = await serve({"echo": echo})
    limits = (await service.open("echo", resumable=True)).opened.limits
    default = pb.Window(messages=1024, bytes=1 << 20)
    assert (limits.event_window, limits.command_window) == (default, default)


async def test_D5_a_client_may_always_have_a_window_unacknowledged(serve: Serve, kind: Kind) -> None:
    go = kind.gate()

    async def app(session: AbstractSession) -> None:
        await kind.at(go)
        while True:
            session.send_task_command({"command": "got", "spec": await kind.event(session)})

    service = await serve({"app": kind.app(app)}, event_window=SMALL)
    peer = await service.open("app", resumable=True, command_format=JSON)
    await fill(peer)
    await peer.send(events=say(*range(17, 33)), first_sequence=17)  # a window beyond the last ack
    go.open()
    assert await numbered(peer, 32) == [(n, n) for n in range(1, 33)]


@pytest.mark.parametrize(
    "excess",
    [
        pytest.param([event("say", n) for n in range(17)], id="messages"),
        pytest.param([event("say", "x" * (SMALL.size // 4)) for _ in range(4)], id="bytes"),
    ],
)
async def test_D5_a_client_that_exceeds_its_window_is_refused(serve: Serve, kind: Kind, excess: list[pb.Event]) -> None:
    forever = kind.gate()

    async def app(session: AbstractSession) -> None:
        await kind.at(forever)

    service = await serve({"app": kind.app(app)}, event_window=SMALL)
    peer = await service.open("app", resumable=True)
    await fill(peer)
    for sequence, item in enumerate(excess, 17):
        await peer.send(events=[item], first_sequence=sequence)
    status = await peer.status()
    assert (status.code, status.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WINDOW_EXCEEDED")
    assert (status.retry, status.metadata["received"]) == ("NEVER", "16")
    peer = await service.resume(peer)
    assert peer.resumed.received == 16


async def test_D5_16_events_and_64_kib_may_be_sent_before_opened(serve: Serve, kind: Kind) -> None:
    forever = kind.gate()

    async def app(session: AbstractSession) -> None:
        await kind.at(forever)

    service = await serve({"app": kind.app(app)}, event_window=SMALL)
    item = event("say", "")
    item.blob = b"x" * (4096 - event("say", "").ByteSize() - 3)
    while item.ByteSize() < 4096:
        item.blob += b"x"
    assert item.ByteSize() == 4096

    at_once = service.attach()
    await at_once.send(open=pb.Open(app="app", resumable=True), events=[item] * 16, first_sequence=1)
    await at_once.receive_until(lambda response: response.ack == 16)

    one_by_one = service.attach()
    await one_by_one.send(open=pb.Open(app="app", resumable=True))
    for sequence in range(1, 17):
        await one_by_one.send(events=[item], first_sequence=sequence)
    await one_by_one.receive_until(lambda response: response.ack == 16)


# --- D6 ---------------------------------------------------------------------------------------------------------------


async def test_D6_acks_and_heartbeats_need_no_window(serve: Serve) -> None:
    service = await serve({"app": sender([1, 2, 3])}, heartbeat_interval=0.1)
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=1))
    await numbered(peer, 1)
    await nothing_more(peer, 1)
    assert await peer.receive() == pb.AttachResponse()


async def test_D6_draining_needs_no_window(serve: Serve) -> None:
    service = await serve({"app": sender([1, 2, 3])})
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=1))
    await numbered(peer, 1)
    drain = asyncio.create_task(service.server.manager.drain(0.0))
    assert (await peer.receive()).HasField("draining")
    peer.cancel()
    await drain


async def test_D6_closed_needs_no_window(serve: Serve, kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "item", "spec": 1})
        session.send_task_command({"command": "item", "spec": 2})

    service = await serve({"app": kind.app(app)})
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=2))
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert sum(len(response.commands) for response in responses) == 2
    assert responses[-1].closed.sequence == 3


async def test_D6_closed_waits_until_every_command_before_it_is_written(serve: Serve, kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        for number in (1, 2, 3):
            session.send_task_command({"command": "item", "spec": number})

    service = await serve({"app": kind.app(app)}, heartbeat_interval=0.1)
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=2))
    await numbered(peer, 2)
    assert await peer.receive() == pb.AttachResponse()
    await peer.send(ack=1)
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert [value(command) for response in responses for command in response.commands] == [3]
    assert responses[-1].closed.sequence == 4


async def test_D6_close_passes_while_both_windows_are_full(serve: Serve, kind: Kind) -> None:
    forever = kind.gate()

    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "item", "spec": 1})
        await kind.at(forever)

    service = await serve({"app": kind.app(app)}, event_window=SMALL)
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=1))
    await numbered(peer, 1)
    await fill(peer)
    await peer.send(events=say(*range(17, 33)), first_sequence=17)
    await peer.send(close=pb.Close(now=True))
    await closing(service)
    forever.open()
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    assert responses[-1].closed.reason == pb.CLOSE_REASON_CLIENT


# --- D7 ---------------------------------------------------------------------------------------------------------------


async def cancel(peer: Peer) -> None:
    peer.cancel()


async def second_open(peer: Peer) -> None:
    await peer.send(open=pb.Open())


async def gap(peer: Peer) -> None:
    await peer.send(events=say("x"), first_sequence=9)


async def future_ack(peer: Peer) -> None:
    await peer.send(ack=9)


async def no_sequence(peer: Peer) -> None:
    await peer.send(events=say("x"))


async def bad_payload(peer: Peer) -> None:
    await peer.send(events=[pb.Event(json="{")], first_sequence=2)


async def silence(peer: Peer) -> None:
    assert (await peer.status()).reason == "HEARTBEAT_LOST"


BREAKS = [cancel, second_open, gap, future_ack, no_sequence, bad_payload, silence]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: str(broken.__name__))
async def test_D7_a_session_can_be_resumed_however_its_stream_broke(
    serve: Serve, broken: Callable[[Peer], Awaitable[None]]
) -> None:
    service = await serve({"echo": echo}, heartbeat_interval=0.1 if broken is silence else 25.0)
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=say("one"), first_sequence=1)
    await numbered(peer, 1)
    await broken(peer)
    assert (await peer.status()).code is not grpc.StatusCode.OK
    peer = await service.resume(peer)
    assert peer.resumed.received == 1
    await peer.send(events=say("two"), first_sequence=2)
    assert await numbered(peer, 2) == [(1, "one"), (2, "two")]


async def test_D7_a_session_can_be_resumed_when_its_connection_is_gone(serve: Serve) -> None:
    service = await serve({"echo": echo})
    async with service.connect() as other:
        peer = await other.open("echo", resumable=True, command_format=JSON)
        await peer.send(events=say("one"), first_sequence=1)
        await numbered(peer, 1)
    peer = await service.resume(peer)
    await peer.send(events=say("two"), first_sequence=2)
    assert await numbered(peer, 2) == [(1, "one"), (2, "two")]


# --- D8 ---------------------------------------------------------------------------------------------------------------


async def test_D8_an_ack_may_cover_what_received_named(serve: Serve) -> None:
    service = await serve({"app": sender([1, 2, 3])})
    peer = await service.open("app", resumable=True, command_format=JSON)
    await numbered(peer, 3)
    again = service.attach()
    await again.send(resume=resume_of(peer, received=2), ack=2)
    assert (await again.receive()).HasField("resumed")
    assert await numbered(again, 1) == [(3, 3)]
    refused = service.attach()
    await refused.send(resume=resume_of(peer, received=1))
    assert (await refused.status()).reason == "RESUME_IMPOSSIBLE"


async def test_D8_an_ack_of_what_only_an_older_stream_carried_is_refused(serve: Serve) -> None:
    service = await serve({"app": sender([1, 2, 3])})
    peer = await service.open("app", resumable=True, command_format=JSON)
    await numbered(peer, 3)
    peer = await service.resume(peer, received=1, command_window=pb.Window(messages=1))  # 2 may not go
    await peer.send(ack=2)
    assert (await peer.status()).reason == "PROTOCOL_VIOLATION"


@pytest.mark.usefixtures("no_ack_timer")
async def test_D8_no_ack_is_carried_over_from_an_older_stream(serve: Serve) -> None:
    service = await serve({"swallow": swallow}, heartbeat_interval=0.1)
    request = pb.Open(app="swallow", resumable=True, request_id="a-request-id-of-some-length")
    first = service.attach()
    await first.send(open=request)
    await first.receive()
    await first.send(events=say(1, 2, 3), first_sequence=1)
    await first.send(open=pb.Open())
    assert (await first.status()).metadata["received"] == "3"

    again = service.attach()  # `opened` says nothing of events, and on this stream none has been written
    await again.send(open=request)
    assert (await again.receive()).ack == 0
    assert await again.receive() == pb.AttachResponse()
    await again.send(events=say(1), first_sequence=1)
    *_, response = await again.receive_until(lambda response: response.ack)
    assert response.ack == 1  # of 3 that it has


@pytest.mark.parametrize("window", [pb.Window(messages=1), pb.Window(bytes=1)], ids=["messages", "bytes"])
async def test_D5_the_smallest_command_window_makes_no_app_fail(serve: Serve, window: pb.Window) -> None:
    async def app() -> None:
        for number in range(20):  # without drain(): more than 8 of the client's windows, and far less than the server's
            get_current_session().send_task_command({"command": "count", "spec": number})

    service = await serve({"app": app})
    peer = await service.open("app", resumable=True, command_window=window, command_format=JSON)
    counted: list[int] = []
    while not (response := await peer.receive()).HasField("closed"):
        counted += [value(command) for command in response.commands]
        await peer.send(ack=len(counted))
    counted += [value(command) for command in response.commands]
    assert counted == list(range(20))
    assert response.closed.reason == pb.CLOSE_REASON_COMPLETED


# --- all of it --------------------------------------------------------------------------------------------------------


class Cuts:
    """A correct resumable client whose stream is cut now and then, at any moment.

    Attributes:
        heard: everything that the application has been given, ``closed`` as the last.
        cuts: how many streams were lost.
    """

    def __init__(self, service: Service, app: str, seed: int, cuts: int) -> None:
        self._service, self._random, self._left = service, random.Random(seed), cuts
        self._open = pb.Open(app=app, resumable=True, request_id=str(uuid.uuid4()), command_format=JSON)
        self._opened: pb.Opened | None = None
        self._events: list[pb.Event] = []
        self._acked = self._received = 0
        self.heard: list[Any] = []
        self.cuts = 0

    async def run(self, rounds: int) -> list[Any]:
        """Say each number once the one before was heard, then close; through as many streams as it takes."""
        while not await self._stream(rounds):
            self.cuts += 1
        return self.heard

    async def _stream(self, rounds: int) -> bool:
        """Return True when the end has been heard."""
        peer = self._service.attach()
        # This is not to be cut: grpc.aio's first write, if it waits while its call is cancelled, never returns.
        if self._opened is None:
            await peer.send(open=self._open)
        else:
            peer.opened = self._opened
            await peer.send(resume=resume_of(peer, received=self._received))
        timer, messages, was_cut = None, -1, asyncio.Event()

        def cut() -> None:
            was_cut.set()
            peer.cancel()

        if self._left:  # the cut comes after some messages, or at any moment whatever goes on
            self._left -= 1
            messages = self._random.randrange(80)
            timer = asyncio.get_running_loop().call_later(self._random.random() / 20, cut)
        try:
            return await self._converse(peer, rounds, messages)
        except asyncio.CancelledError:  # what grpc.aio raises from a write that the cut met
            if not was_cut.is_set():
                raise
            return False
        finally:
            peer.cancel()
            if timer is not None:
                timer.cancel()

    async def _converse(self, peer: Peer, rounds: int, messages: int) -> bool:
        sent, closing = 0, False  # on this stream
        async for response in responses_of(peer):
            if response.HasField("opened") or response.HasField("resumed"):
                self._opened = self._opened or response.opened
                assert response.resumed.received >= self._acked
                sent = self._acked = response.resumed.received
            assert not response.ack or self._acked <= response.ack <= sent
            self._acked = response.ack or self._acked
            self._hear(response)
            if response.HasField("closed"):
                await peer.send(ack=self._received)
                return True
            if len(self.heard) == len(self._events) < rounds:
                self._events.append(event("say", len(self._events)))
            close = pb.Close() if len(self.heard) == rounds and not closing else None
            if sent < len(self._events) or close:
                batch = self._events[sent:]
                await peer.send(events=batch, first_sequence=sent + 1, ack=self._received, close=close)
                sent, closing = len(self._events), closing or close is not None
            messages -= 1
            if not messages:
                return False
        return False

    def _hear(self, response: pb.AttachResponse) -> None:
        items: list[Any] = [value(command) for command in response.commands]
        first = response.first_sequence
        if response.HasField("closed"):
            items, first = [pb.CloseReason.Name(response.closed.reason)], response.closed.sequence
        for sequence, item in enumerate(items, first):
            assert sequence <= self._received + 1, "a gap"
            if sequence == self._received + 1:
                self._received = sequence
                self.heard.append(item)


async def responses_of(peer: Peer) -> AsyncIterator[pb.AttachResponse]:
    while (response := await peer._read()) is not None:
        yield response


async def test_a_conversation_with_sixty_cuts_reads_like_one_without(serve: Serve, kind: Kind) -> None:
    rounds = 3000
    runs: list[str] = []

    async def app(session: AbstractSession) -> None:
        runs.append(session.id)
        while True:
            session.send_task_command({"command": "echo", "spec": [await kind.event(session)]})
            await kind.drain(session)

    service = await serve({"app": kind.app(app)})
    whole = await Cuts(service, "app", seed=1, cuts=0).run(rounds)
    client = Cuts(service, "app", seed=2, cuts=60)
    assert await client.run(rounds) == whole == [*([n] for n in range(rounds)), "CLOSE_REASON_CLIENT"]
    assert client.cuts >= 50
    assert len(runs) == 2
