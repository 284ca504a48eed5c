"""The admin service: what it shows, whom, and how it ends sessions and servers."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, cast

import grpc
import pytest
from cryptography import x509
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from session_service import Principal, Window, get_current_session
from session_service.config import Config
from session_service.errors import Unauthenticated
from session_service.server import Server
from session_service.server.watch import records
from session_service.v1 import admin_pb2 as pb
from session_service.v1 import session_pb2
from session_service.v1.admin_pb2_grpc import SessionAdminServiceStub

from ..cli.program import PATIENCE, Program, Served
from ..protocol.peer import Peer, Serve, Service, event
from .authority import Authority

ROOT = Path(__file__).parents[2]
PATH = f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}"

UNSPECIFIED = pb.SESSION_STATE_UNSPECIFIED
ATTACHED, DETACHED, ENDED = pb.SESSION_STATE_ATTACHED, pb.SESSION_STATE_DETACHED, pb.SESSION_STATE_ENDED


async def echo() -> None:
    session = get_current_session()
    while True:
        event = await session.next_client_event()
        session.send_task_command({"command": "echo", "spec": event["data"]})


async def idle() -> None:
    await get_current_session().next_client_event()


async def brief() -> None:
    get_current_session().send_task_command({"command": "bye", "spec": "x" * 100})


APPS = {"echo": echo, "idle": idle, "brief": brief}


class Refusal(NamedTuple):
    """How a call was refused."""

    code: grpc.StatusCode
    reason: str
    domain: str


async def refusal(call: Awaitable[object]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    status: Any = rpc_status.from_call(raised.value)  # type: ignore[arg-type]  # it has all that is asked for
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        detail.Unpack(info)
    return Refusal(raised.value.code(), info.reason, info.domain)


class Admin:
    """An administrator of a server, over a connection of their own."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self.channel = channel
        self.stub = SessionAdminServiceStub(channel)
        self.metadata = tuple(metadata)

    async def page(self, **request: Any) -> pb.ListSessionsResponse:
        return await self.stub.ListSessions(pb.ListSessionsRequest(**request), metadata=self.metadata)

    async def ids(self, **request: Any) -> list[str]:
        return [session.session_id for session in (await self.page(**request)).sessions]

    async def get(self, session_id: str) -> pb.GetSessionResponse:
        return await self.stub.GetSession(pb.GetSessionRequest(session_id=session_id), metadata=self.metadata)

    async def close(self, session_id: str, **request: Any) -> pb.CloseSessionResponse:
        request["session_id"] = session_id
        return await self.stub.CloseSession(pb.CloseSessionRequest(**request), metadata=self.metadata)

    async def drain(self, grace: float | None = None) -> pb.DrainResponse:
        request = pb.DrainRequest() if grace is None else pb.DrainRequest(grace=seconds(grace))
        return await self.stub.Drain(request, metadata=self.metadata)

    async def watch(self, **request: Any) -> Watch:
        """Begin to watch, which the server says when it does."""
        call = self.stub.WatchSessions(pb.WatchSessionsRequest(**request), metadata=self.metadata)
        await call.initial_metadata()
        return Watch(call)

    async def health(self, service: str) -> str:
        check = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        response = await check(health_pb2.HealthCheckRequest(service=service))
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


