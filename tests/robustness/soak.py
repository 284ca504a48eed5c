"""Load on a server in a process of its own, and what it costs: ``python -m tests.robustness.soak --minutes 10``.

Round after round of the same load: idle sessions by the thousand; beside them many times as many that are opened and
closed, left, or lost; clients that never read, never acknowledge or never stop sending; a storm of streams after a
restart. A bystander in a process of its own echoes all the while. One line every few seconds tells what the server
holds and how long the bystander waits for its echo; the last rounds must end where the first did. The tests run the
same loads, smaller: test_bounded.py.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import ctypes
import gc
import itertools
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import duration_pb2

from session_service import AbstractSession, CommandBufferFull, get_current_session
from session_service.host import ManagedSession
from session_service.host.requests import REQUEST_ID_MEMORY, Requests
from session_service.v1 import session_pb2 as pb
from session_service.v1 import session_pb2_grpc
from tests.cli.program import Program
from tests.protocol.peer import PATIENCE, Peer, Service, event, value

__all__ = [
    "ABUSES",
    "LIVES",
    "MIB",
    "OWN_SESSIONS",
    "Abuse",
    "Gauge",
    "Usage",
    "abusers",
    "apps",
    "bystander",
    "churn",
    "connected",
    "held",
    "leaked",
    "serve",
    "storm",
]

REPOSITORY = Path(__file__).parents[2]

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

JSON = pb.PAYLOAD_FORMAT_JSON

# What the apps that only write send, in bytes: small enough that a window holds many, large enough that it is bytes and
# not Python objects that are counted.
CHUNK = 16 * 1024

# Streams on one connection, and calls of one load that are under way at once.
STREAMS = 1000
AT_ONCE = 64

PAUSE = 0.05

# The resume window of a client that comes back, under any load, and of one that never will.
COMES_BACK = duration_pb2.Duration(seconds=2)
LEAVES = duration_pb2.Duration(nanos=200_000_000)

# Below the interval of a server's defaults.
HEARTBEAT = 20.0

MIB = 1 << 20

# Sessions of those who watch: the gauge and the bystander.
OWN_SESSIONS = 2

# Seconds that what was left behind may take to be forgotten.
SETTLE_TIME = 60.0


# --- the apps of the server -------------------------------------------------------------------------------------------


async def echo() -> None:
    """Say everything back."""
    session = get_current_session()
    while True:
        data = (await session.next_client_event())["data"]
        session.send_task_command({"command": "echo", "spec": data})
        await session.drain()


async def deaf() -> None:
    """Never take an event."""
    await asyncio.Event().wait()


async def chatty() -> None:
    """Send for ever, as fast as the client takes it."""
    session = get_current_session()
    while True:
        session.send_task_command({"command": "chunk", "spec": "x" * CHUNK})
        await session.drain()


async def heedless() -> None:
    """Send as much as a session takes without ever waiting for room, then end when the client does."""
    session = get_current_session()
    try:
        while True:
            session.send_task_command({"command": "chunk", "spec": "x" * CHUNK})
    except CommandBufferFull:
        await session.next_client_event()


async def gauge() -> None:
    """Answer each event with what this process holds, after what it asks for has been done."""
    session = get_current_session()
    while True:
        first = (await session.next_client_event())["data"]
        if first == "collect garbage":
            gc.collect()
        if first == "forget peak":
            forget_peak()
        session.send_task_command({"command": "usage", "spec": asdict(usage())})


def forget_peak() -> None:
    """Have the kernel count the greatest memory of this process from here on."""
    Path("/proc/self/clear_refs").write_text("5")


class MallInfo(ctypes.Structure):
    """What glibc's mallinfo2(3) returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def in_use() -> int:
    """Return how many bytes the C library has given out, to gRPC for the most part."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = MallInfo
    info = mallinfo2()
    return int(info.uordblks) + int(info.hblkhd)


def usage() -> Usage:
    """Return what this process holds."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kept = [thing for thing in gc.get_objects() if isinstance(thing, ManagedSession)]
    return Usage(
        rss=int(status["VmRSS"].split()[0]) * 1024,
        peak=int(status["VmHWM"].split()[0]) * 1024,
        in_use=in_use(),
        blocks=sys.getallocatedblocks(),
        threads=threading.active_count(),
        os_threads=int(status["Threads"]),
        fds=len(os.listdir("/proc/self/fd")),
        tasks=len(asyncio.all_tasks()),
        sessions=AbstractSession.active_session_count(),
        kept=len(kept),
        requests=sum(len(thing) for thing in gc.get_objects() if isinstance(thing, Requests)),
    )


