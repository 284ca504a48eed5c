"""A real server in a process of its own, a proxy that breaks, and the real client; both sides recorded, and checked.

The shape, as tests use it::

    async with Harness(server, tmp_path) as harness:        # server: a ServerProcess; the proxy is harness.proxy
        async with harness.open("echo-thread") as talk:     # a session, over the proxy
            At(harness.proxy, {"event 1"}, passed=False, act=harness.proxy.cut)    # once, before it has passed
            await talk.say("hello")
            assert await talk.hear() == "hello"
        talk.check()                                        # both sides' records fulfil all guarantees, to the end
        assert talk.delivered == ["hello"]                  # what the app was delivered

Every wait is bounded by `PATIENCE`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from session_client import Attachment, AttachmentState, ClientSession, Position, RetryPolicy, SessionClient

from session_service import Window
from session_service.v1 import session_pb2 as pb

from .frames import Direction
from .history import Attach, Close, Closed, Deliver, Detach, Record, Restart, Send, check
from .proxy import Proxy
from .recorder import Recorder, merge

__all__ = ["PATIENCE", "ROOT", "At", "Harness", "ServerProcess", "Talk", "labels"]

ROOT = Path(__file__).parents[2]

# Seconds that anything may take before its test fails: far more than anything does take.
PATIENCE = 20.0

# Comes back at once: how long a client waits is not what is tested here.
AT_ONCE = RetryPolicy(initial=0.005, maximum=0.05)


class ServerProcess:
    """``session-service serve`` with the apps of these tests.

    Attributes:
        address: where it listens.
        process: what runs.
    """

    def __init__(self, log: Path, *options: str, root: Path = ROOT) -> None:
        """Start it, and wait until it listens.

        Args:
            log: where its stderr goes.
            options: of the command line.
            root: the folder whose package it runs.
        """
        self._log = log
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_SERVICE_")}
        command = ("-m", "session_service", "serve", "--listen", "127.0.0.1:0", *options, "tests.robustness.apps:apps")
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                (sys.executable, *command), cwd=root, env=inherited, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line + self.log()
        self.address = line.removeprefix("listening on ").strip()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    async def exit_code(self) -> int:
        """Wait for the end."""
        return await asyncio.to_thread(self.process.wait, PATIENCE + 20)

    def log(self) -> str:
        """Return what it has written to stderr."""
        return self._log.read_text()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.communicate()


class Talk:
    """A session as its client sees it, recorded.

    Attributes:
        session: the client's.
        recorder: what the client did.
        heard: the commands that its application has had.
        record: the file that the app's records will be in.
        left: the session goes on without a client.
    """

    def __init__(self, recorder: Recorder, record: Path) -> None:
        self.session: ClientSession
        self.recorder = recorder
        self.record = record
        self.heard: list[Any] = []
        self.left = False
        self._said = 0

    async def say(self, value: Any) -> None:
        """Send an event."""
        at = self.recorder.now()
        async with asyncio.timeout(PATIENCE):
            await self.session.send_event("say", value)
        self._said += 1
        self.recorder.add(Send("client", self._said, value), at)

    async def hear(self) -> Any:
        """Return the next command's value; fail where the session has ended instead."""
        async with asyncio.timeout(PATIENCE):
            command = await anext(self.session)
        self.heard.append(command.spec)
        self.recorder.add(Deliver("client", len(self.heard), command.spec))
        return command.spec

    async def hear_all(self) -> None:
        """Take commands until the session has ended."""
        try:
            while True:
                await self.hear()
        except StopAsyncIteration:
            return

    async def close(self) -> None:
        """Close it, and take what there still is."""
        self.recorder.add(Close())
        async with asyncio.timeout(PATIENCE):
            await self.session.close()
        await self.hear_all()

    async def finish(self) -> None:
        """Close it, unless it is closed or left, and take what there is."""
        if self.left:
            return
        if self.session.closed is None:
            await self.close()
        else:
            await self.hear_all()
        self.recorder.add(Closed("client", len(self.heard) + 1))

    async def detach(self) -> Position:
        """Leave it running."""
        self.left = True
        self.recorder.add(Detach("client"))
        async with asyncio.timeout(PATIENCE):
            return await self.session.detach()

    def restarted(self, received: int, sent: int) -> None:
        """Record that a client goes on after these."""
        self.left = False
        del self.heard[received:]
        self._said = sent
        self.recorder.add(Restart(received, sent))

    @property
    def delivered(self) -> list[Any]:
        """What the app was delivered; known when its deferred calls have run."""
        return [record.value for _, record in Recorder.load(self.record).records if isinstance(record, Deliver)]

    def history(self) -> list[Record]:
        """Return both sides' records; the session has ended."""
        return merge(self.recorder, Recorder.load(self.record))

    def check(self) -> None:
        """Check that all guarantees held, to the end.

        Raises:
            Broken: one did not.
        """
        check(self.history(), complete=True)


