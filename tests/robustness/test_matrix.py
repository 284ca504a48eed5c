"""Each thing that can break, on real sockets: the real client, the proxy, and the real server in its own process.

The transcript of every session equals that of one that nothing disturbed, and the records of both sides fulfil all
guarantees. What a raw client can show better is in tests/protocol, under the rule that it is about: refusals in
test_errors.py, windows in test_delivery.py, fencing and resuming in test_attachment.py, shutdown in tests/cli.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from session_client import CloseReason, Position, SessionClient, SessionEnded, SessionLost, TakenOver

from session_service import CloseReason as SessionCloseReason
from session_service import SessionInfo, Window, get_current_session
from session_service.config import Config
from session_service.errors import ProtocolError
from session_service.host import App, SessionManager
from session_service.testing.clock import VirtualLoop

from .harness import PATIENCE, ROOT, At, Harness, ServerProcess, Talk
from .history import Attach, Detach
from .history import check as verify
from .recorder import Recorder

KINDS = ("coroutine", "thread")

# A window that tests fill at once; what a client asks for.
SMALL = Window(64, 64 * 1024)
EVENT_WINDOW = Window().messages

kinds = pytest.mark.parametrize("kind", KINDS)
passed = pytest.mark.parametrize("passed", [False, True], ids=["before", "after"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("server") / "server.log")
    yield server
    server.kill()


@pytest.fixture
async def harness(server: ServerProcess, tmp_path: Path) -> AsyncIterator[Harness]:
    async with Harness(server, tmp_path) as harness:
        yield harness


async def exchange(talk: Talk, *values: Any) -> None:
    """Say each value, and hear it."""
    for value in values:
        await talk.say(value)
        assert await talk.hear() == value


async def say_all(talk: Talk, count: int) -> None:
    for value in events(count):
        await talk.say(value)


def check(talk: Talk, delivered: list[Any], heard: list[Any]) -> None:
    """The transcript is this one, and all guarantees hold."""
    assert (talk.delivered, talk.heard) == (delivered, heard)
    talk.check()


def events(count: int) -> list[str]:
    return [f"event {number}" for number in range(1, count + 1)]


def commands(count: int) -> list[str]:
    return [f"command {number}" for number in range(1, count + 1)]


def server_attachments(talk: Talk) -> tuple[int, int]:
    """Return how often the app learned that a client had come, and that it had gone."""
    records = [record for record in talk.history() if isinstance(record, (Attach, Detach)) and record.side == "server"]
    return sum(isinstance(record, Attach) for record in records), sum(isinstance(record, Detach) for record in records)


# --- cuts -------------------------------------------------------------------------------------------------------------


@kinds
@passed
@pytest.mark.parametrize("what", ["event", "command"])
async def test_a_cut_at_each_of_the_first_100(harness: Harness, kind: str, passed: bool, what: str) -> None:
    cuts = At(harness.proxy, {f"{what} {number}" for number in range(1, 101)}, passed, harness.proxy.cut)
    async with harness.open(f"echo-{kind}") as talk:
        await exchange(talk, *range(100))
    assert cuts.times == 100
    assert harness.resumes == 100
    check(talk, list(range(100)), list(range(100)))


@kinds
@passed
@pytest.mark.parametrize(
    "points",
    [
        "open",
        "opened",
        "command 1, resume",
        "command 1, resumed",
        "ack up 2",
        "ack down 2",
        "close",
        "closed",
        "ack up 4",
    ],
)
async def test_a_cut_at_what_is_no_event_and_no_command(harness: Harness, kind: str, passed: bool, points: str) -> None:
    at = At(harness.proxy, set(points.split(", ")), passed, harness.proxy.cut)
    async with harness.open(f"echo-{kind}") as talk:
        await exchange(talk, 1, 2, 3)
    assert not at.left
    check(talk, [1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_cut_after_any_number_of_bytes(
    server: ServerProcess, tmp_path: Path, kind: str, direction: Any
) -> None:
    """Within a frame, between two, and within what HTTP/2 says before there is any."""

    async def one(size: int) -> bool:
        async with Harness(server, tmp_path) as harness:
            harness.proxy.cut_after(direction, size)
            async with harness.open(f"echo-{kind}") as talk:
                await exchange(talk, "one", "two", "three")
            check(talk, ["one", "two", "three"], ["one", "two", "three"])
            return harness.proxy.connections > 1

    sizes = range(0, 900, 17) if direction == "up" else range(0, 500, 11)
    cut = await asyncio.gather(*map(one, sizes))
    assert cut[0]
    assert sum(cut) > len(cut) // 2  # the others had said everything before


# --- attachments ------------------------------------------------------------------------------------------------------


@kinds
async def test_a_session_that_ends_while_it_is_detached(harness: Harness, kind: str) -> None:
    proxy, mark = harness.proxy, str(uuid.uuid4())

    def refuse() -> None:
        proxy.refusing = True
        proxy.cut()

    At(proxy, {"ack down 1"}, passed=True, act=refuse)
    async with harness.open(f"last_words-{kind}", commands=5, ended=mark) as talk:
        await talk.say("go")
        await harness.wait_for(mark)
        proxy.heal()
        await talk.hear_all()
        assert talk.session.closed is not None
        assert talk.session.closed.reason is CloseReason.COMPLETED
    check(talk, ["go"], commands(5))


@kinds
async def test_a_takeover_from_a_half_open_stream_whose_events_and_end_come_late(harness: Harness, kind: str) -> None:
    proxy = harness.proxy
    async with harness.open(f"echo-{kind}") as talk:
        late = At(proxy, {"event 4"}, passed=False, act=proxy.late)
        await exchange(talk, 1, 2, 3, 4)  # 4 is held back, and sent again on a new stream
        assert (late.times, harness.resumes) == (1, 1)
        proxy.heal()
        await exchange(talk, 5, 6)
        proxy.end_late()
        await proxy.wait_ended(left=1)
        await exchange(talk, 7, 8)
        assert harness.resumes == 1
    assert server_attachments(talk) == (2, 0)
    check(talk, list(range(1, 9)), list(range(1, 9)))


@kinds
async def test_a_late_resume_of_an_abandoned_path_overtakes_the_live_stream(harness: Harness, kind: str) -> None:
    proxy = harness.proxy
    late = At(proxy, {"resume"}, passed=False, act=proxy.late)
    At(proxy, {"command 2"}, passed=True, act=proxy.cut)
    async with harness.open(f"echo-{kind}") as talk:
        await exchange(talk, 1, 2)
        await harness.wait_resumed(1)
        assert late.times == 1
        await overtake(harness)
        await exchange(talk, 3, 4)
        assert harness.resumes == 2
    check(talk, [1, 2, 3, 4], [1, 2, 3, 4])


@kinds
async def test_a_late_open_of_an_abandoned_path_overtakes_the_live_stream(harness: Harness, kind: str) -> None:
    At(harness.proxy, {"open"}, passed=False, act=harness.proxy.late)
    async with harness.open(f"echo-{kind}") as talk:
        await overtake(harness)
        await exchange(talk, 1, 2, 3)
        assert harness.resumes == 1
    check(talk, [1, 2, 3], [1, 2, 3])


async def overtake(harness: Harness) -> None:
    """Let what was held back take the session over, and wait until the client has taken it back."""
    resumes = harness.resumes
    harness.proxy.heal()
    await harness.wait_resumed(resumes + 1)
    assert harness.attached[-2].error.startswith("TAKEN_OVER")
    harness.proxy.end_late()
    await harness.proxy.wait_ended(left=1)


@kinds
@pytest.mark.parametrize("what", ["open", "resume"])
async def test_one_that_comes_when_more_has_been_acknowledged_disturbs_nobody(
    harness: Harness, kind: str, what: str
) -> None:
    proxy = harness.proxy
    late = At(proxy, {what}, passed=False, act=proxy.late)
    At(proxy, {"command 1"} if what == "resume" else {"never"}, passed=True, act=proxy.cut)
    async with harness.open(f"echo-{kind}") as talk:
        acknowledged = At(proxy, {"ack up 3"}, passed=True, act=lambda: None)
        await exchange(talk, 1, 2, 3, 4)
        await acknowledged.wait()
        attachments = len(harness.attached)
        proxy.heal()
        await exchange(talk, 5)
        proxy.end_late()
        await proxy.wait_ended(left=1)
        await exchange(talk, 6)
        assert late.times == 1
        assert len(harness.attached) == attachments
    check(talk, list(range(1, 7)), list(range(1, 7)))


@kinds
async def test_two_clients_that_fight_for_a_session_get_every_event_and_command_through(
    server: ServerProcess, tmp_path: Path, kind: str
) -> None:
    """Each takes the session back as soon as it has lost it, and does what is to be done next."""
    count, heard, turns = 60, dict[int, Any](), {"one": 0, "other": 0}
    async with Harness(server, tmp_path) as one, Harness(server, tmp_path) as other:
        record = tmp_path / "fight.record"
        async with one.client() as client, client.open(f"echo-{kind}", params={"record": str(record)}) as session:
            position = await session.detach()

        async def fight(name: str, harness: Harness) -> None:
            nonlocal position
            async with harness.client() as client:
                while len(heard) < count:
                    try:
                        await turn(name, client)
                    except (TakenOver, SessionLost):  # lost: the other one has acknowledged more in the meantime
                        continue

        async def turn(name: str, client: SessionClient) -> None:
            nonlocal position
            async with client.resume(position) as session:
                turns[name] += 1
                number = session.position.received
                for value in range(session.taken_over + 1, count + 1):
                    await session.send_event("say", value)
                for _ in range(3):
                    if number < count:
                        command = await anext(session)
                        number += 1
                        assert heard.setdefault(number, command.spec) == command.spec
                        position = replace(session.position, received=number)
                position = await session.detach()

        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(fight("one", one))
            group.create_task(fight("other", other))
        async with one.client() as client, client.resume(position):
            pass
    assert Talk(Recorder(), record).delivered == list(range(1, count + 1))
    assert heard == {number: number for number in range(1, count + 1)}
    assert min(turns.values()) > 1


# --- windows and positions --------------------------------------------------------------------------------------------


@kinds
async def test_a_graceful_close_against_a_full_command_window(harness: Harness, kind: str) -> None:
    proxy = harness.proxy
    full = At(proxy, {f"command {SMALL.messages}"}, passed=True, act=lambda: None)
    cuts = At(proxy, {"close", "command 500", "command 1000"}, passed=True, act=proxy.cut)
    async with harness.open(f"converse-{kind}", command_window=SMALL, events=1, commands=1000) as talk:
        await full.wait()
        await talk.close()
    assert cuts.times == 3
    check(talk, [], commands(1000))


@kinds
@pytest.mark.parametrize("windows", [(64, 8), (8, 64), (64, 1)], ids=str)
async def test_a_resume_with_another_window(harness: Harness, kind: str, windows: tuple[int, int]) -> None:
    """Smaller than what is kept, too."""
    first, second = (Window(messages, 1 << 16) for messages in windows)
    async with harness.open(f"converse-{kind}", command_window=first, events=1, commands=300) as talk:
        for _ in range(10):
            await talk.hear()
        position = await talk.detach()
    assert position.received == 10
    async with harness.resume(talk, position, command_window=second):
        await talk.say("event 1")
    check(talk, events(1), commands(300))


@kinds
async def test_events_that_wait_to_be_taken_over_when_the_stream_is_cut(harness: Harness, kind: str) -> None:
    proxy, count = harness.proxy, 2 * EVENT_WINDOW
    cut = At(proxy, {f"event {count}"}, passed=True, act=proxy.cut)
    async with harness.open(f"converse-{kind}", events=count, commands=0, deaf=1) as talk:
        await say_all(talk, count)  # one window is taken over, the other waits on its stream
        await talk.hear_all()
    assert (cut.times, harness.resumes) == (1, 1)
    check(talk, events(count), [])


@kinds
@pytest.mark.parametrize("count", [0, 1, 20])
async def test_a_resume_after_so_many_messages_that_were_not_acknowledged(
    harness: Harness, kind: str, count: int
) -> None:
    proxy = harness.proxy
    cut = At(proxy, {f"command {count}" if count else "opened"}, passed=True, act=proxy.cut)
    async with harness.open(f"converse-{kind}", events=count + 1, commands=count) as talk:
        await cut.wait()
        await say_all(talk, count + 1)
        await talk.hear_all()
    check(talk, events(count + 1), commands(count))


@kinds
async def test_a_resume_when_everything_is_acknowledged(harness: Harness, kind: str) -> None:
    proxy = harness.proxy
    acknowledged = At(proxy, {"ack up 5", "ack down 5"}, passed=True, act=lambda: None)
    async with harness.open(f"echo-{kind}") as talk:
        await exchange(talk, 1, 2, 3, 4, 5)
        listening = asyncio.create_task(talk.hear())  # that acknowledges the fifth
        await acknowledged.wait()
        proxy.cut()
        await harness.wait_resumed(1)
        await talk.say(6)
        assert await listening == 6
    check(talk, list(range(1, 7)), list(range(1, 7)))


@kinds
@pytest.mark.parametrize("received", [2, 3, 10, 11])
async def test_a_resume_from_one_below_at_and_above_what_is_kept(harness: Harness, kind: str, received: int) -> None:
    acknowledged = At(harness.proxy, {"ack up 3"}, passed=True, act=lambda: None)
    async with harness.open(f"converse-{kind}", events=1, commands=10) as talk:
        for _ in range(4):
            await talk.hear()
        await acknowledged.wait()
        position = await talk.detach()
    if 3 <= received <= 10:
        async with harness.client() as client, client.resume(replace(position, received=received)) as session:
            await session.send_event("say", "event 1")
            heard = [command.spec async for command in session]
        assert heard == commands(10)[received:]
        assert talk.delivered == events(1)
    else:
        with pytest.raises(SessionLost, match="RESUME_IMPOSSIBLE"):
            async with harness.client() as client, client.resume(replace(position, received=received)):
                pass


@kinds
async def test_both_sides_write_only_until_both_windows_are_full_and_then_read(harness: Harness, kind: str) -> None:
    """Attached all the time: the client reads, and the app once a cut has told it to."""
    proxy, count = harness.proxy, 3 * EVENT_WINDOW
    full = At(proxy, {f"event {2 * EVENT_WINDOW}", f"command {SMALL.messages}"}, passed=True, act=lambda: None)
    async with harness.open(f"converse-{kind}", command_window=SMALL, events=count, commands=count, deaf=1) as talk:
        speaking = asyncio.create_task(say_all(talk, count))
        await full.wait()
        for _ in range(count):
            await talk.hear()
        assert not speaking.done()
        proxy.cut()
        await speaking
        await talk.hear_all()
    check(talk, events(count), commands(count))


@kinds
async def test_both_windows_are_full_while_the_session_is_detached(harness: Harness, kind: str) -> None:
    proxy, count, mark = harness.proxy, 3 * EVENT_WINDOW, str(uuid.uuid4())
    full = At(proxy, {f"event {2 * EVENT_WINDOW}", f"command {SMALL.messages}"}, passed=True, act=lambda: None)
    async with harness.open(
        f"converse-{kind}", command_window=SMALL, events=count, commands=count, deaf=1, detached=mark
    ) as talk:
        speaking = asyncio.create_task(say_all(talk, count))
        await full.wait()
        proxy.refusing = True
        proxy.cut()
        await harness.wait_for(mark)
        assert not speaking.done()
        proxy.heal()
        await talk.hear_all()
        await speaking
    check(talk, events(count), commands(count))


# --- processes --------------------------------------------------------------------------------------------------------


@kinds
async def test_a_client_that_is_killed_comes_back_with_its_saved_position(harness: Harness, kind: str) -> None:
    talk, count = harness.new_talk(), 200
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.robustness.victim", harness.proxy.address, f"echo-{kind}", str(talk.record)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    saved: list[bytes] = []
    async with asyncio.timeout(PATIENCE):
        while len(saved) < 50:
            saved.append(await process.stdout.readline())
        process.kill()
        saved += (await process.stdout.read()).splitlines(keepends=True)
        await process.wait()
    values, positions = zip(*(json.loads(line) for line in saved if line.endswith(b"\n")), strict=True)
    assert len(values) < count
    position = Position(**positions[-1])
    async with harness.client() as client, client.resume(position) as session:
        heard = list(values)
        for value in range(session.taken_over + 1, count + 1):
            await session.send_event("say", value)
        while len(heard) < count:
            heard.append((await anext(session)).spec)
    assert heard == list(range(1, count + 1))
    assert talk.delivered == list(range(1, count + 1))


@kinds
async def test_a_server_that_is_terminated_closes_busy_and_idle_and_gives_up_deaf_and_detached_sessions(
    tmp_path: Path, kind: str
) -> None:
    server = ServerProcess(tmp_path / "server.log", "--shutdown-grace", "0.3")
    try:
        async with AsyncExitStack() as stack:
            harnesses = [await stack.enter_async_context(Harness(server, tmp_path)) for _ in range(4)]
            busy, idle, deaf, detached = harnesses

            async def talk_on() -> Talk:
                async with busy.open(f"echo-{kind}") as talk:
                    value = 0
                    while talk.session.closed is None:
                        value += 1
                        try:
                            await exchange(talk, value)
                        except (SessionEnded, StopAsyncIteration):
                            break
                return talk

            async def stay() -> Talk:
                async with idle.open(f"echo-{kind}") as talk:
                    await exchange(talk, "only this")
                    opened.set()
                    await talk.hear_all()
                return talk

            opened = asyncio.Event()
            talking, staying = asyncio.create_task(talk_on()), asyncio.create_task(stay())
            await opened.wait()
            full = At(deaf.proxy, {f"command {SMALL.messages}"}, passed=True, act=lambda: None)
            client = await stack.enter_async_context(deaf.client(command_window=SMALL))
            params = {"record": str(tmp_path / "deaf.record"), "events": 1, "commands": 1000}
            await client.open(f"converse-{kind}", params=params).__aenter__()
            await full.wait()
            async with detached.open(f"converse-{kind}", events=1, commands=10) as gone:
                await gone.hear()
                await gone.detach()

            server.terminate()
            assert await server.exit_code() == 0
            for talk in (await talking, await staying):
                assert talk.session.closed is not None
                assert talk.session.closed.reason is CloseReason.SHUTDOWN
                assert talk.delivered[: len(talk.heard)] == talk.heard
                assert len(talk.delivered) <= len(talk.heard) + 1  # the app may have been interrupted at its answer
                verify(talk.history())
            assert "2 sessions whose clients have not had everything" in server.log()
    finally:
        server.kill()


# --- time -------------------------------------------------------------------------------------------------------------


class Silent:
    """A stream that does nothing."""

    client_id = ""

    def wake(self) -> None: ...
    def events_taken(self) -> None: ...
    def fail(self, error: ProtocolError) -> None: ...
    def forgotten(self) -> None: ...
    def announce_draining(self, grace: float) -> None: ...


async def idle() -> None:
    await get_current_session().next_client_event()


def idle_in_thread() -> None:
    get_current_session().next_client_event()


@pytest.mark.parametrize(("asked", "granted"), [(0, 120), (30, 30), (3600, 120)])
@pytest.mark.parametrize("app", [idle, idle_in_thread])
def test_a_detached_session_expires_to_the_second(app: App, asked: float, granted: float) -> None:
    """By a clock that jumps: see tests/protocol/test_attachment.py for real ones."""
    loop = VirtualLoop(limit=1e6)

    async def scenario() -> None:
        manager = SessionManager({"idle": app}, Config(resume_window=120))
        managed = manager.open("idle", info=SessionInfo({}), params={}, resumable=True, resume_window=asked)
        session = managed.session
        for _ in range(2):  # the second time the clock starts anew
            stream = Silent()
            managed.attach(stream, received=0, command_window=Window())
            await asyncio.sleep(10 * granted)
            managed.detach(stream)
            await asyncio.sleep(granted - 1)
            assert not session.closed()
        await asyncio.sleep(1.001)
        assert session.close_reason is SessionCloseReason.EXPIRED
        loop.threads = lambda: int(not session.ended)  # time goes by as it does while the thread unwinds
        while not session.ended:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        loop.threads = lambda: 0
        await asyncio.sleep(granted - 1)
        assert len(manager) == 1  # its end can still be learned
        await asyncio.sleep(1.001)
        assert len(manager) == 0

    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()