apps = {app.__name__: app for app in (echo, deaf, chatty, heedless, gauge)}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server process holds.

    Attributes:
        rss: bytes of memory.
        peak: the most bytes since it was last told to forget its peak.
        in_use: bytes of memory that the C library has given out; 0 where that is not glibc.
        blocks: how many pieces of memory Python's own allocator has given out.
        threads: those that Python knows.
        os_threads: all of them.
        fds: open file descriptors.
        tasks: of asyncio.
        sessions: those that have not ended.
        kept: all that are still in memory, ended or not.
        requests: the request ids that are remembered, those of the last two minutes (A6).
    """

    rss: int
    peak: int
    in_use: int
    blocks: int
    threads: int
    os_threads: int
    fds: int
    tasks: int
    sessions: int
    kept: int
    requests: int


class Gauge:
    """Asks a server what it holds, over a connection of its own."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def read(self, first: str = "") -> Usage:
        """Return what the server holds, once it has done what is asked for: "collect garbage" or "forget peak"."""
        await self._peer.send(events=[event("read", first)])
        while not (commands := (await self._peer.receive()).commands):
            pass
        return Usage(**value(commands[0]))

    async def ended(self, sessions: int) -> Usage:
        """Wait until so many sessions are left; return what the server holds then."""
        async with asyncio.timeout(SETTLE_TIME):
            while True:
                usage = await self.read()
                if usage.sessions <= sessions:
                    return usage
                await asyncio.sleep(PAUSE)

    async def settled(self, sessions: int) -> Usage:
        """Wait until so many are left, in memory too, and tasks and descriptors stay the same; return that."""
        before = None
        async with asyncio.timeout(SETTLE_TIME):
            while True:
                usage = await self.read("collect garbage")
                now = (usage.kept, usage.tasks, usage.fds)
                if usage.sessions == sessions and usage.kept == sessions and now == before:
                    return usage
                before = now
                await asyncio.sleep(PAUSE)


class Client(Service):
    """A connection to a server in another process."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = session_pb2_grpc.SessionServiceStub(channel)


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Client]:
    """Connect over a socket of its own, with 64 KiB a stream for a client that does not read."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        yield Client(channel)


@asynccontextmanager
async def serve(folder: Path, **environment: str) -> AsyncIterator[tuple[str, Gauge]]:
    """Serve the apps by the command line, in a process of its own: its address, and a gauge that stays connected."""
    async with AsyncExitStack() as stack:
        environment = {"PYTHONPATH": str(REPOSITORY), "SESSION_SERVICE_SHUTDOWN_GRACE": "0", **environment}
        served = await Program(folder, stack).serve("tests.robustness.soak:apps", **environment)
        yield served.address, Gauge(await served.open("gauge", command_format=JSON))


# --- loads ------------------------------------------------------------------------------------------------------------


