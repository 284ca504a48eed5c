"""Rules A1 to A8 of docs/protocol.md: who holds a session, how it is lost and found, and when it is forgotten."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from session_service import AbstractSession, Principal, Window, get_current_session
from session_service.errors import Unauthenticated
from session_service.host import requests
from session_service.v1 import session_pb2 as pb
from tests.session.kinds import CoroutineKind, Kind, ThreadKind, eventually

from .peer import Peer, Serve, Service, Status, event, resume_of, value

JSON = pb.PAYLOAD_FORMAT_JSON

SMALL = Window(16, 64 * 1024)

# Less than what a call buffers for a client that does not read, whatever its windows.
CHUNK = "x" * 50_000


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


async def echo() -> None:
    session = get_current_session()
    while True:
        session.send_task_command({"command": "echo", "spec": (await session.next_client_event())["data"]})
        await session.drain()


async def swallow() -> None:
    session = get_current_session()
    while True:
        await session.next_client_event()


async def three() -> None:
    """Send three commands and return."""
    session = get_current_session()
    for number in (1, 2, 3):
        session.send_task_command({"command": "item", "spec": number})


def say(*data: object) -> list[pb.Event]:
    return [event("say", item) for item in data]


async def values(peer: Peer, count: int) -> list[Any]:
    return [value(command) for command in await peer.receive_commands(count)]


async def closed(peer: Peer) -> pb.Closed:
    """Read on until `closed`."""
    return (await peer.receive_until(lambda response: response.HasField("closed")))[-1].closed


async def ending(peer: Peer) -> tuple[list[Any], int]:
    """Read on until `closed`; return the values of the commands before it, and its sequence."""
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    items = [value(command) for response in responses for command in response.commands]
    return items, responses[-1].closed.sequence


async def works(peer: Peer, sequence: int) -> None:
    """Fail unless an echo is still there, with this sequence as the next of both directions."""
    assert await peer.send(events=say(f"still {sequence}"), first_sequence=sequence)
    assert await values(peer, 1) == [f"still {sequence}"]


async def refusal(service: Service, peer: Peer, **fields: Any) -> Status:
    """Return how a resume ended that is refused."""
    refused = service.attach()
    await refused.send(resume=resume_of(peer, **fields))
    responses = await refused.receive_all()
    assert responses == []
    return await refused.status()


def sessions(service: Service) -> int:
    return len(service.server.manager)


def seconds(number: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(nanos=int(number * 1e9))


# --- A1 ---------------------------------------------------------------------------------------------------------------


async def test_A1_a_session_runs_on_while_it_is_detached(serve: Serve, kind: Kind) -> None:
    go = kind.gate()

    async def app(session: AbstractSession) -> None:
        await kind.at(go)
        session.send_task_command({"command": "item", "spec": "meanwhile"})
        await kind.event(session)

    service = await serve({"app": kind.app(app)})
    peer = await service.open("app", resumable=True, command_format=JSON)
    peer.cancel()
    [managed] = service.server.manager
    await eventually(lambda: managed.stream is None)
    go.open()
    await eventually(lambda: managed.session.pending_commands)
    peer = await service.resume(peer)
    assert await values(peer, 1) == ["meanwhile"]


async def test_A1_commands_collect_up_to_the_window_and_then_the_app_waits(serve: Serve, kind: Kind) -> None:
    go = kind.gate()
    sent: list[int] = []

    async def app(session: AbstractSession) -> None:
        await kind.at(go)
        for number in range(20):
            session.send_task_command({"command": "item", "spec": number})
            sent.append(number)
            await kind.drain(session)

    service = await serve({"app": kind.app(app), "echo": echo}, command_window=Window(4))
    peer = await service.open("app", resumable=True, command_format=JSON)
    peer.cancel()
    [managed] = service.server.manager
    await eventually(lambda: managed.stream is None)
    other = await service.open("echo", resumable=True, command_format=JSON)
    go.open()
    await eventually(lambda: len(sent) == 4)
    for sequence in range(1, 5):  # others go on, and it does not
        await works(other, sequence)
        await other.send(ack=sequence)
    assert len(sent) == 4

    peer = await service.resume(peer)
    got: list[Any] = []
    while len(got) < 20:
        got += await values(peer, 4)
        await peer.send(ack=len(got))
    assert got == list(range(20))


async def test_A1_a_session_closes_as_expired_when_its_resume_window_is_over(serve: Serve, kind: Kind) -> None:
    ending, go = kind.gate(), kind.gate()

    async def app(session: AbstractSession) -> None:
        def deferred() -> None:
            ending.open()
            if isinstance(kind, ThreadKind):
                go.block()

        session.defer_call(deferred)
        await kind.event(session)

    service = await serve({"app": kind.app(app)}, resume_window=0.3)
    peer = await service.open("app", resumable=True)
    peer.cancel()
    await ending.opened()
    peer = await service.resume(peer)
    go.open()
    assert (await closed(peer)).reason == pb.CLOSE_REASON_EXPIRED


@pytest.mark.parametrize(("asked", "granted"), [(0.0, 2.0), (0.5, 0.5), (2.5, 2.0)])
async def test_A1_a_client_asks_for_a_resume_window_and_the_server_caps_it(
    serve: Serve, asked: float, granted: float
) -> None:
    service = await serve({"echo": echo}, resume_window=2.0)
    window = duration_pb2.Duration(seconds=int(asked), nanos=int(asked % 1 * 1e9))
    peer = await service.open("echo", resumable=True, resume_window=window)
    assert peer.opened.limits.resume_window.ToTimedelta().total_seconds() == granted
    peer = await service.resume(peer)
    assert peer.resumed.limits.resume_window.ToTimedelta().total_seconds() == granted


async def test_A1_the_default_resume_window_is_120_seconds(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True)
    assert peer.opened.limits.resume_window.seconds == 120


async def test_A1_an_attached_session_does_not_expire(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON, resume_window=seconds(0.2))
    [managed] = service.server.manager
    peer.cancel()
    await eventually(lambda: managed.stream is None)
    peer = await service.resume(peer)
    other = await service.open("echo", resumable=True, resume_window=seconds(0.2))
    other.cancel()
    await eventually(lambda: sessions(service) == 1)  # two such windows later
    await works(peer, 1)


async def test_A1_a_stream_that_falls_silent_detaches(serve: Serve) -> None:
    service = await serve({"echo": echo}, heartbeat_interval=0.05)
    peer = await service.open("echo", resumable=True, command_format=JSON)
    status = await peer.status()
    assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, "HEARTBEAT_LOST")
    assert (status.retry, status.metadata["received"]) == ("RESUME", "0")
    peer = await service.resume(peer)
    await works(peer, 1)


async def test_A1_half_close_alone_does_not_detach(serve: Serve, kind: Kind) -> None:
    go = kind.gate()

    async def app(session: AbstractSession) -> None:
        await kind.at(go)
        session.send_task_command({"command": "item", "spec": "still here"})
        await kind.event(session)

    service = await serve({"app": kind.app(app)}, heartbeat_interval=0.2)
    peer = await service.open("app", resumable=True, command_format=JSON)
    await peer.half_close()
    assert await peer.receive() == pb.AttachResponse()
    go.open()
    assert await values(peer, 1) == ["still here"]
    assert (await peer.status()).reason == "HEARTBEAT_LOST"
    await service.resume(peer)


async def test_A1_after_close_and_half_close_the_server_writes_what_is_left_and_ends_the_call(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=say(1, 2, 3), first_sequence=1, close=pb.Close())
    await peer.half_close()
    responses = await peer.receive_all()
    assert [value(command) for response in responses for command in response.commands] == [1, 2, 3]
    assert responses[-1].closed.sequence == 4
    assert (await peer.status()).code is grpc.StatusCode.OK
    peer = await service.resume(peer, received=3)
    assert (await closed(peer)).sequence == 4


async def test_A1_after_close_and_half_close_the_call_ends_also_where_the_window_does_not_reach(serve: Serve) -> None:
    service = await serve({"app": three})
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=2))
    await peer.send(close=pb.Close())
    await peer.half_close()
    responses = await peer.receive_all()  # and not only when three heartbeat intervals have passed
    assert [value(command) for response in responses for command in response.commands] == [1, 2]
    assert (await peer.status()).code is grpc.StatusCode.OK
    peer = await service.resume(peer, received=2)
    await peer.send(ack=2)
    assert await ending(peer) == ([3], 4)


# --- A2 ---------------------------------------------------------------------------------------------------------------


async def test_A2_what_cannot_be_resumed_is_never_told_apart(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    plain = await service.open("echo")
    gone = await service.open("echo", resumable=True)
    await gone.send(close=pb.Close())
    await gone.send(ack=(await closed(gone)).sequence)
    assert (await gone.status()).code is grpc.StatusCode.OK

    token = peer.opened.resume_token
    statuses = [
        await refusal(service, peer, session_id="no-such-session"),
        await refusal(service, peer, session_id=""),
        await refusal(service, peer, resume_token=""),
        await refusal(service, peer, resume_token=token[:-1] + ("a" if token[-1] != "a" else "b")),
        await refusal(service, peer, resume_token=token[:-1]),
        await refusal(service, peer, resume_token=token + "a"),
        await refusal(service, peer, resume_token="\N{SNOWMAN}"),
        await refusal(service, peer, resume_token=gone.opened.resume_token),
        await refusal(service, peer, resume_token="", received=7),
        await refusal(service, gone),
        await refusal(service, plain),
    ]
    assert all(status == statuses[0] for status in statuses), statuses
    status = statuses[0]
    assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert (status.retry, status.metadata) == ("REOPEN", {})
    await works(peer, 1)


async def test_A2_a_token_is_random_and_long_enough(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peers = [await service.open("echo", resumable=True) for _ in range(20)]
    tokens = {peer.opened.resume_token for peer in peers}
    assert len(tokens) == len(peers) == len({peer.opened.session_id for peer in peers})
    assert all(len(token) >= 22 for token in tokens)  # 128 bits, at 6 bits a character
    assert not any(peer.opened.session_id in peer.opened.resume_token for peer in peers)


def by_name(metadata: Mapping[str, str], _peer: object) -> Principal:
    if "name" not in metadata:
        raise Unauthenticated("who are you?")
    return Principal(metadata["name"])


async def test_A2_a_session_is_resumed_only_by_the_principal_that_opened_it(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=by_name)
    peer = await service.open("echo", metadata=[("name", "ada")], resumable=True, command_format=JSON)
    await peer.send(events=say("one"), first_sequence=1)
    assert await values(peer, 1) == ["one"]

    eve = service.attach([("name", "eve")])
    await eve.send(resume=resume_of(peer))
    status = await eve.status()
    assert (status.code, status.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PRINCIPAL_MISMATCH")
    assert (status.retry, status.metadata["received"]) == ("NEVER", "1")

    guessing = service.attach([("name", "eve")])
    await guessing.send(resume=resume_of(peer, resume_token="no"))
    status = await guessing.status()
    assert (status.reason, status.metadata) == ("SESSION_NOT_FOUND", {})  # the token comes first

    await works(peer, 2)
    again = await service.resume(peer, received=2, metadata=[("name", "ada")])
    await works(again, 3)


async def test_A2_every_attach_is_authenticated_as_if_it_were_the_first(serve: Serve) -> None:
    service = await serve({"echo": echo}, authenticate=by_name)
    peer = await service.open("echo", metadata=[("name", "ada")], resumable=True, command_format=JSON)
    status = await refusal(service, peer)
    assert (status.code, status.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert (status.retry, status.metadata) == ("RESUME", {})
    await works(peer, 1)


# --- A3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("older", "newer", "retry"),
    [("one", "one", "RESUME"), ("one", "two", "NEVER"), ("one", "", "NEVER"), ("", "one", "NEVER"), ("", "", "NEVER")],
)
async def test_A3_the_older_stream_is_told_who_took_over(serve: Serve, older: str, newer: str, retry: str) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON, client_id=older)
    await works(peer, 1)
    again = await service.resume(peer, received=1, client_id=newer)
    status = await peer.status()
    assert (status.code, status.reason) == (grpc.StatusCode.ABORTED, "TAKEN_OVER")
    assert (status.retry, status.metadata["received"]) == (retry, "1")
    await works(again, 2)


async def test_A3_the_client_id_that_counts_is_that_of_the_older_attachment_not_of_the_open(serve: Serve) -> None:
    service = await serve({"echo": echo})
    first = await service.open("echo", resumable=True, client_id="one")
    second = await service.resume(first, client_id="two")
    third = await service.resume(first, client_id="one")
    await service.resume(first, client_id="one")
    assert [(await peer.status()).retry for peer in (first, second, third)] == ["NEVER", "NEVER", "RESUME"]


async def test_A3_the_newest_of_many_attachments_wins(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peers = [await service.open("echo", resumable=True, command_format=JSON)]
    for sequence in range(1, 11):
        await works(peers[-1], sequence)
        peers.append(await service.resume(peers[0], received=sequence))
    assert {(await peer.status()).reason for peer in peers[:-1]} == {"TAKEN_OVER"}
    await works(peers[-1], 11)


async def flood() -> None:
    """Send far more than a call buffers for a client that does not read, then echo."""
    session = get_current_session()
    for number in range(20):
        session.send_task_command({"command": "item", "spec": [number, CHUNK]})
    await echo()


@pytest.fixture
async def deaf(serve: Serve) -> AsyncIterator[tuple[Service, Peer]]:
    """A server, and a session whose client does not read: the server can write it nothing more, not even its end."""
    service = await serve({"flood": flood})
    narrow = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]  # else up to 6 MiB fit in
    async with grpc.aio.insecure_channel(service.server.address, narrow) as channel:
        peer = await Service(service.server, channel).open("flood", resumable=True, command_format=JSON, client_id="c")
        [managed] = service.server.manager
        await eventually(lambda: managed.outbox.sent)
        yield service, peer


async def flooded(peer: Peer) -> None:
    """Receive all that `flood` sends, and acknowledge it."""
    numbers: list[int] = []
    while len(numbers) < 20:
        response = await peer.receive()
        numbers += [value(command)[0] for command in response.commands]
        await peer.send(ack=len(numbers))
    assert numbers == list(range(20))


async def test_A3_a_session_is_taken_over_from_a_stream_whose_client_does_not_read(deaf: tuple[Service, Peer]) -> None:
    service, old = deaf
    peer = await service.resume(old, client_id="c")
    await flooded(peer)
    await works_after_flood(peer, "live")


async def works_after_flood(peer: Peer, text: str) -> None:
    await peer.send(events=say(text), first_sequence=1)
    assert await values(peer, 1) == [text]


@pytest.mark.parametrize("late", ["events", "close", "resume", "open"])
async def test_A3_what_the_older_stream_sends_late_has_no_effect(deaf: tuple[Service, Peer], late: str) -> None:
    service, old = deaf
    requests: dict[str, dict[str, Any]] = {
        "events": {"events": say("ghost"), "first_sequence": 1, "ack": 1},
        "close": {"close": pb.Close(now=True)},
        "resume": {"resume": resume_of(old)},
        "open": {"open": pb.Open(app="flood", resumable=True)},
    }
    peer = await service.resume(old)
    assert await old.send(**requests[late])  # it does not know yet
    await flooded(peer)
    await works_after_flood(peer, "mine")
    assert sessions(service) == 1


async def test_A3_how_the_older_stream_ends_has_no_effect(deaf: tuple[Service, Peer]) -> None:
    service, old = deaf
    peer = await service.resume(old)
    old.cancel()
    await flooded(peer)
    await works_after_flood(peer, "mine")
    [managed] = service.server.manager
    assert managed.stream is not None


async def test_A3_a_stream_that_was_let_go_of_learns_it_when_its_client_reads_again(deaf: tuple[Service, Peer]) -> None:
    service, old = deaf
    await service.resume(old, client_id="c")
    status = await old.status()
    assert (status.reason, status.retry) == ("TAKEN_OVER", "RESUME")


async def test_A3_a_refused_attach_disturbs_nobody(serve: Serve) -> None:
    go = asyncio.Event()

    async def app() -> None:
        await go.wait()  # no event, whose ack would wake the stream, too
        get_current_session().send_task_command({"command": "item", "spec": "hello"})
        await echo()

    service = await serve({"app": app}, authenticate=lambda metadata, _: Principal(metadata.get("name", "")))
    peer = await service.open("app", resumable=True, command_format=JSON)
    assert (await refusal(service, peer, received=1)).reason == "RESUME_IMPOSSIBLE"
    assert (await refusal(service, peer, resume_token="no")).reason == "SESSION_NOT_FOUND"
    other = service.attach([("name", "eve")])
    await other.send(resume=resume_of(peer), events=say("no"), first_sequence=1)
    assert (await other.status()).reason == "PRINCIPAL_MISMATCH"
    go.set()
    assert await values(peer, 1) == ["hello"]
    await works(peer, 1)


# --- A4 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acked", [0, 1, 7, 20])
@pytest.mark.parametrize("received", [0, 1, 7, 20])
async def test_A4_a_resume_replays_exactly_what_the_client_has_not(
    serve: Serve, kind: Kind, received: int, acked: int
) -> None:
    if acked > received:
        acked, received = received, acked
    go = kind.gate()

    async def app(session: AbstractSession) -> None:
        while True:
            session.send_task_command({"command": "echo", "spec": await kind.event(session)})

    service = await serve({"app": kind.app(app)})
    peer = await service.open("app", resumable=True, command_format=JSON)
    await peer.send(events=say(*range(1, 21)), first_sequence=1)
    assert await values(peer, 20) == list(range(1, 21))
    await peer.send(ack=acked)
    peer.cancel()

    again = service.attach()
    await again.send(resume=resume_of(peer, received=received))
    response = await again.receive()
    assert (response.WhichOneof("control"), response.resumed.received) == ("resumed", 20)
    assert not response.commands
    assert await values(again, 20 - received) == list(range(received + 1, 21))
    await works(again, 21)
    go.open()


async def test_A4_a_resume_works_before_anything_was_said(serve: Serve, kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        while True:
            session.send_task_command({"command": "echo", "spec": await kind.event(session)})

    service = await serve({"app": kind.app(app)})
    peer = await service.open("app", resumable=True, command_format=JSON)
    for _ in range(3):
        peer.cancel()
        peer = await service.resume(peer)
        assert peer.resumed.received == 0
    await works(peer, 1)


async def test_A4_events_that_had_arrived_are_dropped_when_they_are_sent_again(serve: Serve) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=say(1, 2, 3), first_sequence=1)
    await values(peer, 3)
    again = service.attach()  # and it does not wait for `resumed`
    await again.send(resume=resume_of(peer, received=3), events=say(1, 2, 3, 4), first_sequence=1)
    await again.send(events=say(5), first_sequence=5)
    assert (await again.receive()).resumed.received == 3
    assert await values(again, 2) == [4, 5]


# --- A5 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("received", [0, 1, 6, 2**64 - 1])
async def test_A5_a_resume_from_where_the_server_cannot_go_on_is_refused(serve: Serve, received: int) -> None:
    service = await serve({"echo": echo})
    peer = await service.open("echo", resumable=True, command_format=JSON)
    await peer.send(events=say(*range(1, 6)), first_sequence=1)
    await values(peer, 5)
    await peer.send(ack=2)
    await works(peer, 6)
    await peer.send(ack=3)
    await works(peer, 7)
    status = await refusal(service, peer, received=received if received != 6 else 8)
    assert (status.code, status.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_IMPOSSIBLE")
    assert (status.retry, status.metadata["received"]) == ("REOPEN", "7")
    await works(peer, 8)
    for possible in (8, 3, 5):
        peer = await service.resume(peer, received=possible)
        await values(peer, 8 - possible)


async def second_open(service: Service, peer: Peer) -> Status:
    await peer.send(open=pb.Open())
    return await peer.status()


async def future_ack(service: Service, peer: Peer) -> Status:
    await peer.send(ack=100)
    return await peer.status()


async def no_sequence(service: Service, peer: Peer) -> Status:
    await peer.send(events=say(1))
    return await peer.status()


async def gap(service: Service, peer: Peer) -> Status:
    await peer.send(events=say(1), first_sequence=100)
    return await peer.status()


async def bad_payload(service: Service, peer: Peer) -> Status:
    await peer.send(events=[pb.Event(json="{")], first_sequence=4)
    return await peer.status()


async def taken_over(service: Service, peer: Peer) -> Status:
    await service.resume(peer, received=3)
    return await peer.status()


async def silence(service: Service, peer: Peer) -> Status:
    return await peer.status()


async def too_far(service: Service, peer: Peer) -> Status:
    return await refusal(service, peer, received=100)


async def repeated_too_late(service: Service, peer: Peer) -> Status:
    await peer.send(ack=1)
    await works(peer, 4)
    again = service.attach()
    await again.send(open=pb.Open(app="echo", resumable=True, request_id="a-request-id-of-some-length"))
    status = await again.status()
    assert status.metadata.pop("received") == "4"
    return Status(**{**vars(status), "metadata": {**status.metadata, "received": "3"}})


async def request_id_reused(service: Service, peer: Peer) -> Status:
    again = service.attach()
    await again.send(open=pb.Open(app="other", resumable=True, request_id="a-request-id-of-some-length"))
    return await again.status()


REFUSALS: list[tuple[Callable[[Service, Peer], Awaitable[Status]], str]] = [
    (second_open, "PROTOCOL_VIOLATION"),
    (future_ack, "PROTOCOL_VIOLATION"),
    (no_sequence, "PROTOCOL_VIOLATION"),
    (gap, "SEQUENCE_GAP"),
    (bad_payload, "PAYLOAD_INVALID"),
    (taken_over, "TAKEN_OVER"),
    (silence, "HEARTBEAT_LOST"),
    (too_far, "RESUME_IMPOSSIBLE"),
    (repeated_too_late, "RESUME_IMPOSSIBLE"),
    (request_id_reused, "REQUEST_ID_REUSED"),
]


@pytest.mark.parametrize(("refuse", "reason"), REFUSALS, ids=[refuse.__name__ for refuse, _ in REFUSALS])
async def test_A5_every_refusal_of_a_known_session_says_how_far_it_got(
    serve: Serve, refuse: Callable[[Service, Peer], Awaitable[Status]], reason: str
) -> None:
    service = await serve({"echo": echo, "other": echo}, heartbeat_interval=0.1 if refuse is silence else 25.0)
    peer = await service.open("echo", resumable=True, request_id="a-request-id-of-some-length", command_format=JSON)
    for sequence in (1, 2, 3):
        await works(peer, sequence)
    status = await refuse(service, peer)
    assert (status.reason, status.metadata.get("received")) == (reason, "3")


# --- A6 ---------------------------------------------------------------------------------------------------------------


def request(app: str = "app", **fields: Any) -> pb.Open:
    return pb.Open(app=app, resumable=True, request_id=str(uuid.uuid4()), command_format=JSON, **fields)


async def send_open(service: Service, open_: pb.Open, **options: Any) -> Peer:
    """Send an open, and go on when it was answered with `opened`."""
    peer = service.attach(**options)
    await peer.send(open=open_)
    response = await peer.receive()
    assert response.HasField("opened"), response
    peer.opened = response.opened
    return peer


async def refused_open(service: Service, open_: pb.Open) -> Status:
    peer = service.attach()
    await peer.send(open=open_)
    assert await peer.receive_all() == []
    return await peer.status()


async def test_A6_a_repeated_open_finds_the_session_with_everything_from_1(serve: Serve, kind: Kind) -> None:
    runs: list[str] = []

    async def app(session: AbstractSession) -> None:
        runs.append(session.id)
        session.send_task_command({"command": "item", "spec": "hello"})
        while True:
            session.send_task_command({"command": "echo", "spec": await kind.event(session)})

    service = await serve({"app": kind.app(app)})
    open_ = request()
    lost = service.attach()
    await lost.send(open=open_, events=say(1, 2), first_sequence=1)
    await lost.receive_until(lambda response: response.first_sequence + len(response.commands) > 3)
    lost.cancel()

    for _ in range(2):  # as often as it takes
        peer = await send_open(service, open_)
        assert await values(peer, 3) == ["hello", 1, 2]
        assert (peer.opened.session_id, len(runs)) == (runs[0], 1)
        peer.cancel()
    peer = service.attach()
    await peer.send(open=open_, events=say(1, 2, 3), first_sequence=1)
    response = await peer.receive()
    assert response.opened.session_id == runs[0]
    peer.opened = response.opened
    assert await values(peer, 4) == ["hello", 1, 2, 3]
    peer = await service.resume(peer, received=4)  # the same token, too
    await peer.send(events=say("still"), first_sequence=4)
    assert await values(peer, 1) == ["still"]
    assert len(runs) == 1


async def test_A6_an_open_whose_answer_nobody_waits_for_runs_the_app_once(serve: Serve) -> None:
    runs: list[int] = []

    async def app() -> None:
        runs.append(1)
        await echo()

    service = await serve({"app": app})
    open_ = request()
    for _ in range(10):
        lost = service.attach()
        await lost.send(open=open_)
        lost.cancel()
    peer = await send_open(service, open_)
    await works(peer, 1)
    assert (len(runs), sessions(service)) == (1, 1)


async def test_A6_of_opens_that_race_one_session_comes(serve: Serve) -> None:
    runs: list[int] = []

    async def app() -> None:
        runs.append(1)
        await echo()

    service = await serve({"app": app})
    open_ = request(client_id="c")
    async with service.connect() as other:
        peers = [end.attach() for end in (service, other) * 5]
        await asyncio.gather(*(peer.send(open=open_) for peer in peers))
        # The newest wins, and which one that is only the server knows: the nine others end.
        ends = [asyncio.create_task(peer.receive_all()) for peer in peers]
        await eventually(lambda: sum(end.done() for end in ends) == 9)
        for peer, end in zip(peers, ends, strict=True):
            if end.done():
                assert [response.WhichOneof("control") for response in end.result()] in ([], ["opened"])
                status = await peer.status()
                assert (status.reason, status.retry) == ("TAKEN_OVER", "RESUME")
            else:
                await peer.send(events=say("mine"), first_sequence=1, close=pb.Close())
                await peer.half_close()
                opened, *rest = await end
    assert opened.HasField("opened")
    assert [value(command) for response in rest for command in response.commands] == ["mine"]
    assert (len(runs), sessions(service)) == (1, 1)


async def test_A6_a_repeated_open_takes_over_like_a_resume(serve: Serve) -> None:
    service = await serve({"app": echo})
    open_ = request(client_id="c")
    first = await send_open(service, open_)
    second = await send_open(service, open_)
    status = await first.status()
    assert (status.code, status.reason, status.retry) == (grpc.StatusCode.ABORTED, "TAKEN_OVER", "RESUME")
    assert second.opened == first.opened
    await works(second, 1)


async def test_A6_a_repeated_open_is_refused_once_a_command_has_been_acknowledged(serve: Serve) -> None:
    service = await serve({"app": echo})
    open_ = request()
    peer = await send_open(service, open_)
    await works(peer, 1)
    await peer.send(ack=1)
    await works(peer, 2)
    status = await refused_open(service, open_)
    assert (status.code, status.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_IMPOSSIBLE")
    assert (status.retry, status.metadata["received"]) == ("REOPEN", "2")
    await works(peer, 3)  # and disturbs nobody


async def test_A6_a_request_id_belongs_to_one_principal(serve: Serve) -> None:
    service = await serve({"app": echo}, authenticate=by_name)
    open_ = request()
    ada = await send_open(service, open_, metadata=[("name", "ada")])
    eve = await send_open(service, open_, metadata=[("name", "eve")])
    assert ada.opened.session_id != eve.opened.session_id
    await works(ada, 1)
    await works(eve, 1)


async def test_A6_a_request_id_with_another_app_is_refused(serve: Serve) -> None:
    service = await serve({"app": echo, "other": echo})
    open_ = request()
    peer = await send_open(service, open_)
    for name in ("other", "no such app"):
        open_.app = name
        status = await refused_open(service, open_)
        assert (status.code, status.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
        assert status.retry == "NEVER"
    await works(peer, 1)


async def test_A6_a_request_id_that_is_too_short_is_refused(serve: Serve) -> None:
    service = await serve({"app": echo})
    status = await refused_open(service, pb.Open(app="app", resumable=True, request_id="123456789012345"))
    assert (status.code, status.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROTOCOL_VIOLATION")
    assert (status.retry, sessions(service)) == ("NEVER", 0)
    await send_open(service, pb.Open(app="app", resumable=True, request_id="1234567890123456"))


async def test_A6_a_repeated_open_is_looked_up_before_limits(serve: Serve) -> None:
    service = await serve({"app": echo}, max_sessions=1)
    open_ = request()
    lost = service.attach()
    await lost.send(open=open_)
    await lost.receive()
    assert (await refused_open(service, request())).reason == "SESSION_LIMIT"
    peer = await send_open(service, open_)
    await works(peer, 1)


async def test_A6_a_repeated_open_is_looked_up_before_shutdown(serve: Serve) -> None:
    service = await serve({"app": echo})
    open_ = request()
    lost = await send_open(service, open_)
    drain = asyncio.create_task(service.server.manager.drain(60.0))
    await lost.receive_until(lambda response: response.HasField("draining"))
    assert (await refused_open(service, request())).reason == "DRAINING"
    peer = await send_open(service, open_)
    assert (await peer.receive()).HasField("draining")
    await peer.send(events=say("last"), first_sequence=1, close=pb.Close())
    assert (await closed(peer)).sequence == 2
    await peer.send(ack=2)
    await drain


async def finished(service: Service, peer: Peer) -> None:
    """Read the rest, and acknowledge it: the session is forgotten."""
    await peer.send(ack=(await closed(peer)).sequence)
    assert (await peer.status()).code is grpc.StatusCode.OK
    assert sessions(service) == 0


async def test_A6_a_repeat_that_comes_after_the_end_runs_nothing_again(serve: Serve) -> None:
    runs: list[int] = []

    async def app() -> None:
        runs.append(1)

    service = await serve({"app": app})
    open_ = request()
    await finished(service, await send_open(service, open_))
    for _ in range(2):
        status = await refused_open(service, open_)
        assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        assert status.retry == "REOPEN"
    assert len(runs) == 1


async def test_A6_a_request_id_is_remembered_until_the_resume_window_has_passed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "REQUEST_ID_MEMORY", 0.0)  # the other bound, 120 seconds
    service = await serve({"app": three}, resume_window=60.0)
    open_ = request()
    await finished(service, await send_open(service, open_))
    assert (await refused_open(service, open_)).reason == "SESSION_NOT_FOUND"


async def test_A6_a_repeated_open_finds_a_session_that_has_ended_undelivered(serve: Serve) -> None:
    service = await serve({"app": three})
    open_ = request()
    lost = service.attach()
    await lost.send(open=open_)
    assert (await closed(lost)).sequence == 4
    lost.cancel()
    peer = await send_open(service, open_)
    assert await ending(peer) == ([1, 2, 3], 4)


# --- A7 ---------------------------------------------------------------------------------------------------------------


async def test_A7_an_ended_session_can_be_resumed_until_its_end_is_acknowledged(serve: Serve, kind: Kind) -> None:
    go = kind.gate()

    async def app(session: AbstractSession) -> None:
        await kind.at(go)
        session.send_task_command({"command": "item", "spec": "last"})

    service = await serve({"app": kind.app(app)})
    peer = await service.open("app", resumable=True, command_format=JSON)
    peer.cancel()
    [managed] = service.server.manager
    await eventually(lambda: managed.stream is None)
    go.open()
    await eventually(lambda: managed.session.ended)
    for received, rest in [(0, ["last"]), (0, ["last"]), (1, [])]:
        peer = await service.resume(peer, received=received)
        assert await ending(peer) == (rest, 2)
        peer.cancel()
    peer = await service.resume(peer, received=2)  # it has `closed`, but its ack was lost
    peer.cancel()
    peer = await service.resume(peer, received=1)
    await finished(service, peer)
    assert (await refusal(service, peer)).reason == "SESSION_NOT_FOUND"


async def test_A7_the_stream_stays_open_after_closed_until_that_is_acknowledged(serve: Serve) -> None:
    service = await serve({"app": three}, heartbeat_interval=0.1)
    peer = await service.open("app", resumable=True, command_format=JSON)
    sequence = (await closed(peer)).sequence
    assert await peer.receive() == pb.AttachResponse()
    await peer.send(ack=sequence - 1)
    assert await peer.receive() == pb.AttachResponse()
    await peer.send(ack=sequence)
    status = await peer.status()
    assert (status.code, status.reason, sessions(service)) == (grpc.StatusCode.OK, "", 0)


async def test_A7_after_closed_a_half_close_ends_the_call_and_the_session_waits_on(serve: Serve) -> None:
    service = await serve({"app": three})
    peer = await service.open("app", resumable=True, command_format=JSON)
    await closed(peer)
    await peer.half_close()
    assert (await peer.status()).code is grpc.StatusCode.OK
    peer = await service.resume(peer, received=3)
    await finished(service, peer)


async def test_A7_a_session_nobody_comes_back_for_is_forgotten(serve: Serve, kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "item", "spec": 1})

    service = await serve({"app": kind.app(app)}, resume_window=0.1)
    peer = await service.open("app", resumable=True)
    peer.cancel()
    await eventually(lambda: sessions(service) == 0)
    assert (await refusal(service, peer)).reason == "SESSION_NOT_FOUND"


async def test_A7_when_the_time_is_over_the_call_ends_ok_if_closed_was_written_on_it(serve: Serve) -> None:
    service = await serve({"app": three}, resume_window=0.1)
    peer = await service.open("app", resumable=True, command_format=JSON)
    await closed(peer)
    status = await peer.status()
    assert (status.code, sessions(service)) == (grpc.StatusCode.OK, 0)


async def test_A7_when_the_time_is_over_the_call_ends_undelivered_if_closed_was_not_written(serve: Serve) -> None:
    service = await serve({"app": three}, resume_window=0.1)
    peer = await service.open("app", resumable=True, command_format=JSON, command_window=pb.Window(messages=2))
    assert await values(peer, 2) == [1, 2]
    status = await peer.status()
    assert (status.code, status.reason) == (grpc.StatusCode.ABORTED, "ENDED_UNDELIVERED")
    assert (status.retry, status.metadata["received"]) == ("NEVER", "0")
    assert sessions(service) == 0


async def test_A7_an_ack_that_advances_prolongs_the_time(serve: Serve) -> None:
    async def app() -> None:
        session = get_current_session()
        for number in range(15):
            session.send_task_command({"command": "item", "spec": number})

    # The heartbeats are the clock: one ack each, for longer than the resume window.
    service = await serve({"app": app}, resume_window=1.0, heartbeat_interval=0.1)
    peer = await service.open("app", resumable=True)
    sequence = (await closed(peer)).sequence
    for ack in range(1, sequence):
        await peer.receive_until(lambda response: response == pb.AttachResponse())
        await peer.send(ack=ack)
    await peer.send(ack=sequence)
    assert (await peer.status()).code is grpc.StatusCode.OK


async def test_A7_a_heartbeat_or_an_old_ack_does_not_prolong_the_time(serve: Serve) -> None:
    service = await serve({"app": three}, resume_window=0.3, heartbeat_interval=0.1)
    peer = await service.open("app", resumable=True)
    await closed(peer)
    await peer.send(ack=1)
    while await peer._read() is not None:
        await peer.send(ack=1)
    assert ((await peer.status()).code, sessions(service)) == (grpc.StatusCode.OK, 0)


# --- A8 ---------------------------------------------------------------------------------------------------------------


async def test_A8_a_resume_while_deferred_calls_run_is_served_like_any_other(serve: Serve, kind: Kind) -> None:
    started, go = kind.gate(), kind.gate()

    async def app(session: AbstractSession) -> None:
        async def deferred() -> None:
            started.open()
            await kind.at(go)

        session.defer_call(kind.function(deferred))
        session.send_task_command({"command": "item", "spec": "last"})

    service = await serve({"app": kind.app(app)}, heartbeat_interval=0.1)
    peer = await service.open("app", resumable=True, command_format=JSON)
    await started.opened()
    assert await values(peer, 1) == ["last"]
    for received in (0, 1):
        peer.cancel()
        peer = await service.resume(peer, received=received)
        assert await values(peer, 1 - received) == ["last"][received:]
        assert await peer.receive() == pb.AttachResponse()
    older, peer = peer, await service.resume(peer, received=1)
    assert (await older.status()).reason == "TAKEN_OVER"
    go.open()
    await finished(service, peer)
