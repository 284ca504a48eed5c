"""The proxy itself: each fault does what its name says, and nothing else breaks anything."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable
from itertools import islice
from typing import TypeAlias, TypeVar

import pytest

from .frames import PREFACE, Frames, Messages
from .proxy import Proxy, schedule

PATIENCE = 5.0

# Longer than anything takes that is not held up, on any machine that runs tests.
SILENCE = 0.1

T = TypeVar("T")
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Target:
    """A server whose ends of the connections the test holds."""

    def __init__(self) -> None:
        self._accepted: asyncio.Queue[Streams] = asyncio.Queue()
        self.streams: list[Streams] = []
        self.address = ""

    async def accept(self) -> Streams:
        return await within(self._accepted.get())

    def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams.append((reader, writer))
        self._accepted.put_nowait((reader, writer))


async def within(awaitable: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaitable, PATIENCE)


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    target = Target()
    server = await asyncio.start_server(target.on_connection, "127.0.0.1", 0)
    target.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield target
    server.close()
    for _, writer in target.streams:
        writer.transport.abort()


@pytest.fixture
async def proxy(target: Target) -> AsyncIterator[Proxy]:
    async with Proxy(target.address) as proxy:
        yield proxy


class Client:
    """One connection through the proxy, both ends of it."""

    def __init__(self, near: Streams, far: Streams) -> None:
        self.near, self.far = near, far

    def send(self, data: bytes) -> None:
        self.near[1].write(data)

    def answer(self, data: bytes) -> None:
        self.far[1].write(data)

    async def received(self, size: int) -> bytes:
        return await within(self.near[0].readexactly(size))

    async def arrived(self, size: int) -> bytes:
        return await within(self.far[0].readexactly(size))

    async def rest(self, streams: Streams) -> bytes:
        """Read to the end, be it in good order or not."""
        data = b""
        try:
            while chunk := await within(streams[0].read(1000)):
                data += chunk
        except ConnectionResetError:
            data += b"RESET"
        return data


@pytest.fixture
async def client(proxy: Proxy, target: Target) -> AsyncIterator[Client]:
    client = await connect(proxy, target)
    yield client
    client.near[1].transport.abort()


async def connect(proxy: Proxy, target: Target) -> Client:
    host, _, port = proxy.address.rpartition(":")
    near = await asyncio.open_connection(host, int(port))
    return Client(near, await target.accept())


async def check_works(client: Client) -> None:
    client.send(b"ping")
    assert await client.arrived(4) == b"ping"
    client.answer(b"pong")
    assert await client.received(4) == b"pong"


async def check_silent(client: Client) -> None:
    """Neither a byte nor an end comes through."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.far[0].read(1), SILENCE)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.near[0].read(1), SILENCE)


async def test_both_directions_pass_and_so_does_the_end(client: Client) -> None:
    await check_works(client)
    client.send(b"last words")
    client.near[1].close()
    assert await client.rest(client.far) == b"last words"


async def test_a_cut_ends_both_ends_behind_what_has_passed(proxy: Proxy, client: Client) -> None:
    await check_works(client)
    proxy.cut()
    assert await client.rest(client.far) == b""
    assert await client.rest(client.near) == b""


async def test_a_reset_ends_both_ends_with_an_error(proxy: Proxy, client: Client) -> None:
    await check_works(client)
    proxy.reset()
    assert await client.rest(client.far) == b"RESET"
    assert await client.rest(client.near) == b"RESET"


@pytest.mark.parametrize("size", [0, 1, 4, 5])
async def test_a_cut_after_some_bytes_up_lets_just_these_pass(proxy: Proxy, client: Client, size: int) -> None:
    proxy.cut_after("up", size)
    client.send(b"12345678")
    assert await client.rest(client.far) == b"12345678"[:size]
    assert (await client.rest(client.near)).removesuffix(b"RESET") == b""


async def test_a_cut_after_some_bytes_down_leaves_the_other_direction_alone(proxy: Proxy, client: Client) -> None:
    proxy.cut_after("down", 6)
    await check_works(client)
    client.answer(b"pong")
    assert (await client.rest(client.near)).removesuffix(b"RESET") == b"po"


async def test_a_cut_that_waits_for_bytes_which_never_come_is_made_anyway(proxy: Proxy, client: Client) -> None:
    await within(proxy.play("cut up 1000"))
    assert await client.rest(client.near) == b""


async def test_a_hole_forwards_nothing_and_closes_nothing_and_new_connections_work(
    proxy: Proxy, client: Client, target: Target
) -> None:
    proxy.hole()
    client.send(b"ping")
    client.answer(b"pong")
    await check_silent(client)
    other = await connect(proxy, target)
    await check_works(other)
    proxy.heal()
    assert (await client.arrived(4), await client.received(4)) == (b"ping", b"pong")
    other.near[1].close()


async def test_late_ends_the_client_and_what_it_sent_arrives_late_and_then_the_end(
    proxy: Proxy, client: Client
) -> None:
    proxy.hole()
    client.send(b"late")
    await check_silent(client)
    proxy.late()
    assert await client.rest(client.near) == b"RESET"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.far[0].read(1), SILENCE)
    proxy.heal()
    assert await client.arrived(4) == b"late"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.far[0].read(1), SILENCE)
    proxy.end_late()
    assert await client.rest(client.far) == b""