async def each(count: int, act: Callable[[int], Awaitable[None]]) -> None:
    """Act for each number below ``count``, some at once."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await act(number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(AT_ONCE, count)):
            tasks.create_task(work())


async def echoed(peer: Peer, data: object) -> None:
    """Send the first event, and wait for its echo."""
    await peer.send(events=[event("say", data)], first_sequence=1)
    assert [value(command) for command in await peer.receive_commands(1)] == [data]


async def ended(peer: Peer, code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
    """Wait for the end of a stream."""
    status = await peer.status()
    assert status.code is code, status


async def close_plain(service: Service) -> None:
    """Open, talk and close."""
    peer = await service.open("echo", command_format=JSON)
    await echoed(peer, 1)
    await peer.send(close=pb.Close())
    await ended(peer)


async def close_resumable(service: Service) -> None:
    """Open, talk and close, as a client library does it: the open can be repeated, the end is acknowledged."""
    peer = await opened(service, "echo", request_id=str(uuid.uuid4()))
    await echoed(peer, 1)
    await peer.send(close=pb.Close(), ack=1)
    responses = await peer.receive_until(lambda response: response.HasField("closed"))
    await peer.send(ack=responses[-1].closed.sequence)
    await ended(peer)


async def leave_plain(service: Service) -> None:
    """Open and leave, without a word."""
    (await service.open("echo")).cancel()


async def leave_resumable(service: Service) -> None:
    """Open and leave: the session waits for the resume window, in vain."""
    (await opened(service, "echo", LEAVES)).cancel()


async def resume_and_close(service: Service) -> None:
    """Open, lose the stream, resume and end it at once."""
    first = await opened(service, "echo")
    await echoed(first, 1)
    first.cancel()
    second = await service.resume(first, received=1)
    await second.send(close=pb.Close(now=True), ack=1)
    responses = await second.receive_until(lambda response: response.HasField("closed"))
    await second.send(ack=responses[-1].closed.sequence)
    await ended(second)


async def opened(service: Service, app: str, resume_window: duration_pb2.Duration = COMES_BACK, **fields: Any) -> Peer:
    """Open a resumable session that is soon forgotten once it is left."""
    return await service.open(app, resumable=True, resume_window=resume_window, command_format=JSON, **fields)


LIVES = (close_plain, leave_plain, close_resumable, leave_resumable, resume_and_close)
STREAMS_OF_LIVES = 6 / 5  # the last one has two


async def churn(address: str, count: int, lives: Sequence[Callable[[Service], Awaitable[None]]] = LIVES) -> None:
    """Open so many sessions, and end each in one of these ways."""
    async with connected(address) as service:
        await each(count, lambda number: lives[number % len(lives)](service))


@asynccontextmanager
async def held(address: str, count: int) -> AsyncIterator[list[Peer]]:
    """Hold so many idle sessions, plain and resumable ones, with heartbeats and nothing else."""
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(connected(address)) for _ in range(-(-count // STREAMS))]
        peers: list[Peer] = []

        async def hold(number: int) -> None:
            service = services[number % len(services)]
            peers.append(await (opened(service, "echo") if number % 2 else service.open("echo", command_format=JSON)))

        await each(count, hold)
        beating = asyncio.get_running_loop().create_task(beat(peers))
        try:
            yield peers
        finally:
            beating.cancel()
            for peer in peers:
                peer.cancel()


async def beat(peers: list[Peer]) -> None:
    """Send heartbeats (protocol F3)."""
    while True:
        await asyncio.sleep(HEARTBEAT)
        for peer in peers:
            await peer.send()


async def storm(address: str, count: int) -> collections.Counter[str]:
    """Begin so many streams at once; return how many were answered with what.

    Half of them resume what a server that was restarted does not know, and half open.
    """
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(connected(address)) for _ in range(-(-count // STREAMS))]
        calls = [service.attach() for service in services for _ in range(STREAMS)][:count]
        try:
            async with asyncio.timeout(SETTLE_TIME):
                answers = await asyncio.gather(*(first_answer(peer, number) for number, peer in enumerate(calls)))
        finally:
            for peer in calls:
                peer.cancel()
    return collections.Counter(answers)


async def first_answer(peer: Peer, number: int) -> str:
    """Return what begins a stream, or how it ended: its reason, or else its code."""
    request = pb.AttachRequest(open=pb.Open(app="echo"))
    if number % 2:
        request = pb.AttachRequest(resume=pb.Resume(session_id=f"unknown-{number}", resume_token="t"))
    try:
        await peer.call.write(request)
        response = await peer._read(None)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        response = None
    if response is not None:
        return response.WhichOneof("control") or "nothing"
    status = await peer.status()
    return status.reason or status.code.name


# --- clients that abuse a server --------------------------------------------------------------------------------------

Progress = collections.Counter[str]
Abuse = Callable[[Service, Progress], Coroutine[Any, Any, None]]


async def never_reads(service: Service, progress: Progress) -> None:
    """Open an app that sends for ever, and read nothing of it; resumable or plain, all the same."""
    await opened(service, "chatty", LEAVES)
    await service.open("chatty", command_format=JSON)
    progress["opened"] += 2


async def never_acknowledges(service: Service, progress: Progress) -> None:
    """Take all commands that come, and acknowledge none."""
    peer = await opened(service, "chatty", LEAVES)
    while isinstance(response := await peer.call.read(), pb.AttachResponse):
        progress["commands"] += len(response.commands)


async def lets_an_app_run_on(service: Service, progress: Progress) -> None:
    """Read nothing of an app that never waits for room."""
    await opened(service, "heedless", LEAVES)
    progress["opened"] += 1


async def floods(service: Service, progress: Progress) -> None:
    """Send events for ever to a task that takes none. HTTP/2 holds a plain client back."""
    peer = await service.open("deaf")
    while True:
        await peer.call.write(pb.AttachRequest(events=[event("say", "x" * CHUNK)] * 8))
        progress["events"] += 8


async def floods_beyond_its_window(service: Service, progress: Progress) -> None:
    """Send more than was granted, again and again: what may wait to be taken over, as often again, and then some."""
    peer = await opened(service, "deaf")
    limits = peer.opened.limits.event_window
    batch = [event("say", "x" * CHUNK)] * (5 * limits.bytes // (2 * CHUNK))
    for _ in range(10):
        await peer.send(events=batch, first_sequence=peer.resumed.received + 1)
        status = await peer.status()
        assert (status.code, status.reason, status.retry) == (EXHAUSTED, "WINDOW_EXCEEDED", "NEVER"), status
        progress["refused"] += 1
        peer = await service.resume(peer)


async def sends_frames_of_the_greatest_size(service: Service, progress: Progress) -> None:
    """Send events that fill a message each to a task that takes none."""
    peer = await service.open("deaf")
    event_ = pb.Event(event="say", blob=b"x" * (peer.opened.limits.max_message_bytes - 1000))
    while True:
        await peer.call.write(pb.AttachRequest(events=[event_]))
        progress["events"] += 1


@asynccontextmanager
async def abusers(address: str, abuse: Abuse, count: int) -> AsyncIterator[Progress]:
    """So many clients abuse the server, each over a connection of its own; they have got as far as they get."""
    async with AsyncExitStack() as stack:
        progress: Progress = collections.Counter()
        tasks: list[asyncio.Task[None]] = []
        for _ in range(count):
            service = await stack.enter_async_context(connected(address))
            tasks.append(asyncio.get_running_loop().create_task(abuse(service, progress)))
        try:
            await at_rest(progress)
            yield progress
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


async def at_rest(progress: Progress) -> None:
    """Wait until nothing moves any more."""
    async with asyncio.timeout(SETTLE_TIME):
        while True:
            before = progress.total()
            await asyncio.sleep(10 * PAUSE)
            if before and progress.total() == before:
                return


# --- a bystander ------------------------------------------------------------------------------------------------------


class Bystander:
    """Somebody else's session, in a process of its own.

    Attributes:
        latencies: seconds that each of its echoes took, so far.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.latencies: list[float] = []
        self._process = process

    async def watch(self) -> None:
        """Note what it tells, until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.latencies.append(float(line))

    def check(self) -> None:
        """Fail where it has not had its echoes."""
        assert self._process.returncode is None, f"an echo took more than {PATIENCE:g} s, or never came"
        assert self.latencies


@asynccontextmanager
async def bystander(address: str) -> AsyncIterator[Bystander]:
    """Have somebody else echo; none of the echoes may take longer than `PATIENCE`, or leaving fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.robustness.soak", "--bystander", address),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    one = Bystander(process)
    watching = asyncio.get_running_loop().create_task(one.watch())
    try:
        async with asyncio.timeout(SETTLE_TIME):
            while not one.latencies and not watching.done():  # noqa: ASYNC110 - nothing sets an Event here
                await asyncio.sleep(PAUSE)
        yield one
        one.check()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await watching
        await process.wait()