class Watch:
    """A watch; nothing is read before it is asked for."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, pb.WatchSessionsResponse]) -> None:
        self.call = call

    async def next(self) -> pb.WatchSessionsResponse:
        async with asyncio.timeout(PATIENCE):
            response = await self.call.read()
        assert isinstance(response, pb.WatchSessionsResponse), response
        return response

    async def next_changes(self, count: int) -> list[tuple[str, str]]:
        """Return the next changes, as words, and whose they are."""
        responses = [await self.next() for _ in range(count)]
        return [(word(response.change), response.session.session_id) for response in responses]

    async def ends_well(self) -> bool:
        """Tell whether it ends with OK, and says nothing else."""
        async with asyncio.timeout(PATIENCE):
            return await self.call.read() is grpc.aio.EOF and await self.call.code() is grpc.StatusCode.OK


def word(change: pb.SessionChange.ValueType) -> str:
    return pb.SessionChange.Name(change).removeprefix("SESSION_CHANGE_").lower()


def seconds(grace: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(grace), nanos=round(grace % 1 * 1e9))


def id_of(peer: Peer) -> str:
    return peer.opened.session_id


Administer = Callable[..., Admin]


@pytest.fixture
async def administer() -> AsyncIterator[Administer]:
    """Connect to the admin service of a server."""
    async with AsyncExitStack() as stack:

        def administer(address: str, metadata: Sequence[tuple[str, str]] = ()) -> Admin:
            # Without probes the window of a stream is small, and a watcher that does not read is noticed.
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
            channel = grpc.aio.insecure_channel(address, options)
            stack.push_async_callback(channel.close)
            return Admin(channel, metadata)

        yield administer


class Administered(NamedTuple):
    """A server in this process, and its administrator."""

    service: Service
    admin: Admin


@pytest.fixture
def start(serve: Serve, administer: Administer) -> Callable[..., Awaitable[Administered]]:
    async def start(**settings: Any) -> Administered:
        service = await serve(APPS, admin_listen="127.0.0.1:0", **settings)
        return Administered(service, administer(service.server.admin_address))

    return start


Start = Callable[..., Awaitable[Administered]]


def by_name(metadata: Any, _: object) -> Principal:
    """Believe the metadata ``name``."""
    if "name" not in metadata:
        raise Unauthenticated("say your name")
    return Principal(metadata["name"])


async def wait_detached(admin: Admin, session_id: str) -> None:
    """Wait until a session has lost its stream."""
    async with asyncio.timeout(PATIENCE):
        while (await admin.get(session_id)).session.state != DETACHED:
            pass


# --- lists ------------------------------------------------------------------------------------------------------------


async def test_a_list_says_of_each_session_what_it_is_and_where_it_stands(start: Start) -> None:
    service, admin = await start()
    assert not (await admin.page()).sessions
    plain = await service.open("echo")
    resumable = await service.open("idle", resumable=True)
    response = await admin.page()
    first, second = response.sessions
    assert response.next_page_token == ""
    assert (first.session_id, first.app, first.state, first.resumable) == (id_of(plain), "echo", ATTACHED, False)
    assert (second.session_id, second.app, second.state, second.resumable) == (id_of(resumable), "idle", ATTACHED, True)
    assert first.peer.startswith("ipv4:127.0.0.1:")
    assert (first.generation, first.close_reason) == (1, session_pb2.CLOSE_REASON_UNSPECIFIED)
    assert first.open_time.ToNanoseconds() < second.open_time.ToNanoseconds()


async def test_filters_go_together(start: Start, administer: Administer) -> None:
    service, _ = await start(authenticate=by_name)
    admin = administer(service.server.admin_address, [("name", "root")])
    there: list[tuple[str, str, str, pb.SessionState.ValueType]] = []
    for name in ("ada", "bob"):
        for kind, stands in (("echo", ATTACHED), ("idle", DETACHED), ("brief", ENDED)):
            peer = await service.open(kind, metadata=[("name", name)], resumable=True)
            if stands == DETACHED:
                peer.cancel()
                await wait_detached(admin, id_of(peer))
            elif stands == ENDED:
                await peer.receive_until(lambda response: response.HasField("closed"))
            there.append((id_of(peer), kind, name, stands))
    for app, principal, state in itertools.product(
        ("", "echo", "idle", "brief", "none"), ("", "ada", "bob", "eve"), (UNSPECIFIED, ATTACHED, DETACHED, ENDED)
    ):
        expected = [
            session_id
            for session_id, kind, name, stands in there
            if app in ("", kind) and principal in ("", name) and state in (UNSPECIFIED, stands)
        ]
        assert await admin.ids(app=app, principal=principal, state=state) == expected


async def test_pages_lose_and_repeat_nothing_while_sessions_come_and_go(start: Start) -> None:
    service, admin = await start()
    peers = [await service.open("idle") for _ in range(7)]
    before = [id_of(peer) for peer in peers]
    page = await admin.page(page_size=3)
    assert [session.session_id for session in page.sessions] == before[:3]
    for gone in (peers[2], peers[3]):  # the last of the page, where the next one begins, and the first of the next
        await gone.send(close=session_pb2.Close())
        await gone.receive_all()
    late = id_of(await service.open("idle"))
    page = await admin.page(page_size=3, page_token=page.next_page_token)
    assert [session.session_id for session in page.sessions] == before[4:]
    page = await admin.page(page_size=3, page_token=page.next_page_token)
    assert ([session.session_id for session in page.sessions], page.next_page_token) == ([late], "")


async def test_the_last_page_is_known_to_be_the_last(start: Start) -> None:
    service, admin = await start()
    for app in ("echo", "idle", "echo"):
        await service.open(app)
    assert (await admin.page(page_size=3)).next_page_token == ""
    assert (await admin.page(page_size=1, app="idle")).next_page_token == ""
    assert (await admin.page(page_size=2)).next_page_token != ""


async def test_a_page_is_100_sessions_by_default_and_1000_at_most(start: Start) -> None:
    service, admin = await start()
    for _ in range(1001):
        service.server.manager.open("idle", info=None, params={})  # type: ignore[arg-type]  # nobody asks for it
    assert len((await admin.page()).sessions) == 100
    page = await admin.page(page_size=2**31 - 1)
    assert len(page.sessions) == 1000
    assert len((await admin.page(page_token=page.next_page_token)).sessions) == 1


# --- one session ------------------------------------------------------------------------------------------------------


async def test_a_session_is_shown_with_its_sequences_and_what_is_pending(start: Start) -> None:
    service, admin = await start()
    peer = await service.open("echo", resumable=True, command_window=session_pb2.Window(messages=2))
    await peer.send(events=[event("say", "x" * 100) for _ in range(5)], first_sequence=1)
    commands = await peer.receive_commands(2)
    async with asyncio.timeout(PATIENCE):
        while (shown := await admin.get(id_of(peer))).commands.pending < 3:
            pass
    assert (shown.events.taken, shown.events.received, shown.events.pending) == (5, 5, 0)
    flow = shown.commands
    assert (flow.acked, flow.sent, flow.last, flow.pending, flow.window.messages) == (0, 2, 2, 3, 2)
    assert flow.unacked_bytes == sum(command.ByteSize() for command in commands)
    assert flow.pending_bytes > 300
    assert shown.session.lag == 5
    await peer.send(ack=2)
    await peer.receive_commands(2)
    shown = await admin.get(id_of(peer))
    assert (shown.commands.acked, shown.commands.last, shown.session.lag) == (2, 4, 3)
    assert shown.resume_window.seconds == 120


async def test_events_that_wait_are_counted_where_they_wait(serve: Serve, administer: Administer) -> None:
    release = asyncio.Event()

    async def deaf() -> None:
        await release.wait()

    window = {"event_window": Window(16, 1 << 20)}
    service = await serve({"deaf": deaf}, admin_listen="127.0.0.1:0", **window)
    admin = administer(service.server.admin_address)
    peer = await service.open("deaf")
    await peer.send(events=[event("say", "x" * 100) for _ in range(20)])
    async with asyncio.timeout(PATIENCE):
        while (shown := await admin.get(id_of(peer))).events.received < 20:
            pass
    assert (shown.events.taken, shown.events.pending, shown.tasks[0].pending) == (16, 16, 16)
    assert shown.events.pending_bytes > 1600
    assert 400 < shown.events.received_bytes < 800
    assert (shown.events.stalls, shown.tasks[0].waiting) == (1, False)
    release.set()


async def test_tasks_and_callbacks_are_shown_with_their_names(serve: Serve, administer: Administer) -> None:
    release = asyncio.Event()

    class Game:
        async def play(self) -> None:
            session = get_current_session()
            session.register_callback(self.on_click, serial_mode=True)
            session.run_task(self.tick)
            await session.next_client_event()

        async def tick(self) -> None:
            await release.wait()

        async def on_click(self, _: object) -> None:
            await release.wait()

    service = await serve({"game": Game().play}, admin_listen="127.0.0.1:0")
    admin = administer(service.server.admin_address)
    peer = await service.open("game")
    await peer.send(events=[event("callback", task_id="callback-2") for _ in range(3)])
    async with asyncio.timeout(PATIENCE):
        while (shown := await admin.get(id_of(peer))).callbacks[0].waiting < 2:
            pass
    names = [(task.task_id, task.name.rpartition(".<locals>.")[2], task.waiting) for task in shown.tasks]
    assert names == [
        ("main-1", "Game.play", True),
        ("task-3", "Game.tick", False),
        ("callback-2-1", "Game.on_click", False),
    ]
    (callback,) = shown.callbacks
    assert (callback.callback_id, callback.runs, callback.running, callback.waiting) == ("callback-2", 1, 1, 2)
    assert callback.name.endswith("Game.on_click")
    assert (shown.task_count, shown.callback_count) == (3, 1)
    assert not any(task.stack for task in shown.tasks)
    release.set()


async def test_what_there_is_too_much_of_is_counted(serve: Serve, administer: Administer) -> None:
    async def many() -> None:
        session = get_current_session()
        for _ in range(150):
            session.register_callback(print)
            session.run_task(idle)
        await session.next_client_event()

    service = await serve({"many": many}, admin_listen="127.0.0.1:0")
    admin = administer(service.server.admin_address)
    shown = await admin.get(id_of(await service.open("many")))
    assert (len(shown.tasks), shown.task_count) == (100, 151)
    assert (len(shown.callbacks), shown.callback_count) == (100, 150)


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_where_tasks_are_is_shown_in_debug_mode(serve: Serve, administer: Administer, kind: str) -> None:
    def in_thread() -> None:
        get_current_session().next_client_event()

    app = idle if kind == "coroutine" else in_thread
    service = await serve({"app": app}, admin_listen="127.0.0.1:0", debug=True)
    admin = administer(service.server.admin_address)
    peer = await service.open("app")
    async with asyncio.timeout(PATIENCE):
        while not (shown := await admin.get(id_of(peer))).tasks[0].waiting:
            pass
    (task,) = shown.tasks
    assert "get_current_session().next_client_event()" in task.stack
    assert len(task.stack) <= 4000


async def test_the_streams_of_a_session_are_remembered_with_why_they_ended(start: Start) -> None:
    service, admin = await start()
    first = await service.open("idle", resumable=True, client_id="a")
    second = await service.resume(first, client_id="b", headers={"User-Agent": "Telephone"})
    await first.status()
    second.cancel()
    await wait_detached(admin, id_of(first))
    await service.resume(first, client_id="b")
    attachments = (await admin.get(id_of(first))).attachments
    assert [(one.generation, one.client_id, one.detach_reason) for one in attachments] == [
        (1, "a", "TAKEN_OVER"),
        (2, "b", "LOST"),
        (3, "b", ""),
    ]
    assert attachments[1].user_agent == "Telephone"
    assert all(one.peer.startswith("ipv4:127.0.0.1:") for one in attachments)
    assert [one.HasField("detach_time") for one in attachments] == [True, True, False]
    times = [one.attach_time.ToNanoseconds() for one in attachments]
    assert times == sorted(times)
    assert attachments[0].detach_time.ToNanoseconds() <= times[1]


async def test_only_the_latest_streams_are_remembered(start: Start) -> None:
    service, admin = await start()
    peer = await service.open("idle", resumable=True)
    for _ in range(20):
        await service.resume(peer)
    shown = await admin.get(id_of(peer))
    assert [one.generation for one in shown.attachments] == list(range(6, 22))
    assert shown.session.generation == 21


async def test_a_session_that_has_ended_is_shown_until_it_is_forgotten(start: Start) -> None:
    service, admin = await start()
    peer = await service.open("brief", resumable=True)
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    shown = (await admin.get(id_of(peer))).session
    assert (shown.state, shown.close_reason, shown.lag) == (ENDED, session_pb2.CLOSE_REASON_COMPLETED, 2)
    await peer.send(ack=responses[-1].closed.sequence)
    await peer.receive_all()
    assert await refusal(admin.get(id_of(peer))) == (
        grpc.StatusCode.NOT_FOUND,
        "SESSION_NOT_FOUND",
        "session_service",
    )
    assert await admin.ids() == []


# --- watches ----------------------------------------------------------------------------------------------------------


async def test_a_watch_tells_what_becomes_of_a_session(start: Start) -> None:
    service, admin = await start()
    watch = await admin.watch()
    peer = await service.open("idle", resumable=True)
    peer.cancel()
    assert await watch.next_changes(3) == [(what, id_of(peer)) for what in ("opened", "attached", "detached")]
    resumed = await service.resume(peer)
    await resumed.send(close=session_pb2.Close())
    attached, ended = await watch.next(), await watch.next()
    assert (word(attached.change), attached.session.generation) == ("attached", 2)
    assert (word(ended.change), ended.session.close_reason) == ("ended", session_pb2.CLOSE_REASON_CLIENT)
    assert ended.session.state == ENDED
    (closed,) = [response.closed for response in await resumed.receive_until(lambda r: r.HasField("closed"))][-1:]
    await resumed.send(ack=closed.sequence)
    detached = await watch.next()
    assert (word(detached.change), detached.detach_reason) == ("detached", "ENDED")
    assert attached.time.ToNanoseconds() <= ended.time.ToNanoseconds() <= detached.time.ToNanoseconds()


async def test_a_watch_tells_of_the_sessions_that_it_was_asked_for(start: Start, administer: Administer) -> None:
    service, _ = await start(authenticate=by_name)
    admin = administer(service.server.admin_address, [("name", "root")])
    watch = await admin.watch(app="echo", principal="ada")
    for app, name in (("idle", "ada"), ("echo", "bob"), ("echo", "ada")):
        peer = await service.open(app, metadata=[("name", name)])
    assert await watch.next_changes(2) == [("opened", id_of(peer)), ("attached", id_of(peer))]


async def test_a_watcher_that_never_reads_is_told_what_it_missed_and_nothing_grows(
    start: Start, administer: Administer, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 50
    monkeypatch.setattr(records, "MOST_CHANGES", most)
    service, _ = await start(authenticate=by_name)
    name = [("name", "x" * 1000)]  # so that few changes fill what gRPC keeps for a reader
    admin = administer(service.server.admin_address, name)
    slow, quick = await admin.watch(), await admin.watch()
    told: list[pb.WatchSessionsResponse] = []

    async def read_on() -> None:
        while len(told) < 4 * count:
            told.append(await quick.next())

    count = 100
    reading = asyncio.create_task(read_on())
    for _ in range(count):
        peer = await service.open("idle", metadata=name)
        await peer.send(close=session_pb2.Close())
        await peer.receive_all()
    async with asyncio.timeout(PATIENCE):
        await reading
    assert not any(change.missed for change in told)
    assert service.server._admin is not None
    assert max(len(watcher._changes) for watcher in service.server._admin.records.watchers) == most

    kept: list[pb.WatchSessionsResponse] = []
    while not kept or not kept[-1].missed:
        kept.append(await slow.next())
    assert len(kept) - 1 + kept[-1].missed == 4 * count
    assert [change.session.session_id for change in kept[:-1]] == [
        change.session.session_id for change in told[: len(kept) - 1]
    ]
    peer = await service.open("idle", metadata=name)
    assert await slow.next_changes(2) == [("opened", id_of(peer)), ("attached", id_of(peer))]


async def test_a_watcher_that_leaves_is_forgotten(start: Start) -> None:
    service, admin = await start()
    watch = await admin.watch()
    assert service.server._admin is not None
    watchers = service.server._admin.records.watchers
    assert len(watchers) == 1
    watch.call.cancel()
    async with asyncio.timeout(PATIENCE):
        while watchers:
            await admin.page()


async def test_a_watch_ends_when_its_credentials_expire(serve: Serve, administer: Administer) -> None:
    def authenticate(*_: object) -> Principal:
        return Principal("ada", expires_at=time.time() + 0.05)

    service = await serve(APPS, admin_listen="127.0.0.1:0", authenticate=authenticate)
    watch = await administer(service.server.admin_address).watch()
    assert await refusal(watch.call.read()) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "session_service")


# --- the end of a session ---------------------------------------------------------------------------------------------


async def closed(peer: Peer) -> session_pb2.Closed:
    return (await peer.receive_until(lambda response: response.HasField("closed")))[-1].closed


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("now", [False, True])
async def test_a_client_is_told_the_reason_of_an_administrator(start: Start, now: bool, resumable: bool) -> None:
    service, admin = await start()
    peer = await service.open("echo", resumable=resumable)
    response = await admin.close(id_of(peer), reason="the room is needed", now=now)
    assert response.session.session_id == id_of(peer)
    told = await closed(peer)
    assert (told.reason, told.message) == (session_pb2.CLOSE_REASON_SERVER, "the room is needed")


async def test_an_app_finishes_what_it_has_unless_it_is_closed_now(serve: Serve, administer: Administer) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        session = get_current_session()
        await session.next_client_event()
        began.set()
        await release.wait()
        event = await session.next_client_event()  # has been taken over
        session.send_task_command({"command": "done", "spec": event["data"]})
        await session.next_client_event()

    service = await serve({"work": work}, admin_listen="127.0.0.1:0")
    admin = administer(service.server.admin_address)
    peer = await service.open("work")
    await peer.send(events=[event("one"), event("two", 2)])
    await began.wait()
    await admin.close(id_of(peer), reason="soon")
    release.set()
    assert [command.command for command in await peer.receive_commands(1)] == ["done"]
    assert (await closed(peer)).message == "soon"

    release.clear()
    peer = await service.open("work")
    began.clear()
    await peer.send(events=[event("one"), event("two", 2)])
    await began.wait()
    await admin.close(id_of(peer), reason="at once", now=True)
    assert (await closed(peer)).message == "at once"


async def test_an_app_that_completes_has_completed_and_the_client_still_learns_why(
    serve: Serve, administer: Administer
) -> None:
    release = asyncio.Event()

    async def work() -> None:
        await release.wait()

    service = await serve({"work": work}, admin_listen="127.0.0.1:0")
    peer = await service.open("work")
    await administer(service.server.admin_address).close(id_of(peer), reason="enough")
    release.set()
    told = await closed(peer)
    assert (told.reason, told.message) == (session_pb2.CLOSE_REASON_COMPLETED, "enough")


async def test_a_session_that_has_ended_is_left_as_it_is(start: Start) -> None:
    service, admin = await start()
    peer = await service.open("brief", resumable=True)
    await closed(peer)
    response = await admin.close(id_of(peer), reason="too late", now=True)
    assert response.session.close_reason == session_pb2.CLOSE_REASON_COMPLETED


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_is_refused_with_a_reason(start: Start) -> None:
    _, admin = await start()
    invalid = (grpc.StatusCode.INVALID_ARGUMENT, "PROTOCOL_VIOLATION", "session_service")
    unknown = (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", "session_service")
    assert await refusal(admin.page(page_size=-1)) == invalid
    for token in ("x", "-1", "1.5", "\N{SUPERSCRIPT TWO}", "9" * 5000):
        assert await refusal(admin.page(page_token=token)) == invalid
    assert await refusal(admin.drain(-1)) == invalid
    assert await refusal(admin.drain(1e9)) == invalid
    assert await refusal(admin.get("nobody")) == unknown
    assert await refusal(admin.close("nobody")) == unknown
    call: Any = admin.channel.unary_unary("/session_service.v1.SessionAdminService/GetSession")
    assert await refusal(call(b"\xff")) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_INVALID", "session_service")


async def test_everything_but_health_is_for_those_whom_the_server_knows(start: Start, administer: Administer) -> None:
    service, admin = await start(authenticate=by_name)
    unauthenticated = (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "session_service")
    channelz = channelz_of(admin.channel)
    calls: list[Awaitable[object]] = [
        admin.page(),
        admin.get("x"),
        admin.close("x"),
        admin.drain(0),
        admin.stub.WatchSessions(pb.WatchSessionsRequest()).read(),
        channelz.GetServers(channelz_pb2.GetServersRequest()),
        names(admin.channel),
    ]
    for call in calls:
        assert await refusal(call) == unauthenticated
    assert await admin.health("") == "SERVING"
    assert await service.open("idle", metadata=[("name", "ada")])
    known = administer(service.server.admin_address, [("name", "root")])
    assert len(await known.ids()) == 1


async def test_the_two_addresses_have_nothing_but_health_and_reflection_in_common(start: Start) -> None:
    service, admin = await start()
    unimplemented = grpc.StatusCode.UNIMPLEMENTED
    on_main = SessionAdminServiceStub(service.channel).ListSessions(pb.ListSessionsRequest())
    assert (await refusal(on_main)).code == unimplemented
    channelz = channelz_of(service.channel).GetServers(channelz_pb2.GetServersRequest())
    assert (await refusal(channelz)).code == unimplemented
    assert (await Service(service.server, admin.channel).attach().status()).code == unimplemented
    assert await names(admin.channel) == {
        "grpc.channelz.v1.Channelz",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "session_service.v1.SessionAdminService",
    }
    assert "session_service.v1.SessionAdminService" not in await names(service.channel)


def channelz_of(channel: grpc.aio.Channel) -> Any:  # its types know no grpc.aio
    return channelz_pb2_grpc.ChannelzStub(cast(Any, channel))


async def names(channel: grpc.aio.Channel) -> set[str]:
    """Return the services that reflection tells of."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, channel))  # its types know no grpc.aio
    call = stub.ServerReflectionInfo(iter([request]))
    response = await call.read()
    call.cancel()
    return {service.name for service in response.list_services_response.service}


