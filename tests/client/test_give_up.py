"""Opens that are given up leave no app behind, whenever and however that happens (A6)."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest
from session_client import AttachmentState, RetryPolicy, SessionClient, SessionEnded, SessionLost

from session_service.v1 import session_pb2 as pb
from tests.session.kinds import eventually

from .fake import FakeCall, opened
from .served import FakeServes, RelayTo, Serve, client_tasks, echo

COMPLETED = pb.CLOSE_REASON_COMPLETED
either_kind = pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])


@either_kind
@pytest.mark.parametrize("how", ["cancelled", "a deadline"])
async def test_of_a_hundred_opens_given_up_at_random_moments_no_app_is_left(
    serve: Serve, resumable: bool, how: str
) -> None:
    served = await serve({"echo": echo})
    chance, entered = random.Random(7), 0

    async def give_up() -> None:
        nonlocal entered
        entering = client.open("echo", resumable=resumable).__aenter__()
        if how == "a deadline":
            try:
                await asyncio.wait_for(entering, chance.random() * 0.03)
            except TimeoutError:
                return
        else:
            task = asyncio.ensure_future(entering)
            for _ in range(chance.randrange(40)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            if task.cancelled():
                return
        entered += 1

    async with SessionClient(served.address) as client:
        for _ in range(10):
            await asyncio.gather(*(give_up() for _ in range(10)))
        await eventually(lambda: len(served.running) == entered)
    assert client_tasks() == []


@either_kind
async def test_closing_the_client_gives_up_what_is_being_opened(serve: Serve, resumable: bool) -> None:
    served, entered = await serve({"echo": echo}), set()
    for turns in range(0, 40, 2):
        client = SessionClient(served.address)
        entering = [asyncio.ensure_future(client.open("echo", resumable=resumable).__aenter__()) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.close()
        await asyncio.wait(entering)
        assert client_tasks() == []
        for task in entering:
            if (error := task.exception()) is not None:
                assert isinstance(error, SessionEnded)
        entered |= {task.result().id for task in entering if task.exception() is None}
    await eventually(lambda: all(managed.session.id in entered for managed in served.running))


async def test_close_with_now_is_the_next_message_and_the_client_half_closes(fake_server: FakeServes) -> None:
    came, said = asyncio.Event(), []

    async def script(call: FakeCall) -> None:
        await call.read()
        came.set()
        said.append(await call.read())
        assert await call.read() is None  # half-closed
        await call.write(opened=opened())
        await call.write(closed=pb.Closed(reason=COMPLETED, sequence=1))

    fake = await fake_server(script)
    told: list[AttachmentState] = []
    async with SessionClient(fake.address, on_attachment=lambda change: told.append(change.state)) as client:
        session = client.open("app")
        entering = asyncio.ensure_future(session.__aenter__())
        await came.wait()
        entering.cancel()
        await asyncio.wait({entering})
        assert entering.cancelled()
        for call in (session.send_event("say"), anext(session), session.close(), session.detach()):
            with pytest.raises(SessionEnded):
                await call
        assert session.closed is None
    assert client_tasks() == []
    [request] = said
    assert request is not None
    assert request.close.now
    assert len(fake.calls) == 1
    assert told == []  # nobody is attached, for anybody


@pytest.mark.parametrize("answered", [False, True], ids=["before opened", "after opened"])
async def test_where_the_stream_is_gone_the_open_is_repeated_once_and_closed(
    fake_server: FakeServes, answered: bool
) -> None:
    came, goes, closes = asyncio.Event(), asyncio.Event(), []

    async def cut(call: FakeCall) -> None:
        await call.read()
        came.set()
        await goes.wait()
        if answered:
            await call.write(opened=opened())
        await call.end(grpc.StatusCode.UNAVAILABLE)

    async def again(call: FakeCall) -> None:
        await call.read()
        request = await call.read()
        assert request is not None
        closes.append(request.close.now)
        await call.end(grpc.StatusCode.UNAVAILABLE)

    fake = await fake_server(cut, again)  # and no third: it is repeated once
    async with SessionClient(fake.address, retry=RetryPolicy(initial=3600, maximum=3600)) as client:
        entering = asyncio.ensure_future(client.open("app").__aenter__())
        await came.wait()
        entering.cancel()
        await asyncio.wait({entering})
        goes.set()
    assert client_tasks() == []
    assert closes == [True]
    assert fake.first_requests == ["open", "resume" if answered else "open"]
    if not answered:
        assert fake.calls[0].requests[0].open.request_id == fake.calls[1].requests[0].open.request_id


async def test_an_open_given_up_between_two_tries_is_repeated_at_once(fake_server: FakeServes) -> None:
    lost, closes = asyncio.Event(), []

    async def cut(call: FakeCall) -> None:
        await call.read()
        await call.end(grpc.StatusCode.UNAVAILABLE)

    async def again(call: FakeCall) -> None:
        await call.read()
        request = await call.read()
        assert request is not None
        closes.append(request.close.now)
        await call.write(opened=opened(), ack=0)
        await call.write(closed=pb.Closed(reason=COMPLETED, sequence=1))

    fake = await fake_server(cut, again)
    policy = RetryPolicy(initial=10_000.0, maximum=10_000.0, total=1e9)
    async with SessionClient(fake.address, retry=policy, on_attachment=lambda _: lost.set()) as client:
        entering = asyncio.ensure_future(client.open("app").__aenter__())
        await lost.wait()
        entering.cancel()
        await asyncio.wait({entering})
    assert closes == [True]


async def test_an_open_whose_time_is_over_is_closed_where_it_comes_through_after_all(
    serve: Serve, relay_to: RelayTo
) -> None:
    served = await serve({"echo": echo})
    relay = await relay_to(served.address)
    policy = RetryPolicy(initial=0.01, maximum=0.02, total=0.3, attach_timeout=2.0)
    relay.lifetime = 0.05
    async with SessionClient(relay.address, retry=policy) as client:
        relay.black_hole()
        entering = asyncio.ensure_future(client.open("echo").__aenter__())
        with pytest.raises(SessionLost):
            await entering
        relay.lifetime = None
        relay.restore()
    await eventually(lambda: not served.running)


@pytest.mark.parametrize("retry", ["NEVER", "REOPEN"])
async def test_what_was_refused_is_not_opened_to_be_closed(fake_server: FakeServes, retry: str) -> None:
    lost = asyncio.Event()

    async def refuse(call: FakeCall) -> None:
        await call.read()
        await call.refuse("SESSION_LIMIT", retry, grpc.StatusCode.RESOURCE_EXHAUSTED, delay=5.0)

    fake = await fake_server(refuse)
    async with SessionClient(fake.address, on_attachment=lambda _: lost.set()) as client:
        entering = asyncio.ensure_future(client.open("app").__aenter__())
        await lost.wait()
        entering.cancel()
        await asyncio.wait({entering})
    assert len(fake.calls) == 1


async def test_what_was_never_written_is_not_waited_for(relay_to: RelayTo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("session_client.session.LEAVE_TIME", 3600.0)
    relay = await relay_to("127.0.0.1:1")
    relay.black_hole()
    async with SessionClient(relay.address) as client:
        entering = asyncio.ensure_future(client.open("app").__aenter__())
        await eventually(lambda: relay.connections)
        entering.cancel()
        await asyncio.wait({entering})


async def test_a_server_that_never_answers_is_waited_for_only_so_long(
    fake_server: FakeServes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_client.session.LEAVE_TIME", 0.2)
    came = asyncio.Event()

    async def stall(call: FakeCall) -> None:
        await call.read()
        came.set()
        await call.read_all()
        await asyncio.Event().wait()

    fake = await fake_server(stall)
    async with SessionClient(fake.address) as client:
        entering = asyncio.ensure_future(client.open("app").__aenter__())
        await came.wait()
        entering.cancel()
        await asyncio.wait({entering})
    assert client_tasks() == []


async def test_a_resume_that_is_given_up_leaves_the_session_as_it_is(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client:
        async with client.open("echo") as session:
            position = await session.detach()
        for turns in range(0, 40, 3):
            entering = asyncio.ensure_future(client.resume(position).__aenter__())
            for _ in range(turns):
                await asyncio.sleep(0)
            entering.cancel()
            await asyncio.wait({entering})
            if not entering.cancelled():
                await entering.result().detach()
        async with client.resume(position) as session:
            await session.send_event("say", 1)
            assert (await anext(session)).spec == 1