async def stand_by(address: str) -> None:
    """Echo for ever, and print how long each took; `Peer` fails what takes longer than its patience."""
    async with connected(address) as service:
        peer = await opened(service, "echo")
        for sequence in itertools.count(1):
            began = time.perf_counter()
            await peer.send(events=[event("say", sequence)], first_sequence=sequence, ack=sequence - 1)
            assert [value(command) for command in await peer.receive_commands(1)] == [sequence]
            print(time.perf_counter() - began, flush=True)  # noqa: T201 - it is what this process is for
            await asyncio.sleep(PAUSE)


# --- the soak ---------------------------------------------------------------------------------------------------------

# Sessions of one round at full scale.
IDLE = 10_000
CHURN = 60_000
STORM = 6_000
ABUSERS = 8

ABUSES = (
    never_reads,
    never_acknowledges,
    lets_an_app_run_on,
    floods,
    floods_beyond_its_window,
    sends_frames_of_the_greatest_size,
)

# What may be in use after a load and was not before, in bytes: at all, and for each stream.
NOISE = 256 * 1024
BYTES_PER_STREAM = 50

# What a request id takes while it is remembered: a round ends with more or fewer of them, as fast as it was.
BLOCKS_PER_REQUEST = 6

# gRPC's core adds a thread to its pool when all are busy.
GROWN_POOL = 4

