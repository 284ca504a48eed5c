"""Many messages each way over many random cuts: loses none, repeats none, reorders none.

``python -m tests.robustness.run [--messages N] [--cuts N] [--seed N]`` prints the figures; `make robustness` is that.

Both sides speak at once, each at its own pace: the app and the client both have their pauses, longer than the other
side's window lasts. A fault falls on a position in the conversation, so that their number does not depend on how fast
a machine is; the client waits a little beyond a position until the fault was there.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from session_client import AttachmentState

from session_service import Window

from .harness import PATIENCE, Harness, ServerProcess, Talk
from .proxy import schedule
from .repeats import Repeated, RepeatingClient

__all__ = ["KINDS", "Figures", "run"]

KINDS = ("coroutine", "thread")

# Faults that end no connection.
SLOW = ("delay", "throttle")

# How many messages the client goes beyond a position whose fault is due: more than a cut after some bytes waits for.
BEYOND = 400

# The app takes its first event only when the client has come back so often: its window must be full until then.
DEAF = 20

# After so many messages the app takes no events, and the client no commands, for some seconds.
BURST = 1_500
APP_PAUSE = 0.5
CLIENT_PAUSE = 0.1

EVENT_WINDOW = Window().messages
COMMAND_WINDOW = Window(256, 64 * 1024)


@dataclass(frozen=True)
class Figures:
    """What happened in one run.

    Attributes:
        kind: that of the session.
        messages: each way.
        faults: of each kind, as they were made.
        resumes: how often the client came back.
        failed: tries to come back that came to nothing.
        repeated: what went over the wire more than once.
        full: how often the client found the event window full: the app was slower.
        seconds: from the first message to the last.
    """

    kind: str
    messages: int
    faults: Counter[str]
    resumes: int
    failed: int
    repeated: Repeated
    full: int
    seconds: float

    @property
    def cuts(self) -> int:
        """Faults that ended a connection."""
        return sum(count for kind, count in self.faults.items() if kind not in SLOW)

    def __str__(self) -> str:
        repeated, faults = self.repeated, ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.faults.items()))
        return (
            f"{self.kind}: {self.messages:,} events and {self.messages:,} commands, none lost, repeated or reordered\n"
            f"  {self.cuts:,} cuts of {self.faults.total():,} faults: {faults}\n"
            f"  {self.resumes:,} resumes, {self.failed:,} tries that failed\n"
            f"  sent again after a cut: {repeated.events_again:,} events, {repeated.commands_again:,} commands\n"
            f"  duplicates dropped: {repeated.events:,} events at least, {repeated.commands:,} commands\n"
            f"  the client had to wait for the app {self.full:,} times\n"
            f"  {self.seconds:.1f} s, {2 * self.messages / self.seconds:,.0f} messages/s"
        )


class _Pace:
    """Brings the conversation and the faults together."""

    def __init__(self, positions: list[int]) -> None:
        self._positions = positions  # the next is the last
        self._steps = 0
        self._changed = asyncio.Condition()

    async def step(self) -> None:
        """Count a message; wait while a fault is due and the conversation is too far beyond it."""
        self._steps += 1
        if not self._positions or self._steps < self._positions[-1]:
            return
        async with self._changed:
            self._changed.notify_all()
            await self._changed.wait_for(lambda: not self._positions or self._steps < self._positions[-1] + BEYOND)

    async def wait_due(self) -> None:
        """Wait until the next fault is due."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._steps >= self._positions[-1])

    async def done(self) -> None:
        """Note that the fault was there."""
        async with self._changed:
            self._positions.pop()
            self._changed.notify_all()


async def run(server: ServerProcess, folder: Path, kind: str, messages: int, cuts: int, seed: int) -> Figures:
    """Make one run.

    Raises:
        Broken: a guarantee did not hold.
    """
    chance = random.Random(seed)
    lines = _lines(seed, cuts)
    # None so late that the session may have ended when the client should come back.
    pace = _Pace(sorted((chance.randrange(2 * messages - 2 * BEYOND) for _ in lines), reverse=True))
    repeated = Repeated()
    burst = max(BURST, messages // 20)
    async with Harness(server, folder) as harness:

        async def break_things() -> None:
            for line in lines:
                await pace.wait_due()
                resumes = harness.resumes
                await harness.proxy.play(line)
                if line.split()[0] not in SLOW:  # the next fault meets a stream again
                    await harness.wait_resumed(resumes + 1)
                await pace.done()

        opening = harness.open(
            f"converse-{kind}",
            client=lambda target, **options: RepeatingClient(target, repeated, **options),
            command_window=COMMAND_WINDOW,
            events=messages,
            commands=messages,
            burst=burst,
            pause=APP_PAUSE,
            deaf=DEAF,
        )
        started = time.monotonic()
        async with opening as talk, asyncio.TaskGroup() as group:
            faults = group.create_task(break_things())
            speaking = group.create_task(_speak(talk, pace, messages))
            await _listen(talk, pace, burst)
            async with asyncio.timeout(PATIENCE):  # the session has ended, so nothing can be left to do
                full = await speaking
                await faults
            seconds = time.monotonic() - started
        talk.check()
        assert len(talk.heard) == messages, len(talk.heard)
        assert len(talk.delivered) == messages, len(talk.delivered)
        resumes = harness.resumes
        failed = sum(change.state is AttachmentState.LOST for change in harness.attached) - resumes
        return Figures(kind, messages, harness.proxy.faults, resumes, failed, repeated, full, seconds)


def _lines(seed: int, cuts: int) -> list[str]:
    lines: list[str] = []
    for line in schedule(seed):
        if cuts == 0:
            break
        lines.append(line)
        cuts -= line.split()[0] not in SLOW
    return lines


async def _speak(talk: Talk, pace: _Pace, messages: int) -> int:
    full = 0
    for number in range(1, messages + 1):
        full += number - 1 - talk.session.taken_over >= EVENT_WINDOW
        await talk.say(f"event {number}")
        await pace.step()
    return full


async def _listen(talk: Talk, pace: _Pace, burst: int) -> None:
    try:
        while True:
            await talk.hear()
            await pace.step()
            if len(talk.heard) % burst == 0:
                await asyncio.sleep(CLIENT_PAUSE)
    except StopAsyncIteration:
        return


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.run")
    parser.add_argument("--messages", type=int, default=100_000, help="each way, for each kind of session")
    parser.add_argument("--cuts", type=int, default=1_000, help="for each kind of session")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of an earlier run, to repeat it")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder, "server.log"))
        try:
            for kind in KINDS:
                figures = await run(server, Path(folder), kind, args.messages, args.cuts, args.seed)
                print(figures, flush=True)  # noqa: T201
        finally:
            server.kill()


if __name__ == "__main__":
    asyncio.run(_main())
