"""Connections that are cut, refused and held up, through a relay: the client comes back by itself and loses nothing."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest
from session_client import (
    Attachment,
    AttachmentState,
    ClientSession,
    CloseReason,
    RetryPolicy,
    SessionClient,
    SessionClientError,
    SessionLost,
)
from session_client.retry import Backoff

from session_service import SessionClosedException, Window, get_current_session
from session_service.host import App
from tests.session.kinds import eventually

from .relay import Relay
from .served import QUICK, RelayTo, Serve, client_tasks, echo

ATTACHED, RESUMED, LOST = AttachmentState.ATTACHED, AttachmentState.RESUMED, AttachmentState.LOST


class Seen:
    """An ``on_attachment`` hook that remembers."""

    def __init__(self) -> None:
        self.changes: list[Attachment] = []

    def __call__(self, change: Attachment) -> None:
        self.changes.append(change)

    @property
    def states(self) -> list[AttachmentState]:
        return [change.state for change in self.changes]

    async def resumed(self, times: int = 1) -> None:
        """Wait until it has come back so often."""
        await eventually(lambda: self.states.count(RESUMED) >= times)

    async def lost(self, times: int = 1) -> None:
        """Wait until the connection was lost so often."""
        await eventually(lambda: self.states.count(LOST) >= times)


# --- when to try again ------------------------------------------------------------------------------------------------


def test_the_delays_double_up_to_a_limit_each_anywhere_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", random.Random(7).uniform)
    policy = RetryPolicy(initial=0.2, maximum=10.0)
    bounds = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    rounds = []
    backoff = Backoff(policy)
    for _ in range(500):
        rounds.append([backoff.next() for _ in bounds])
        backoff.reset()
    for delays, bound in zip(zip(*rounds, strict=True), bounds, strict=True):
        assert all(0 <= delay <= bound for delay in delays)
        assert min(delays) < bound * 0.05  # full jitter: from nothing
        assert max(delays) > bound * 0.95  # to all of it
        assert bound * 0.4 < sum(delays) / len(delays) < bound * 0.6


def test_the_delays_stay_in_bounds_however_often_it_tries() -> None:
    backoff = Backoff(RetryPolicy(initial=0.2, maximum=3.0))
    assert max(backoff.next() for _ in range(5000)) <= 3.0


def test_the_first_delay_is_bounded_by_the_maximum_too() -> None:
    assert max(Backoff(RetryPolicy(initial=5.0, maximum=0.1)).next() for _ in range(100)) <= 0.1


# --- cuts -------------------------------------------------------------------------------------------------------------


async def test_a_cut_is_told_and_resumed_from_and_nothing_is_lost(
    serve: Serve, relay_to: RelayTo, echo_app: App
) -> None:
    served = await serve({"echo": echo_app})
    relay, seen = await relay_to(served.address), Seen()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client:
        async with client.open("echo") as session:
            await session.send_event("say", "one")
            assert (await anext(session)).spec == "one"
            await session.send_event("say", "two")
            relay.cut()
            await session.send_event("say", "three")
            assert [(await anext(session)).spec for _ in range(2)] == ["two", "three"]
            assert served.only.generation == 2
        assert session.closed is not None
    assert seen.states == [ATTACHED, LOST, RESUMED]
    lost = seen.changes[1]
    assert lost.session is session
    assert lost.error
    assert lost.retry_in is not None
    assert 0 <= lost.retry_in <= QUICK.initial
    assert relay.connections == 2


async def test_what_is_sent_while_nobody_answers_arrives_later(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, seen = await relay_to(served.address), Seen()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client, client.open("echo") as session:
        await relay.refuse()
        for number in range(50):
            await session.send_event("say", number)
        await seen.lost(3)
        assert not session.attached
        assert session.taken_over == 0
        await relay.accept()
        assert [(await anext(session)).spec for _ in range(50)] == list(range(50))
    assert seen.states[-1] is RESUMED
    assert set(seen.states[1:-1]) == {LOST}


async def test_the_delays_are_short_again_after_progress(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, seen = await relay_to(served.address), Seen()
    policy = RetryPolicy(initial=0.01, maximum=60.0)
    async with SessionClient(relay.address, retry=policy, on_attachment=seen) as client, client.open("echo") as session:
        for times in range(1, 16):  # else the last bound were 0.01 * 2**14 = 160 s
            relay.cut()
            await seen.resumed(times)
            await session.send_event("say", times)
            assert (await anext(session)).spec == times
        assert session.attached
    delays = [change.retry_in or 0.0 for change in seen.changes if change.state is LOST]
    firsts = [change.retry_in or 0.0 for before, change in pairwise(seen.changes) if before.state is not LOST]
    assert len(delays) >= 15
    assert max(delay for delay in firsts if delay) <= 0.01


async def test_an_open_that_is_cut_off_is_repeated_and_runs_the_app_once(serve: Serve, relay_to: RelayTo) -> None:
    runs: list[int] = []
    relay: Relay

    async def app() -> None:
        runs.append(1)
        if len(runs) == 1:
            relay.cut()  # before `opened` is written
        await echo()

    served = await serve({"app": app})
    relay, seen = await relay_to(served.address), Seen()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client, client.open("app") as session:
        await session.send_event("say", 1)
        assert (await anext(session)).spec == 1
    assert len(runs) == 1
    assert seen.states == [LOST, ATTACHED]


async def test_a_server_that_starts_late_is_waited_for(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, seen = await relay_to(served.address), Seen()
    await relay.refuse()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client:
        entering = asyncio.create_task(client.open("echo").__aenter__())
        await seen.lost(2)
        await relay.accept()
        session = await entering
        await session.close()
        await session.__aexit__(None, None, None)


async def test_commands_wait_while_nobody_is_attached_and_are_replayed(serve: Serve, relay_to: RelayTo) -> None:
    async def app() -> None:
        session = get_current_session()
        for number in range(100):
            session.send_task_command({"command": "count", "spec": number})
            await session.drain()

    served = await serve({"app": app})
    relay = await relay_to(served.address)
    window = Window(8, 1 << 20)
    async with (
        SessionClient(relay.address, retry=QUICK, command_window=window) as client,
        client.open("app") as session,
    ):
        got = []
        async for command in session:
            got.append(command.spec)
            if len(got) % 10 == 0:
                relay.cut()
        assert got == list(range(100))
        assert session.closed is not None
        assert session.closed.reason is CloseReason.COMPLETED
    await eventually(lambda: not served.sessions)


async def test_an_ack_that_was_lost_is_told_again(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, seen = await relay_to(served.address), Seen()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client, client.open("echo") as session:
        await session.send_event("say", 1)
        await anext(session)
        waiting = asyncio.ensure_future(anext(session))
        await eventually(lambda: session._waiters)  # asked for the next: the ack is due
        relay.cut()
        await seen.resumed()
        await eventually(lambda: served.only.outbox.acked == 1)
        await session.send_event("say", 2)
        assert (await waiting).spec == 2


async def test_close_goes_again_after_a_cut(serve: Serve, relay_to: RelayTo) -> None:
    may_end = asyncio.Event()

    async def app() -> None:
        try:
            await get_current_session().next_client_event()
        except SessionClosedException:
            await may_end.wait()

    served = await serve({"app": app})
    relay, seen = await relay_to(served.address), Seen()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client, client.open("app") as session:
        closing = asyncio.create_task(session.close())
        await eventually(lambda: served.only._end_requested)
        relay.cut()
        await seen.resumed()
        may_end.set()
        assert (await closing).reason is CloseReason.COMPLETED


async def test_the_end_is_heard_by_a_client_that_was_away(serve: Serve, relay_to: RelayTo) -> None:
    may_end = asyncio.Event()

    async def app() -> None:
        await may_end.wait()
        get_current_session().send_task_command({"command": "last", "spec": "words"})

    served = await serve({"app": app})
    relay, seen = await relay_to(served.address), Seen()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client, client.open("app") as session:
        await relay.refuse()
        await seen.lost()
        may_end.set()
        await eventually(lambda: served.only.session.ended)
        await relay.accept()
        assert [command.spec async for command in session] == ["words"]
        assert session.closed is not None
        assert session.closed.reason is CloseReason.COMPLETED
    await eventually(lambda: not served.sessions)


async def test_closed_and_every_command_in_hand_are_enough_whatever_the_connection_does(
    serve: Serve, relay_to: RelayTo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_client.session.LEAVE_TIME", 0.05)  # how long it tries to acknowledge that

    async def app() -> None:
        for number in range(3):
            get_current_session().send_task_command({"command": "count", "spec": number})

    served = await serve({"app": app})
    relay = await relay_to(served.address)
    async with SessionClient(relay.address, retry=QUICK) as client:
        async with client.open("app") as session:
            await eventually(lambda: session.closed)
            await relay.refuse()
            assert [command.spec async for command in session] == [0, 1, 2]
        assert session.closed is not None
        assert session.closed.reason is CloseReason.COMPLETED
        assert client_tasks() == []


async def test_detach_in_the_time_between_waits_for_the_next_attachment(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, seen = await relay_to(served.address), Seen()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client:
        async with client.open("echo") as session:
            await relay.refuse()
            await session.send_event("say", 1)
            detaching = asyncio.create_task(session.detach())
            await seen.lost(2)
            assert not detaching.done()
            await relay.accept()
            position = await detaching
            assert position.sent == 1
        async with client.resume(position) as session:
            assert (await anext(session)).spec == 1


async def test_what_a_dead_process_had_not_delivered_is_seen_from_taken_over(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay = await relay_to(served.address)
    dying = SessionClient(relay.address, retry=QUICK)
    session = await dying.open("echo").__aenter__()
    await session.send_event("say", 1)
    await anext(session)
    await relay.refuse()
    await session.send_event("say", 2)
    position = session.position
    await dying.close()
    async with SessionClient(served.address) as client, client.resume(position) as session:
        assert (position.sent, session.taken_over) == (2, 1)
        await session.send_event("say", 2)
        assert (await anext(session)).spec == 2
        assert session.position.sent == 2


# --- how long it tries ------------------------------------------------------------------------------------------------


async def test_a_session_that_is_not_reached_in_time_is_lost(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, seen = await relay_to(served.address), Seen()
    policy = RetryPolicy(initial=0.01, maximum=0.02, total=0.2)
    async with SessionClient(relay.address, retry=policy, on_attachment=seen) as client:
        async with client.open("echo") as session:
            await session.send_event("say", 1)
            await anext(session)
            await relay.refuse()
            await session.send_event("say", 2)
            with pytest.raises(SessionLost, match="not reached within") as caught:
                await anext(session)
            assert caught.value.taken_over == 1
            with pytest.raises(SessionLost):
                await session.send_event("say", 3)
        assert client_tasks() == []
    assert seen.states.count(LOST) >= 2
    assert seen.changes[-1].state is LOST
    assert seen.changes[-1].retry_in is None  # there is no next try


async def test_the_time_limit_begins_anew_with_each_lost_connection(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, seen, loop = await relay_to(served.address), Seen(), asyncio.get_running_loop()
    policy = RetryPolicy(initial=0.01, maximum=0.02, total=1.0)
    async with SessionClient(relay.address, retry=policy, on_attachment=seen) as client, client.open("echo") as session:
        started, times = loop.time(), 0
        while loop.time() < started + 1.2:  # longer than it may be without a connection
            times += 1
            relay.cut()
            await seen.resumed(times)
        await session.send_event("say", 1)
        assert (await anext(session)).spec == 1


@pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])
async def test_a_server_that_is_never_there_is_told_as_an_error(relay_to: RelayTo, resumable: bool) -> None:
    relay = await relay_to("127.0.0.1:1")
    await relay.refuse()
    policy = RetryPolicy(initial=0.01, maximum=0.02, total=0.1)
    async with SessionClient(relay.address, retry=policy) as client:
        with pytest.raises(SessionLost) as caught:
            await client.open("echo", resumable=resumable).__aenter__()
        assert caught.value.taken_over == 0
        assert client_tasks() == []


async def test_leaving_with_an_exception_does_not_wait_for_a_server_that_is_gone(
    serve: Serve, relay_to: RelayTo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_client.session.LEAVE_TIME", 0.05)
    served = await serve({"echo": echo})
    relay = await relay_to(served.address)
    async with SessionClient(relay.address, retry=QUICK) as client:
        session = client.open("echo")
        reading: asyncio.Task[Any] | None = None
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it leaves the session
            async with session:
                reading = asyncio.ensure_future(anext(session))
                await relay.refuse()
                raise ZeroDivisionError
        assert reading is not None
        with pytest.raises((SessionClientError, StopAsyncIteration)):  # not stuck
            await reading
        for call in (session.close(), session.send_event("say", 1), session.detach()):
            with pytest.raises(SessionClientError):
                await call
        assert client_tasks() == []


async def test_a_plain_session_does_not_come_back(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, seen = await relay_to(served.address), Seen()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client:
        with pytest.raises(SessionLost, match="plain"):  # noqa: PT012 - it leaves the session
            async with client.open("echo", resumable=False) as session:
                await session.send_event("say", 1)
                await anext(session)
                relay.cut()
                await anext(session)
        assert session.taken_over == 0
    assert seen.states == [ATTACHED, LOST]
    await eventually(lambda: not served.sessions)


# --- silence ----------------------------------------------------------------------------------------------------------


async def test_a_silent_connection_is_noticed_and_left(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo}, heartbeat_interval=0.2)
    relay, seen = await relay_to(served.address), Seen()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client, client.open("echo") as session:
        relay.black_hole()
        await session.send_event("say", 1)
        await seen.lost()
        assert "silent" in seen.changes[1].error
        relay.restore()
        assert (await anext(session)).spec == 1
    assert RESUMED in seen.states


async def test_an_attach_that_nobody_answers_is_given_up_and_tried_again(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, seen = await relay_to(served.address), Seen()
    relay.black_hole()
    policy = RetryPolicy(initial=0.01, maximum=0.02, attach_timeout=0.05)
    async with SessionClient(relay.address, retry=policy, on_attachment=seen) as client:
        entering = asyncio.create_task(client.open("echo").__aenter__())
        await seen.lost(2)
        relay.restore()
        session = await entering
        await session.send_event("say", 1)
        assert (await anext(session)).spec == 1
        await session.close()
    assert len(served.sessions) <= 1


async def test_a_connection_on_which_nothing_happens_stays(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo}, heartbeat_interval=0.2)
    relay, seen = await relay_to(served.address), Seen()
    for resumable in (True, False):
        async with (
            SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client,
            client.open("echo", resumable=resumable) as session,
        ):
            for _ in range(5):  # heartbeats; three intervals of silence would end it on either side
                await relay.passed(1)
            assert session.attached
    assert seen.states == [ATTACHED, ATTACHED]


# --- all of it --------------------------------------------------------------------------------------------------------


async def converse(session: ClientSession, rounds: int) -> list[Any]:
    """Say each number, up to twenty ahead of the echo, and close: the transcript."""
    ahead = asyncio.Semaphore(20)

    async def send() -> None:
        for number in range(rounds):
            await ahead.acquire()
            await session.send_event("say", number)

    sender = asyncio.create_task(send())
    heard: list[Any] = []
    async for command in session:
        heard.append(command.spec)
        ahead.release()
        if len(heard) == rounds:
            break
    await sender
    closed = await session.close()
    heard += [command.spec async for command in session]
    return [*heard, closed.reason]


async def test_a_conversation_with_thirty_cuts_reads_like_one_without(
    serve: Serve, relay_to: RelayTo, echo_app: App
) -> None:
    served = await serve({"echo": echo_app})
    relay, seen, chance = await relay_to(served.address), Seen(), random.Random(5)

    async def cut() -> None:
        for times in range(1, 31):
            await relay.passed(chance.randrange(1, 1500))
            relay.cut()
            await seen.resumed(times)

    async with SessionClient(served.address) as client, client.open("echo") as session:
        whole = await converse(session, 2000)
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client, client.open("echo") as session:
        cutting = asyncio.create_task(cut())
        with_cuts = await converse(session, 2000)
        cutting.cancel()
        await asyncio.gather(cutting, return_exceptions=True)
    assert with_cuts == whole == [*range(2000), CloseReason.CLIENT]
    assert seen.states.count(RESUMED) >= 25
    await eventually(lambda: not served.sessions)
