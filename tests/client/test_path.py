"""Paths with a will of their own, over real sockets: what never passes is given up, and nothing else is (D7)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from session_client import (
    AttachmentState,
    CloseReason,
    PoisonedEvent,
    RetryPolicy,
    SessionClient,
    SessionLost,
    SyncSessionClient,
)

from session_service import Window
from tests.session.kinds import eventually

from .fake import FakeCall, Script, opened, resumed
from .served import QUICK, FakeServes, RelayTo, Serve, client_tasks, echo
from .test_reconnect import Seen

LOST, RESUMED = AttachmentState.LOST, AttachmentState.RESUMED


@pytest.fixture(autouse=True)
def short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold a suspected event back for 0.5 seconds instead of 5."""
    monkeypatch.setattr("session_client.patience.HOLD", 0.5)


BIG = "x" * 400_000


@pytest.mark.parametrize("event", [BIG, "DROP TABLE"], ids=["a size", "a text"])
async def test_what_never_passes_is_given_up_with_its_sequence_and_size(
    serve: Serve, relay_to: RelayTo, event: str
) -> None:
    served = await serve({"echo": echo}, event_window=Window(1024, 8 << 20))
    relay, seen = await relay_to(served.address), Seen()
    relay.most, relay.offence = 200_000, b"DROP TABLE"
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client:
        async with client.open("echo") as session:
            await session.send_event("say", "before")
            assert (await anext(session)).spec == "before"
            await session.send_event("say", event)
            await session.send_event("say", "after")
            with pytest.raises(PoisonedEvent, match="event 2") as caught:
                await anext(session)
            assert isinstance(caught.value, SessionLost)
            assert (caught.value.sequence, caught.value.taken_over) == (2, 1)
            assert len(event) < caught.value.size < len(event) + 100
            with pytest.raises(PoisonedEvent):
                await session.send_event("say", "more")
        assert client_tasks() == []
    assert seen.states.count(LOST) == 5
    assert seen.changes[-1].retry_in is None
    assert session.closed is None


async def test_an_innocent_event_is_delivered_though_it_shares_a_message_with_one_that_never_passes(
    serve: Serve, relay_to: RelayTo
) -> None:
    served = await serve({"echo": echo})
    relay = await relay_to(served.address)
    relay.offence = b"POISON"
    async with SessionClient(relay.address, retry=QUICK) as client, client.open("echo") as session:
        for event in ("one", "two", "POISON", "four"):
            await session.send_event("say", event)
        assert [(await anext(session)).spec for _ in range(2)] == ["one", "two"]
        with pytest.raises(PoisonedEvent, match="event 3") as caught:
            await anext(session)
        assert (caught.value.sequence, caught.value.taken_over) == (3, 2)


async def test_what_passes_when_it_is_held_back_was_none(serve: Serve, relay_to: RelayTo) -> None:
    """A filter that is taken away while the event is held back."""
    served = await serve({"echo": echo})
    relay, seen = await relay_to(served.address), Seen()
    relay.offence = b"DROP TABLE"
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client, client.open("echo") as session:
        await session.send_event("say", "DROP TABLE")
        await seen.resumed(3)
        relay.offence = None
        assert (await anext(session)).spec == "DROP TABLE"
        await session.send_event("say", "more")
        assert (await anext(session)).spec == "more"
    assert seen.states.count(LOST) == 3


async def test_close_now_does_not_wait_for_an_event_that_is_held_back(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay, seen = await relay_to(served.address), Seen()
    relay.offence = b"DROP TABLE"
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client, client.open("echo") as session:
        await session.send_event("say", "DROP TABLE")
        await seen.resumed(3)
        assert (await session.close(now=True)).reason is CloseReason.CLIENT


def cut(*, heartbeat: float = 25.0, after: int = 0) -> Script:
    """Attach, read one message and so many heartbeats, acknowledge nothing, and break."""

    async def script(call: FakeCall) -> None:
        request = await call.read()
        assert request is not None
        if request.HasField("open"):
            await call.write(opened=opened(heartbeat=heartbeat))
        else:
            await call.write(resumed=resumed(heartbeat=heartbeat))
        for _ in range(after + 1):
            await call.read()
            await call.write()
        await call.end(grpc.StatusCode.UNAVAILABLE)

    return script


async def send_and_wait(address: str, **options: Any) -> Any:
    async with SessionClient(address, **options) as client, client.open("app") as session:
        await session.send_event("say", 1)
        return await anext(session)


async def test_a_proxy_that_cuts_after_50_ms_ends_the_patience_and_not_the_event(
    fake_server: FakeServes, relay_to: RelayTo
) -> None:
    async def script(call: FakeCall) -> None:
        request = await call.read()
        if request is not None and request.HasField("open"):
            await call.write(opened=opened())
        elif request is not None:
            await call.write(resumed=resumed())
        await call.read_all()

    fake = await fake_server(*[script] * 10_000)
    relay = await relay_to(fake.address)
    policy = RetryPolicy(initial=0.1, maximum=0.2, total=2.0)
    async with SessionClient(relay.address, retry=policy) as client, client.open("app") as session:
        relay.lifetime = 0.05
        relay.cut()
        await session.send_event("say", 1)
        with pytest.raises(SessionLost, match="not reached within 2 s") as caught:
            await anext(session)
    assert not isinstance(caught.value, PoisonedEvent)


async def test_an_idle_session_is_not_lost_however_often_its_stream_is_cut(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo}, heartbeat_interval=0.2)
    relay, seen = await relay_to(served.address), Seen()
    relay.lifetime = 0.3
    policy = RetryPolicy(initial=0.01, maximum=0.02, total=1.0)
    async with SessionClient(relay.address, retry=policy, on_attachment=seen) as client, client.open("echo") as session:
        await seen.resumed(6)
        relay.lifetime = None
        await session.send_event("say", 1)
        assert (await anext(session)).spec == 1