# Between two lines of the curve, in seconds.
LINE = 5.0

HEADER = (
    "    time  round  phase               sessions     RSS    peak  threads   fds  tasks   echo p50     p99     max"
)


class Soak:
    """Rounds of load, and the curve."""

    def __init__(self, address: str, gauge: Gauge, other: Bystander, scale: float) -> None:
        self._address = address
        self._gauge = gauge
        self._other = other
        self._scale = scale
        self._began = time.monotonic()
        self._round = 0
        self._phase = ""
        self._told = 0
        self._reading = asyncio.Lock()

    async def run(self, seconds: float) -> bool:
        """Go round until the time is over, and two rounds can be compared; return whether all ended like the first.

        The first is one by whose end the server has begun to forget request ids as fast as it learns them (A6).
        """
        say(HEADER)
        drawing = asyncio.get_running_loop().create_task(self._draw())
        ends: list[Usage] = []
        try:
            while len(ends) < 2 or time.monotonic() - self._began < seconds:
                end = await self._round_of_load()
                if self._round > 1 and time.monotonic() - self._began > REQUEST_ID_MEMORY:
                    ends.append(end)
                say(
                    f"    that leaves {end.rss / MIB:.1f} MiB, {end.in_use / MIB:.2f} of it in use by C, and"
                    f" {end.blocks} blocks of Python's, with {end.requests} request ids"
                )
        finally:
            drawing.cancel()
        echoes = self._other.latencies
        say(f"{len(echoes)} echoes of the bystander: {shares(echoes)}")
        streams = round((IDLE + CHURN * STREAMS_OF_LIVES + STORM) * self._scale)
        leaks = [leak for rounds, end in enumerate(ends[1:], 1) for leak in leaked(ends[0], end, streams * rounds)]
        for leak in leaks:
            say(f"LEAKED: {leak}")
        return not leaks

    async def _round_of_load(self) -> Usage:
        self._round += 1
        self._phase = "open idle"
        async with held(self._address, round(IDLE * self._scale)) as peers:
            await self._line()
            self._phase = "idle and churn"
            await churn(self._address, round(CHURN * self._scale))
            await self._line()
            for abuse in ABUSES:
                self._phase = abuse.__name__[:18]
                async with abusers(self._address, abuse, ABUSERS):
                    await self._line()
            self._phase = "idle"
            await self._line()
            assert len(peers) == round(IDLE * self._scale)
        self._phase = "storm"
        answers = await storm(self._address, round(STORM * self._scale))
        say(f"    the storm was answered with {dict(answers.most_common())}")
        self._phase = "settle"
        async with self._reading:
            end = await self._gauge.settled(OWN_SESSIONS)
        self._phase = "end of the round"
        await self._line()
        return end

    async def _draw(self) -> None:
        while True:
            await asyncio.sleep(LINE)
            await self._line()

    async def _line(self) -> None:
        async with self._reading:
            holds = await self._gauge.read()
        self._other.check()
        echoes, self._told = self._other.latencies[self._told :], len(self._other.latencies)
        say(
            f"{time.monotonic() - self._began:8.1f}  {self._round:5}  {self._phase:18} {holds.sessions:9}"
            f" {holds.rss / MIB:6.1f}M {holds.peak / MIB:6.1f}M {holds.os_threads:8} {holds.fds:5} {holds.tasks:6}"
            f"   {shares(echoes)}"
        )