async def test_a_delay_holds_back_and_loses_nothing(proxy: Proxy, client: Client) -> None:
    loop = asyncio.get_running_loop()
    proxy.delay, sent_at = 0.05, loop.time()
    await check_works(client)
    assert loop.time() - sent_at >= 0.1  # there and back
    proxy.heal()
    assert proxy.delay == 0


async def test_a_throttle_holds_back_as_long_as_the_bytes_take(proxy: Proxy, client: Client) -> None:
    loop = asyncio.get_running_loop()
    proxy.rate, sent_at = 50_000, loop.time()
    client.send(bytes(5000))
    assert await client.arrived(5000) == bytes(5000)
    assert loop.time() - sent_at >= 0.1


async def test_refused_connections_end_at_once_until_it_heals(proxy: Proxy, client: Client, target: Target) -> None:
    proxy.refusing = True
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await client.rest((reader, writer)) == b"RESET"
    await check_works(client)  # what there was goes on
    proxy.heal()
    other = await connect(proxy, target)
    await check_works(other)
    for end in (writer, other.near[1]):
        end.transport.abort()


async def test_a_target_that_is_not_there_ends_the_connection() -> None:
    async with Proxy("127.0.0.1:1") as proxy:
        host, _, port = proxy.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with pytest.raises(ConnectionResetError):
            await within(reader.read())
        writer.transport.abort()


def test_a_schedule_is_the_same_for_a_seed_and_another_for_another() -> None:
    first, again, other = (list(islice(schedule(seed), 1000)) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert {line.split()[0] for line in first} == {"cut", "reset", "hole", "late", "refuse", "delay", "throttle"}


async def test_every_fault_of_a_schedule_ends_by_itself_and_is_counted(proxy: Proxy, target: Target) -> None:
    for line in islice(schedule(1), 40):
        proxy_client = await connect(proxy, target)
        proxy_client.send(bytes(5000))
        proxy_client.answer(bytes(5000))
        await within(proxy.play(line))
        proxy_client.near[1].transport.abort()
        proxy_client.far[1].transport.abort()
    assert proxy.faults.total() == 40
    last = await connect(proxy, target)
    await check_works(last)
    last.near[1].close()


async def test_what_is_no_fault_is_refused_and_not_counted(proxy: Proxy) -> None:
    for line in ("", "cut sideways 1", "cut up", "explode"):
        with pytest.raises(ValueError, match="no fault"):
            await proxy.play(line)
    assert proxy.faults.total() == 0


SETTINGS = bytes.fromhex("000000040000000000")


def data_frame(data: bytes, stream: int = 1) -> bytes:
    return len(data).to_bytes(3) + bytes(2) + stream.to_bytes(4) + data


def message(text: bytes) -> bytes:
    return bytes(1) + len(text).to_bytes(4) + text


def test_frames_are_cut_where_http2_says_however_they_come() -> None:
    sent = [PREFACE, SETTINGS, data_frame(message(b"what"))]
    stream = b"".join(sent)
    for size in range(1, len(stream)):
        frames = Frames("up")
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [frame for piece in pieces for frame in frames.split(piece)] == sent


def test_messages_are_complete_with_the_frame_that_brings_their_last_byte() -> None:
    messages = Messages()
    first, second = message(b"first") + message(b"and ")[:7], message(b"and ")[7:]
    assert messages.complete(PREFACE) == messages.complete(SETTINGS) == []
    assert messages.complete(data_frame(first)) == [b"first"]
    assert messages.complete(data_frame(message(b"other"), stream=3)) == [b"other"]
    assert messages.complete(data_frame(second + message(b""))) == [b"and ", b""]


@pytest.mark.parametrize("passed", [False, True])
async def test_a_watcher_of_messages_can_cut_before_or_after_one(proxy: Proxy, target: Target, passed: bool) -> None:
    frames = [data_frame(message(text)) for text in (b"one", b"two", b"three")]

    def watch(direction: str, messages: list[bytes], after: bool) -> None:
        if b"two" in messages and after == passed:
            proxy.cut()

    proxy.on_messages = watch
    client = await connect(proxy, target)
    client.send(PREFACE + b"".join(frames))
    assert await client.rest(client.far) == PREFACE + b"".join(frames[: 2 if passed else 1])
    client.near[1].transport.abort()


async def test_the_program_takes_faults_on_stdin(target: Target) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.robustness.proxy", target.address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    listening = (await within(process.stdout.readline())).decode()
    host, port = listening.removeprefix("listening on ").strip().split(":")
    near = await asyncio.open_connection(host, int(port))
    client = Client(near, await target.accept())
    await check_works(client)
    for line, answer in (
        (b"throttle 1e6\n", b"done\n"),
        (b"explode\n", b"no fault: 'explode\\n'\n"),
        (b"reset\n", b"done\n"),
    ):
        process.stdin.write(line)
        assert await within(process.stdout.readline()) == answer
    assert await client.rest(near) == b"RESET"
    near[1].close()
    process.stdin.close()
    assert await within(process.wait()) == 0


async def test_the_program_plays_faults_of_a_seed_until_it_is_killed(target: Target) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.robustness.proxy", target.address, "--seed", "3"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    listening = (await within(process.stdout.readline())).decode()
    host, port = listening.removeprefix("listening on ").strip().split(":")
    near = await asyncio.open_connection(host, int(port))
    client = Client(near, await target.accept())
    assert (await client.rest(near)).removesuffix(b"RESET") == b""  # sooner or later a fault ends it
    near[1].close()
    process.kill()
    await process.wait()
