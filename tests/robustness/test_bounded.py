"""What a client may do to a server: its memory stays under a bound, and nobody else waits.

The server is a process of its own, so that its memory is nobody else's, and so is the bystander, whose every echo has
to come within 5 seconds. Each test states what its abusers may cost at most, in windows (docs/protocol.md, D5) and
messages (F7); what is counted is the peak. `make soak` does the same for longer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from session_service.config import Config
from session_service.v1 import session_pb2 as pb
from tests.protocol.peer import event
from tests.robustness import soak
from tests.robustness.soak import MIB, OWN_SESSIONS, Abuse, Gauge

WINDOW = Config().command_window.size
MESSAGE = Config().max_message_bytes
assert Config().event_window.size == WINDOW

# What is being written or read is held once more, or twice, until that is done: by protobuf, by gRPC.
BATCHES = 3 * 256 * 1024

# A session and its stream, when nothing happens, in bytes. Most of it is Python's and gRPC's.
SESSION = 64 * 1024

# What a process may need for anything else, and memory that it has given back to an allocator and not to the kernel.
SLACK = 16 * MIB

ABUSERS = 8


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[str, Gauge]]:
    """A server with a bystander: its address, and a gauge."""
    async with soak.serve(tmp_path) as (address, gauge), soak.bystander(address):
        yield address, gauge


# What one of these clients may cost.
COSTS = [
    # The session buffers a window, and its outbox keeps one; this client has two sessions.
    pytest.param(soak.never_reads, 2 * (2 * WINDOW + BATCHES), id="never-reads"),
    pytest.param(soak.never_acknowledges, 2 * WINDOW + BATCHES, id="never-acknowledges"),
    # The app sends on to the hard limit, of eight windows.
    pytest.param(soak.lets_an_app_run_on, 9 * WINDOW + BATCHES, id="lets-an-app-run-on"),
    # The mailboxes hold a window, another waits to be taken over, and gRPC has a message in hand.
    pytest.param(soak.floods, 2 * WINDOW + BATCHES, id="floods"),
    # Those, and the request that was too much, as bytes and as a message, if it is refused only now.
    pytest.param(soak.floods_beyond_its_window, 2 * WINDOW + 2 * MESSAGE, id="floods-beyond-its-window"),
    # One may wait alone whatever its size, in the mailbox, and to be taken over; gRPC has the next in hand; and an
    # allocator keeps some of what decoding it took, three times its size.
    pytest.param(soak.sends_frames_of_the_greatest_size, 4 * MESSAGE, id="sends-frames-of-the-greatest-size"),
]


@pytest.mark.parametrize(("abuse", "cost"), COSTS)
async def test_a_client_that_abuses_a_server_costs_what_its_windows_are(
    server: tuple[str, Gauge], abuse: Abuse, cost: int
) -> None:
    address, gauge = server
    before = await gauge.read("forget peak")
    async with soak.abusers(address, abuse, ABUSERS):
        during = await gauge.read()
    assert during.peak - before.rss <= ABUSERS * cost + SLACK, f"{(during.peak - before.rss) / MIB:.1f} MiB"


async def test_what_sessions_held_is_given_back_when_they_are_forgotten(server: tuple[str, Gauge]) -> None:
    """Though nobody has had it, and with no help of the garbage collector, which may come late."""
    address, gauge = server
    before = await gauge.read("collect garbage")
    for _ in range(3):
        async with soak.abusers(address, soak.never_reads, ABUSERS):
            during = await gauge.read()
            assert during.rss - before.rss <= ABUSERS * 2 * (2 * WINDOW + BATCHES) + SLACK
        await gauge.ended(OWN_SESSIONS)


async def test_leaving_by_the_thousand_leaves_nothing(server: tuple[str, Gauge]) -> None:
    address, gauge = server
    before = await gauge.read("forget peak")
    await soak.churn(address, 2000, [soak.leave_plain])
    after = await gauge.settled(OWN_SESSIONS)
    assert after.peak - before.rss <= SLACK, f"{(after.peak - before.rss) / MIB:.1f} MiB"


async def test_of_a_request_id_little_is_remembered(server: tuple[str, Gauge]) -> None:
    """It is for two minutes that a repeated open has to be recognised (A6), but not for the sake of a whole session."""
    address, gauge = server
    await soak.churn(address, 100, [soak.close_resumable])
    await gauge.settled(OWN_SESSIONS)


async def test_a_second_round_of_the_same_load_ends_like_the_first(server: tuple[str, Gauge]) -> None:
    address, gauge = server
    ends = []
    for _ in range(3):
        await soak.churn(address, 300)
        ends.append(await gauge.settled(OWN_SESSIONS))
    _, first, second = ends  # what is used for the first time, such as a pool of threads, is no leak
    assert soak.leaked(first, second, streams=360) == []


async def test_idle_sessions_cost_little(server: tuple[str, Gauge]) -> None:
    address, gauge = server
    before = await gauge.read("forget peak")
    async with soak.held(address, 600):
        during = await gauge.read()
        assert during.sessions == 600 + OWN_SESSIONS
        assert during.peak - before.rss <= 600 * SESSION, f"{(during.peak - before.rss) / 600 / 1024:.1f} KiB each"
    await gauge.settled(OWN_SESSIONS)


async def test_six_thousand_streams_that_begin_at_once_are_all_answered(server: tuple[str, Gauge]) -> None:
    address, gauge = server
    before = await gauge.read("forget peak")
    answers = await soak.storm(address, 6000)
    # Beyond its limit of pending calls gRPC itself would cancel, or refuse; a client comes back after either.
    assert answers.keys() <= {"opened", "SESSION_NOT_FOUND", "CANCELLED", "UNAVAILABLE"}, answers
    assert answers["opened"] + answers["SESSION_NOT_FOUND"] > 5900, answers
    after = await gauge.settled(OWN_SESSIONS)
    assert after.peak - before.rss <= 6000 * SESSION, f"{(after.peak - before.rss) / 6000 / 1024:.1f} KiB each"


async def test_sessions_beyond_the_limit_are_refused_and_the_others_go_on(tmp_path: Path) -> None:
    async with (
        soak.serve(tmp_path, SESSION_SERVICE_MAX_SESSIONS="50") as (address, _),
        soak.bystander(address),
        soak.held(address, 50 - OWN_SESSIONS) as peers,
        soak.connected(address) as service,
    ):
        peer = service.attach()
        await peer.send(open=pb.Open(app="echo"))
        status = await peer.status()
        assert (status.code, status.reason, status.retry) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "SESSION_LIMIT",
            "REOPEN",
        )
        for peer in peers:
            await peer.send(events=[event("say", 1)], first_sequence=1)
            await peer.receive_commands(1)