async def test_a_session_with_an_event_that_waits_lives_on_streams_that_have_lived(fake_server: FakeServes) -> None:
    """The app is busy, and the path cuts: each stream lives for longer than an interval of heartbeats."""

    async def well(call: FakeCall) -> None:
        await call.read()
        await call.write(resumed=resumed())
        request = await call.read_until(lambda request: request.events)
        assert request.first_sequence == 1
        await call.write(ack=1)
        await call.read_all()

    fake = await fake_server(*[cut(heartbeat=0.1, after=2)] * 8, well)
    policy = RetryPolicy(initial=0.01, maximum=0.02, total=0.5)
    async with SessionClient(fake.address, retry=policy) as client, client.open("app") as session:
        await session.send_event("say", 1)
        await eventually(lambda: session.taken_over == 1)
        await session.detach()
    assert len(fake.calls) == 9


async def test_a_busy_app_and_a_path_that_cuts_lose_nothing(serve: Serve, relay_to: RelayTo) -> None:
    goes_on = asyncio.Event()

    async def app() -> None:
        await goes_on.wait()
        await echo()

    served = await serve({"app": app}, event_window=Window(16, 1 << 16))
    relay, seen = await relay_to(served.address), Seen()
    async with SessionClient(relay.address, retry=QUICK, on_attachment=seen) as client, client.open("app") as session:
        for number in range(16):
            await session.send_event("say", [number, "x" * 4000])
        relay.lifetime = 0.3  # shorter than the time for which an event is held back
        relay.cut()
        await seen.resumed(8)
        relay.lifetime = None
        goes_on.set()
        assert [(await anext(session)).spec[0] for _ in range(16)] == list(range(16))


async def test_a_server_that_stalls_before_it_answers_ends_the_patience(fake_server: FakeServes) -> None:
    async def stall(call: FakeCall) -> None:
        await call.read_all()

    fake = await fake_server(cut(), *[stall] * 1000)
    policy = RetryPolicy(initial=0.01, maximum=0.02, total=0.5, attach_timeout=0.1)
    with pytest.raises(SessionLost, match="no answer within") as caught:
        await send_and_wait(fake.address, retry=policy)
    assert not isinstance(caught.value, PoisonedEvent)


async def test_breaks_for_which_the_server_gives_a_reason_are_not_the_event_s(fake_server: FakeServes) -> None:
    async def script(call: FakeCall) -> None:
        request = await call.read()
        assert request is not None
        await (call.write(opened=opened()) if request.HasField("open") else call.write(resumed=resumed()))
        await call.read_until(lambda request: request.events)
        await call.refuse("INTERNAL", "RESUME", grpc.StatusCode.INTERNAL)

    async def final(call: FakeCall) -> None:
        await call.read()
        await call.refuse("WHATEVER", "NEVER", grpc.StatusCode.ABORTED)

    fake = await fake_server(*[script] * 8, final)
    with pytest.raises(Exception, match="WHATEVER"):
        await send_and_wait(fake.address, retry=QUICK)
    assert len(fake.calls) == 9


async def test_a_poisoned_event_is_told_to_the_sync_client_too(serve: Serve, relay_to: RelayTo) -> None:
    served = await serve({"echo": echo})
    relay = await relay_to(served.address)
    relay.offence = b"DROP TABLE"

    def talk() -> None:
        with SyncSessionClient(relay.address, retry=QUICK) as client, client.open("echo") as session:
            session.send_event("say", "DROP TABLE")
            next(session)

    with pytest.raises(PoisonedEvent, match="event 1"):
        await asyncio.to_thread(talk)
