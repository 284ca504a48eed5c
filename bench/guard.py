"""Counts what the server does for each message, and fails when it has become more: ``make bench-guard``.

Counts and no times, so that a busy machine says the same as a quiet one: the server's code runs in this process, on a
stream that is no gRPC and a clock that stands still. What gRPC itself costs is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import gc
import json
import logging
import platform
import selectors
import sys
import sysconfig
import threading
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TypeVarTuple, cast

import grpc

from session_service.config import Config
from session_service.host import SessionManager
from session_service.server.attachment import Context
from session_service.server.auth import anonymous
from session_service.server.service import SessionService
from session_service.v1 import session_pb2 as pb

from . import machine
from .apps import apps
from .conversation import DATA, GrpcClient, answer, request
from .load import round_trips
from .server import serve

__all__ = ["SCENARIOS", "compare", "count"]

EXPECTATIONS = Path(__file__).with_name("expectations.json")

# What a count may grow by: a share of it, and a little for those near 0. Counts of memory tremble by a dictionary that
# grows or a free list that runs out, and those of the kernel by what else the machine does.
MARGIN, GRAIN = 0.1, 0.05
MARGINS = {"context switches": 0.25}
GRAINS = {"bytes at most": 64.0, "bytes kept": 64.0, "blocks kept": 0.5}

WARM_UP = 20
OPERATIONS = 200

Ts = TypeVarTuple("Ts")

Counts = dict[str, float]

Script = Iterator[bytes | int]
"""What a client does: it sends bytes, and waits until so many commands, ``closed`` among them, have come."""

_STDLIB = sysconfig.get_path("stdlib")


class Stream:
    """A stream of a client that follows a script, in place of a `grpc.aio.ServicerContext`.

    The client has no task and takes no turn of the loop; a read and a write take one each, as they do in gRPC.
    """

    def __init__(self, guard: Guard, script: Script) -> None:
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._script = script
        self._item: bytes | int | None = 0  # what is next in the script; None at its end
        self._received = 0
        self._reading: asyncio.Future[Any] | None = None
        self._closing = self._closed = False
        self.done = self._loop.create_future()

    async def read(self) -> Any:
        """Return what the script says next, once it is time for it."""
        self._reading = reading = self._loop.create_future()
        self._feed()
        return await reading

    async def write(self, data: bytes) -> None:
        """Take a response."""
        self._guard.written()
        written = self._loop.create_future()
        self._loop.call_soon(written.set_result, None)
        response = pb.AttachResponse.FromString(data)
        if not self._received and response.commands:
            self._guard.first_spec = response.commands[0].json
        self._received += len(response.commands) + response.HasField("closed")
        self._closed |= response.HasField("closed")
        if self._closing and self._closed:
            self._item = pb.AttachRequest(ack=response.closed.sequence).SerializeToString()
        self._feed()
        await written

    def close(self) -> None:
        """End the session, if it has not ended."""
        self._closing = True
        self._item = pb.AttachRequest(close=pb.Close(now=True)).SerializeToString()
        self._feed()

    def hang_up(self) -> None:
        """End what is read: the call has ended."""
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(grpc.aio.EOF)

    def _feed(self) -> None:
        while True:
            while isinstance(self._item, int) and self._received >= self._item:
                self._item = next(self._script, None)
            if self._item is None and not self.done.done():
                self.done.set_result(None)
            if self._reading is None:
                return
            if isinstance(self._item, bytes):
                self._guard.handed_in()
                self._loop.call_soon(self._reading.set_result, self._item)
                self._reading, self._item = None, 0
            elif self._item is None and self._closed:  # it half-closes, and the server does not wait (protocol E2)
                self._loop.call_soon(self._reading.set_result, grpc.aio.EOF)
                self._reading = None
            else:
                return

    async def send_initial_metadata(self, _: object) -> None:
        """Do nothing."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what a client of gRPC sends."""
        return (("user-agent", "grpc-python-asyncio"),)

    def peer(self) -> str:
        """Return an address."""
        return "ipv4:127.0.0.1:1"

    def auth_context(self) -> Mapping[str, Any]:
        """Return nothing."""
        return {}


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock can stand still, so that no timer is ever due.

    Attributes:
        stands: its clock stands still.
        handles: how many callbacks have been scheduled: steps of tasks, and wake-ups.
        turns: how often it has looked for something to do.
    """

    def __init__(self) -> None:
        self.stands = False
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        self._stands_at = self.time()
        self.stands = True
        self.handles = self.turns = 0
        self._select = selector.select
        selector.select = self._turn  # type: ignore[method-assign]

    def _turn(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        return self._select(timeout)

    def time(self) -> float:
        """Return the same each time while the clock stands."""
        return self._stands_at if self.stands else super().time()

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Count."""
        self.handles += 1
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Count."""
        self.handles += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


class Guard:
    """Runs one scenario and counts between `begin` and `end`, which it calls.

    Attributes:
        counts: for each operation, once `end` has been called.
        first_spec: what the first command has brought.
    """

    def __init__(self, loop: Loop) -> None:
        self.counts: Counts = {}
        self.first_spec = ""
        self._loop = loop
        self._service = SessionService(SessionManager(apps, Config()), anonymous)
        self._streams: dict[Stream, asyncio.Task[None]] = {}
        self._counting = False
        self._calls = self._c_calls = self._writes = self._peaks = 0
        self._before = (0, 0, 0, 0)

    async def converse(self, script: Script) -> asyncio.Task[None]:
        """Have a client do what the script says; return the call, which stays open until the session ends."""
        stream = Stream(self, script)
        call = self._loop.create_task(self._service.attach(cast("Any", None), cast("Context", stream)))
        self._streams[stream] = call
        call.add_done_callback(lambda _: self._ended(stream))
        await stream.done
        return call

    def _ended(self, stream: Stream) -> None:
        del self._streams[stream]
        stream.hang_up()

    async def close(self) -> None:
        """End all sessions."""
        self._loop.stands = False
        calls = [*self._streams.values()]
        for stream in self._streams:
            stream.close()
        await asyncio.gather(*calls)

    def begin(self) -> None:
        """Count from now on."""
        gc.collect()
        self._before = self._now()
        self._counting = True

    def end(self, operations: int) -> None:
        """Count no more, and divide by what was done."""
        self._counting = False
        gc.collect()
        handles, turns, blocks, kept = (now - before for now, before in zip(self._now(), self._before, strict=True))
        counts = {
            "Python calls": self._calls,
            "C calls": self._c_calls,
            "handles": handles,
            "turns of the loop": turns,
            "writes": self._writes,
            "bytes at most": self._peaks,
            "bytes kept": kept,
            "blocks kept": blocks,
        }
        self.counts = {name: round(total / operations, 2) for name, total in counts.items()}

    def _now(self) -> tuple[int, int, int, int]:
        return self._loop.handles, self._loop.turns, sys.getallocatedblocks(), tracemalloc.get_traced_memory()[0]

    def handed_in(self) -> None:
        """Note that the server gets a message."""
        tracemalloc.reset_peak()
        self._kept = tracemalloc.get_traced_memory()[0]

    def written(self) -> None:
        """Note that the server writes a message."""
        if self._counting:
            self._writes += 1
            self._peaks += tracemalloc.get_traced_memory()[1] - self._kept

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """Count calls of and in all code but Python's own and this file's; see `sys.setprofile`."""
        if self._counting and event in ("call", "c_call"):
            path = frame.f_code.co_filename
            if path != __file__ and not (path.startswith(_STDLIB) and "site-packages" not in path):
                if event == "call":
                    self._calls += 1
                else:
                    self._c_calls += 1


# --- scenarios --------------------------------------------------------------------------------------------------------


def opening(app: str, value: bool = False) -> bytes:
    """Return a request that opens a resumable session."""
    command_format = pb.PAYLOAD_FORMAT_VALUE if value else pb.PAYLOAD_FORMAT_JSON
    return pb.AttachRequest(open=pb.Open(app=app, resumable=True, command_format=command_format)).SerializeToString()


async def round_trip(guard: Guard, app: str = "echo", value: bool = False) -> None:
    """An event and its command."""

    def script() -> Script:
        yield opening(app, value)
        yield 1
        callback = json.loads(guard.first_spec) if app == "click" else ""
        answers = [answer(sequence, callback, value) for sequence in range(1, WARM_UP + OPERATIONS + 1)]
        for number, message in enumerate(answers):
            if number == WARM_UP:
                guard.begin()
            yield message
            yield 2 + number
        guard.end(OPERATIONS)

    await guard.converse(script())


async def round_trip_value(guard: Guard) -> None:
    """The same in the VALUE format."""
    await round_trip(guard, value=True)


async def round_trip_threads(guard: Guard) -> None:
    """The same in a thread."""
    await round_trip(guard, "thread_echo")


async def callback(guard: Guard) -> None:
    """A click and the command of its callback."""
    await round_trip(guard, "click")


async def push(guard: Guard) -> None:
    """A command of many, with an ack now and then."""
    step, most = 250, 2_000

    def script() -> Script:
        yield opening("push")
        yield 1
        yield request(1, WARM_UP)
        yield 1 + WARM_UP
        guard.begin()
        yield request(2, most)
        for received in range(step, most + 1, step):
            yield 1 + WARM_UP + received
            yield pb.AttachRequest(ack=1 + WARM_UP + received).SerializeToString()
        guard.end(most)

    await guard.converse(script())


async def flood(guard: Guard, batch: int = 1) -> None:
    """An event of many, each in a message of its own."""
    events = [pb.Event(event="say", json=json.dumps(DATA))] * batch

    def script() -> Script:
        yield opening("flood")
        yield 1
        yield request(1, WARM_UP * batch + OPERATIONS)
        for first in range(2, WARM_UP * batch + OPERATIONS + 2, batch):
            if first == 2 + WARM_UP * batch:
                guard.begin()
            yield pb.AttachRequest(events=events, first_sequence=first).SerializeToString()
        yield 2
        guard.end(OPERATIONS)

    await guard.converse(script())


async def flood_batched(guard: Guard) -> None:
    """The same, ten in a message."""
    await flood(guard, 10)


async def opened(guard: Guard) -> None:
    """A session that is opened and stays."""

    def script() -> Script:
        yield opening("echo")
        yield 1

    for number in range(WARM_UP + OPERATIONS):
        if number == WARM_UP:
            guard.begin()
        await guard.converse(script())
    guard.end(OPERATIONS)


async def opened_and_closed(guard: Guard) -> None:
    """A session that is opened, sends a command and ends."""

    def script() -> Script:
        yield opening("hello")
        yield 2
        yield pb.AttachRequest(ack=2).SerializeToString()

    for number in range(WARM_UP + OPERATIONS):
        if number == WARM_UP:
            guard.begin()
        await (await guard.converse(script()))
    guard.end(OPERATIONS)


SCENARIOS: dict[str, Callable[[Guard], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (
        round_trip,
        round_trip_value,
        round_trip_threads,
        callback,
        push,
        flood,
        flood_batched,
        opened,
        opened_and_closed,
    )
}


def count(name: str) -> Counts:
    """Run a scenario twice, for the calls and for the memory, of which each would disturb the other."""
    calls = _run(name, profiled=True)
    tracemalloc.start()
    try:
        memory = _run(name, profiled=False)
    finally:
        tracemalloc.stop()
    return {**memory, **{name: calls[name] for name in ("Python calls", "C calls")}}


def _run(name: str, profiled: bool) -> Counts:
    async def run() -> Counts:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        guard = Guard(loop)
        profile: Any = guard.profile if profiled else None
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            await SCENARIOS[name](guard)
        finally:
            sys.setprofile(None)
            threading.setprofile(cast("Any", None))
        await guard.close()
        return guard.counts

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(run())


async def count_over_grpc() -> Counts:
    """Return how often the threads of a real server go to sleep for a round trip of its only session."""
    async with serve("ours") as server:
        client = GrpcClient(server.address)
        conversation = await client.open("echo")
        await round_trips([conversation], WARM_UP)
        before = machine.context_switches(server.pid)
        await round_trips([conversation], OPERATIONS)
        switches = machine.context_switches(server.pid) - before
        await client.close()
    return {"context switches": round(switches / OPERATIONS, 2)}


def compare(expected: Mapping[str, Counts], counted: Mapping[str, Counts]) -> list[str]:
    """Return what has grown by more than it may, in words."""
    complaints = []
    for scenario, counts in counted.items():
        for name, number in counts.items():
            before = expected.get(scenario, {}).get(name)
            if before is None:
                complaints.append(f"{scenario}: nothing is expected of {name} yet, which are {number:g}")
            elif number > before + abs(before) * MARGINS.get(name, MARGIN) + GRAINS.get(name, GRAIN):
                complaints.append(f"{scenario}: {name} have grown from {before:g} to {number:g}")
    return complaints


def main() -> int:
    """Return 1 if something has grown."""
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description=__doc__)
    parser.add_argument("--update", action="store_true", help="expect from now on what is counted now")
    arguments = parser.parse_args()
    logging.disable()  # what is logged, and where to, is for the user to say
    counted = {name: count(name) for name in SCENARIOS}
    counted["over_grpc"] = asyncio.run(count_over_grpc())
    version = platform.python_version()
    if arguments.update:
        text = json.dumps({"python": version, "counts": counted}, indent=2)
        EXPECTATIONS.write_text(text + "\n")
        return 0
    expectations = json.loads(EXPECTATIONS.read_text())
    complaints = compare(expectations["counts"], counted)
    for scenario, counts in counted.items():
        print(f"{scenario}: " + ", ".join(f"{name} {number:g}" for name, number in counts.items()))
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if complaints:
        print(
            f"{EXPECTATIONS.name} was written by Python {expectations['python']}, and this is {version}."
            " If there is a reason for more, `make bench-guard UPDATE=1` expects it from now on.",
            file=sys.stderr,
        )
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