class Harness:
    """A proxy before a server, and clients of it.

    Attributes:
        proxy: what lies between.
        attached: what the clients were told of their streams, in order.
    """

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.proxy = Proxy(server.address)
        self.proxy.on_messages = lambda direction, messages, passed: None  # that connections are watched, for `At`
        self.attached: list[Attachment] = []
        self._server = server
        self._folder = folder
        self._change = asyncio.Event()

    async def __aenter__(self) -> Harness:
        await self.proxy.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.proxy.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def client(
        self,
        recorder: Recorder | None = None,
        client: Callable[..., SessionClient] = SessionClient,
        **options: Any,
    ) -> AsyncIterator[SessionClient]:
        """Connect a client over the proxy."""
        numbers = 0
        live = False

        def on_attachment(change: Attachment) -> None:
            nonlocal numbers, live
            self.attached.append(change)
            self._change.set()
            if change.state is AttachmentState.LOST:
                if live and recorder is not None:
                    recorder.add(Detach("client"))
                live = False
            else:
                numbers, live = numbers + 1, True
                if recorder is not None:
                    recorder.add(Attach("client", numbers))

        options = {"retry": AT_ONCE, **options}
        async with client(self.proxy.address, on_attachment=on_attachment, **options) as connected:
            yield connected

    def new_talk(self) -> Talk:
        """Return one that is yet to begin."""
        return Talk(Recorder(), self._folder / f"{uuid.uuid4()}.record")

    @asynccontextmanager
    async def open(
        self,
        app: str,
        *,
        client: Callable[..., SessionClient] = SessionClient,
        command_window: Window | None = None,
        **params: Any,
    ) -> AsyncIterator[Talk]:
        """Open a session over the proxy; at the end it is closed, if it is still there, and all is heard."""
        talk = self.new_talk()
        async with self.client(talk.recorder, client, command_window=command_window) as connected:
            session = connected.open(app, params={"record": str(talk.record), **params})
            async with asyncio.timeout(PATIENCE):
                await session.__aenter__()
            talk.session = session
            try:
                yield talk
                await talk.finish()
            except BaseException as error:
                await session.__aexit__(type(error), error, error.__traceback__)
                if talk.record.exists():
                    check(talk.history())  # says more than, for example, that nothing came any more
                raise
            await session.__aexit__(None, None, None)

    @property
    def resumes(self) -> int:
        """How often clients have come back."""
        return sum(change.state is AttachmentState.RESUMED for change in self.attached)

    async def wait_resumed(self, count: int) -> None:
        """Wait until clients have come back so often."""
        async with asyncio.timeout(PATIENCE):
            while self.resumes < count:
                self._change.clear()
                await self._change.wait()

    @asynccontextmanager
    async def resume(self, talk: Talk, position: Position, **options: Any) -> AsyncIterator[Talk]:
        """Go on from a position as another process does; at the end the session is closed, and all is heard."""
        async with self.client(None, **options) as client:
            talk.session = client.resume(position)
            async with asyncio.timeout(PATIENCE), talk.session:
                talk.restarted(position.received, talk.session.taken_over)
                yield talk
                await talk.finish()

    async def wait_for(self, mark: str) -> None:
        """Wait until a session on the server has reached the mark, whatever the proxy does."""
        async with (
            asyncio.timeout(PATIENCE),
            SessionClient(self._server.address) as client,
            client.open("wait_for", params={"mark": mark}, resumable=False) as session,
        ):
            async for _ in session:
                pass


class At:
    """Does something, once, at each of the ``points``, as `labels` names them, before or after it has passed.

    Attributes:
        left: the points that have not come by.
        times: how often it was done.
    """

    def __init__(self, proxy: Proxy, points: Set[str], passed: bool, act: Callable[[], object]) -> None:
        """``act`` breaks something, or nothing, where the point is only to be waited for."""
        self.left = set(points)
        self.times = 0
        self._passed = passed
        self._act = act
        self._all = asyncio.Event()
        self._others = proxy.on_messages
        proxy.on_messages = self._on_messages

    async def wait(self) -> None:
        """Wait until all points have come by."""
        async with asyncio.timeout(PATIENCE):
            await self._all.wait()

    def _on_messages(self, direction: Direction, messages: list[bytes], passed: bool) -> None:
        if self._others is not None:
            self._others(direction, messages, passed)
        if passed == self._passed and (hit := self.left.intersection(labels(direction, messages))):
            self.left -= hit
            self.times += 1
            self._act()
            if not self.left:
                self._all.set()


def labels(direction: Direction, messages: list[bytes]) -> list[str]:
    """Name what is in messages: the control part, ``event N`` and ``command N``, ``ack up N`` and ``ack down N``."""
    found: list[str] = []
    for data in messages:
        message: pb.AttachRequest | pb.AttachResponse
        if direction == "up":
            message = pb.AttachRequest.FromString(data)
            kind, count = "event", len(message.events)
        else:
            message = pb.AttachResponse.FromString(data)
            kind, count = "command", len(message.commands)
        if control := message.WhichOneof("control"):
            found.append(control)
        found += [f"{kind} {message.first_sequence + index}" for index in range(count)]
        if message.ack:
            found.append(f"ack {direction} {message.ack}")
    return found