@pytest.mark.parametrize("admin_listen", ["0.0.0.0:0", "[::]:0"])
def test_the_admin_address_is_not_open_to_others_unless_that_is_meant(admin_listen: str) -> None:
    with pytest.raises(ValueError, match="can be reached from other machines, without TLS and authentication"):
        Server(APPS, Config(listen="127.0.0.1:0", admin_listen=admin_listen))
    assert Server(APPS, Config(listen="127.0.0.1:0", admin_listen=admin_listen, insecure=True))


async def test_there_is_no_admin_service_by_default(serve: Serve) -> None:
    service = await serve(APPS)
    assert service.server.admin_address == ""
    assert service.server.manager.observers == []


# --- channelz and health ----------------------------------------------------------------------------------------------


async def test_channelz_tells_of_both_servers_and_their_sockets(start: Start) -> None:
    service, admin = await start()
    await service.open("idle")
    channelz = channelz_of(admin.channel)
    ports: set[str] = set()
    for server in (await channelz.GetServers(channelz_pb2.GetServersRequest())).server:
        request = channelz_pb2.GetServerSocketsRequest(server_id=server.ref.server_id)
        for ref in (await channelz.GetServerSockets(request)).socket_ref:
            socket = (await channelz.GetSocket(channelz_pb2.GetSocketRequest(socket_id=ref.socket_id))).socket
            ports.add(str(socket.local.tcpip_address.port))
    assert {address.rpartition(":")[2] for address in (service.server.address, service.server.admin_address)} <= ports
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channelz.GetServer(channelz_pb2.GetServerRequest(server_id=10**9))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_says_of_each_service_how_it_is(start: Start) -> None:
    service, admin = await start()
    for name in ("", "session_service.v1.SessionService", "session_service.v1.SessionAdminService", "live"):
        assert await admin.health(name) == "SERVING"
        assert await Admin(service.channel).health(name) == "SERVING"
    assert (await refusal(admin.health("other"))).code is grpc.StatusCode.NOT_FOUND


