"""A TCP proxy that breaks: what may lie between a client and a server, at its worst.

::

    async with Proxy("127.0.0.1:50051") as proxy:
        client = SessionClient(proxy.address)
        ...
        proxy.cut()

A fault is also a line, of which `schedule` makes any number from a seed, and which `Proxy.play` plays to its end:

- ``cut``: all connections end; what has passed arrives.
- ``cut up N``: the same when N more bytes have passed to the server, be it within a frame; ``cut down N``.
- ``reset``: all connections end as if a machine had crashed (RST).
- ``hole [S]``: nothing is forwarded and nothing closed on the connections there are; reset after S seconds.
- ``late [S]``: a hole, but the client's end is reset; what was under way comes S seconds late, the end twice that.
- ``delay S [T]``: each read waits S seconds before it passes, for T seconds.
- ``throttle R [T]``: R bytes a second pass each way, for T seconds.
- ``refuse [S]``: a cut, and new connections are reset as they come, for S seconds.
- ``heal``: ends what lasts, also where no time was given.

As a program it takes such lines on stdin, or a seed: ``python -m tests.robustness.proxy HOST:PORT [--seed N]``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType

from .link import Direction, Link, reset

__all__ = ["Proxy", "schedule"]

# Seconds that a cut after so many bytes waits for them.
PATIENCE = 0.1


class Proxy:
    """Listens on a port of its own, and forwards to ``target`` as well as it is told to.

    Attributes:
        address: where it listens.
        delay: seconds that each read waits before it passes.
        rate: bytes a second that pass, each way of each connection; None for all.
        refusing: new connections are reset.
        on_messages: called with the gRPC messages that an HTTP/2 frame completes, before it passes (False) and after
            (True), and may break something; only for connections that were made when there was one.
        faults: how many there were of each kind.
        connections: how many there were.
    """

    def __init__(self, target: str, listen: str = "127.0.0.1:0") -> None:
        self._target, self._listen = target, listen
        self.delay = 0.0
        self.rate: float | None = None
        self.refusing = False
        self.on_messages: Callable[[Direction, list[bytes], bool], None] | None = None
        self.faults: Counter[str] = Counter()
        self.connections = 0
        self._left: dict[Direction, int] = {}  # bytes until a cut
        self._cut = asyncio.Event()
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # one for each connection

    async def __aenter__(self) -> Proxy:
        host, _, port = self._listen.rpartition(":")
        self._server = await asyncio.start_server(self._on_connection, host, int(port))
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self.refusing = True
        for _ in range(3):  # turns of the loop in which what it has accepted comes to `_on_connection`
            await asyncio.sleep(0)
        while self._tasks:
            self.reset()
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def wait_ended(self, left: int = 0) -> None:
        """Wait until so many connections are left that have not ended at both ends."""
        while len(self._tasks) > left:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def cut(self) -> None:
        """End all connections; what has passed arrives."""
        for link in self._links:
            link.end()
        self._left.clear()
        self._cut.set()

    def cut_after(self, direction: Direction, size: int) -> None:
        """Cut when ``size`` more bytes have passed."""
        self._left[direction] = size
        self._cut.clear()

    def reset(self) -> None:
        """End all connections at once: what is under way is lost."""
        for link in self._links:
            link.reset()
        self._left.clear()
        self._cut.set()

    def hole(self) -> None:
        """Forward nothing and close nothing on the connections there are; new ones work."""
        for link in self._links:
            link.open.clear()

    def late(self) -> None:
        """Reset the clients' ends only; the server gets what was under way when it heals, the end by `end_late`."""
        for link in self._links:
            link.open.clear()
            link.reset_client()

    def end_late(self) -> None:
        """End the connections that came late: the server learns that their clients are gone."""
        for link in self._links:
            link.may_end.set()

    def heal(self) -> None:
        """End whatever lasts, but for the connections that came late."""
        self.delay, self.rate, self.refusing = 0.0, None, False
        self._left.clear()
        for link in self._links:
            link.open.set()

    async def play(self, line: str) -> None:
        """Play one fault to its end.

        Raises:
            ValueError: it is none.
        """
        match line.split():
            case ["cut"]:
                self.cut()
            case ["cut", "up" | "down" as direction, size]:
                self.cut_after(direction, int(size))
                try:
                    await asyncio.wait_for(self._cut.wait(), PATIENCE)
                except TimeoutError:
                    self.cut()
            case ["reset"]:
                self.reset()
            case ["hole", *seconds]:
                self.hole()
                await self._last(seconds, self.reset)
            case ["late", *seconds]:
                self.late()
                await self._last(seconds, self.heal)
                await self._last(seconds, self.end_late)
            case ["delay", delay, *seconds]:
                self.delay = float(delay)
                await self._last(seconds, self.heal)
            case ["throttle", rate, *seconds]:
                self.rate = float(rate)
                await self._last(seconds, self.heal)
            case ["refuse", *seconds]:
                self.refusing = True
                self.cut()
                await self._last(seconds, self.heal)
            case ["heal"]:
                self.heal()
                self.end_late()
                return
            case _:
                raise ValueError(f"no fault: {line!r}")
        self.faults[" ".join(word for word in line.split() if word.isalpha())] += 1

    async def _last(self, seconds: list[str], end: Callable[[], None]) -> None:
        if seconds:
            await asyncio.sleep(float(seconds[0]))
            end()

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            reset(writer)
        else:
            task = asyncio.create_task(self._connect(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        try:
            server = await asyncio.open_connection(host, int(port))
        except OSError:
            reset(writer)
            return
        link = Link(self, (reader, writer), server)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.remove(link)

    def tell(self, direction: Direction, messages: list[bytes], passed: bool) -> None:
        """Tell of messages."""
        if self.on_messages is not None:
            self.on_messages(direction, messages, passed)

    def allow(self, direction: Direction, size: int) -> tuple[int, bool]:
        """Count down to a cut; return how many bytes may still pass, and whether it is time to cut then."""
        left = self._left.get(direction)
        if left is None:
            return size, False
        self._left[direction] = max(0, left - size)
        return min(size, left), size >= left


def schedule(seed: int) -> Iterator[str]:
    """Yield faults without end that end by themselves, always the same ones for a seed."""
    chance = random.Random(seed)
    while True:
        brief = f"{chance.uniform(0.005, 0.05):.3f}"
        yield from chance.choices(
            (
                "cut",
                "reset",
                f"cut up {chance.randrange(2000)}",
                f"cut down {chance.randrange(2000)}",
                f"hole {brief}",
                f"late {brief}",
                f"refuse {brief}",
                f"delay 0.005 {brief}",
                f"throttle 50000 {brief}",
            ),
            weights=(4, 4, 4, 4, 2, 3, 1, 1, 1),
        )


async def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.robustness.proxy", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("target", metavar="HOST:PORT", help="where to forward to")
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:0", help="port 0 for a free one")
    parser.add_argument("--seed", type=int, help="play faults of this seed, a second apart on average")
    args = parser.parse_args()
    async with Proxy(args.target, args.listen) as proxy:
        print(f"listening on {proxy.address}", flush=True)  # noqa: T201
        if args.seed is not None:
            pauses = random.Random(args.seed)
            for line in schedule(args.seed):
                await asyncio.sleep(pauses.uniform(0, 2))
                await proxy.play(line)
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                await proxy.play(line)
                answer = "done"
            except ValueError as error:
                answer = str(error)
            print(answer, flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(_main())