def leaked(first: Usage, end: Usage, streams: int) -> list[str]:
    """Return what has leaked between two ends of the same load, with so many streams in between.

    What the kernel counts is allowed 5 %, for an arena of an allocator stays for the sake of a single object. What is
    in use tells of a leak much sooner.
    """
    leaks = []
    if end.rss > first.rss * 1.05:
        leaks.append(f"resident memory: {first.rss / MIB:.1f} MiB have become {end.rss / MIB:.1f}")
    # grpc.aio itself loses some 100 bytes of a call that its client cancels (grpc/grpc#43360).
    if end.in_use - first.in_use > NOISE + BYTES_PER_STREAM * streams:
        leaks.append(f"memory: {(end.in_use - first.in_use) / streams:.0f} bytes a stream")
    expected = first.blocks + BLOCKS_PER_REQUEST * (end.requests - first.requests)
    if end.blocks > expected * 1.05:
        leaks.append(f"objects: {first.blocks} blocks have become {end.blocks}, and {expected} were due")
    for name in ("threads", "fds", "tasks", "sessions", "kept"):
        before, after = getattr(first, name), getattr(end, name)
        if after > before:
            leaks.append(f"{name}: {before} have become {after}")
    if end.os_threads > first.os_threads + GROWN_POOL:
        leaks.append(f"os_threads: {first.os_threads} have become {end.os_threads}")
    return leaks


def shares(seconds: Sequence[float]) -> str:
    """Return the 50th and the 99th percentile and the greatest, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return "none"
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99))
    return f"{p50 * 1000:5.1f} ms {p99 * 1000:5.1f} ms {ordered[-1] * 1000:5.1f} ms"


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)  # noqa: T201 - a program


async def soak(minutes: float) -> bool:
    """Run, and return whether all is well."""
    scale = min(1.0, minutes / 10)
    with tempfile.TemporaryDirectory() as folder:
        # All that is there at once, and what has been left behind a moment ago.
        async with (
            serve(Path(folder), SESSION_SERVICE_MAX_SESSIONS="100000") as (address, gauge),
            bystander(address) as other,
        ):
            return await Soak(address, gauge, other, scale).run(minutes * 60)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long; below 10 the load is smaller, too")
    parser.add_argument("--bystander", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bystander:
        asyncio.run(stand_by(arguments.bystander))
    return 0 if asyncio.run(soak(arguments.minutes)) else 1


if __name__ == "__main__":
    sys.exit(main())