async def test_a_server_that_drains_is_alive_and_not_ready(start: Start) -> None:
    service, admin = await start()
    peer = await service.open("idle", resumable=True)
    await admin.drain(PATIENCE)
    assert (await peer.receive()).HasField("draining")
    health = Admin(service.channel).health
    assert [await health(name) for name in ("", "session_service.v1.SessionService")] == ["NOT_SERVING"] * 2
    assert [await health(name) for name in ("live", "session_service.v1.SessionAdminService")] == ["SERVING"] * 2
    await admin.drain(0)


@pytest.mark.parametrize(("service", "code"), [("", 4), ("session_service.v1.SessionService", 4), ("live", 0)])
async def test_grpc_health_probe_tells_a_server_that_drains(start: Start, service: str, code: int) -> None:
    probe = shutil.which("grpc-health-probe", path=PATH)
    if probe is None:
        missing = "grpc-health-probe is missing: `make tools` installs it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    served, admin = await start()
    arguments = [probe, "-addr", served.server.address, "-service", service]
    assert await exit_code(arguments) == 0
    await served.open("idle")
    await admin.drain(PATIENCE)
    assert await exit_code(arguments) == code
    await admin.drain(0)


async def exit_code(arguments: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(*arguments, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(PATIENCE):
        await process.communicate()
    assert process.returncode is not None
    return process.returncode


# --- the end of a server, in a process of its own ---------------------------------------------------------------------

SOURCE = """
    from session_service import get_current_session

    async def idle():
        await get_current_session().next_client_event()

    async def echo():
        session = get_current_session()
        while True:
            event = await session.next_client_event()
            session.send_task_command({"command": "command-name", "spec": event["data"]})

    apps = {"idle": idle, "echo": echo}
"""


async def served_with_admin(program: Program, *options: str, **environment: str) -> tuple[Served, str]:
    program.write(SOURCE)
    address = f"unix:{program.folder}/admin"
    return await program.serve(*options, "--admin-listen", address, "apps:apps", **environment), address


async def test_an_administrator_drains_a_process_as_SIGTERM_does(program: Program, administer: Administer) -> None:
    served, address = await served_with_admin(program)
    admin = administer(address)
    peer = await served.open("idle")
    watch = await admin.watch()
    response = await admin.drain()
    assert (response.sessions, response.grace.seconds) == (1, 30)
    assert (await peer.receive()).draining.grace.seconds == 30
    assert await served.health() == "NOT_SERVING"
    late = served.attach()
    await late.send(open=session_pb2.Open(app="idle"))
    assert (await late.status()).reason == "DRAINING"
    await peer.half_close()
    assert (await closed(peer)).reason == session_pb2.CLOSE_REASON_CLIENT
    assert sorted(what for what, _ in await watch.next_changes(2)) == ["detached", "ended"]
    assert await watch.ends_well()
    assert await served.exit_code() == 0


async def test_a_drain_closes_what_is_left_after_its_grace(program: Program, administer: Administer) -> None:
    served, address = await served_with_admin(program)
    peer = await served.open("idle")
    assert (await administer(address).drain(0.01)).grace.nanos == 10_000_000
    assert (await closed(peer)).reason == session_pb2.CLOSE_REASON_SHUTDOWN
    assert await served.exit_code() == 0


@pytest.mark.parametrize("by", ["drain", "signal"])
async def test_a_drain_can_be_hurried_and_not_be_slowed_down(program: Program, administer: Administer, by: str) -> None:
    served, address = await served_with_admin(program, "--shutdown-grace", "0.01")
    admin = administer(address)
    peer = await served.open("idle")
    await admin.drain(1000)
    assert (await peer.receive()).draining.grace.seconds == 1000
    assert (await admin.drain(2000)).grace.seconds in (999, 1000)
    if by == "drain":
        await admin.drain(0)
    else:
        served.signal(signal.SIGTERM)
    assert (await closed(peer)).reason == session_pb2.CLOSE_REASON_SHUTDOWN
    assert await served.exit_code() == 0


async def test_no_payload_and_no_secret_is_in_any_answer_or_in_the_log(
    program: Program, administer: Administer
) -> None:
    token = (await program.run("token", "tokens", "ada")).stdout.strip()
    served, address = await served_with_admin(program, "--token-file", "tokens", "--debug")
    credentials = [("authorization", f"Bearer {token}")]
    admin = administer(address, credentials)
    watch = await admin.watch()
    request_id = "b4e9f2d0-request-id"
    fields = {"params": {"key": "PAYLOAD-1"}, "headers": {"X-Key": "PAYLOAD-2"}, "request_id": request_id}
    peer = await served.open("echo", metadata=credentials, resumable=True, **fields)
    await peer.send(events=[event("PAYLOAD-3", "PAYLOAD-4")], first_sequence=1)
    await peer.receive_commands(1)
    answers = [await admin.page(), await admin.get(id_of(peer)), await admin.close(id_of(peer), now=True)]
    assert (await closed(peer)).reason == session_pb2.CLOSE_REASON_SERVER
    answers += [await admin.get(id_of(peer)), *[await watch.next() for _ in range(3)]]
    said = " ".join(map(str, answers)) + served.log()
    assert "ada" in said
    secrets = (token, peer.opened.resume_token, request_id, "command-name")
    assert [text for text in ("PAYLOAD", *secrets[:3]) if text in said] == []
    assert secrets[3] not in " ".join(str(answer) for answer in answers)


async def test_the_admin_address_has_the_certificate_of_the_day(program: Program, authority: Authority) -> None:
    async def serial(port: int) -> int:
        pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=PATIENCE)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    before, after = authority.server(), authority.server()
    identity = before.write(program.folder)
    server = Server(APPS, Config(listen="127.0.0.1:0", admin_listen="127.0.0.1:0", **tls_of(identity)))
    await server.start()
    try:
        ports = [int(address.rpartition(":")[2]) for address in (server.address, server.admin_address)]
        assert [await serial(port) for port in ports] == [before.serial] * 2
        after.write(program.folder)
        for _ in range(2):
            server.files[0].look()
        assert [await serial(port) for port in ports] == [after.serial] * 2
    finally:
        await server.stop()


def tls_of(identity: tuple[str, ...]) -> dict[str, Any]:
    return {"tls_cert": identity[1], "tls_key": identity[3]}
