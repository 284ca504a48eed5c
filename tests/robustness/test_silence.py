"""A peer that falls silent without a word: no FIN, no RST, nothing is answered any more.

Both sides notice within `keepalive` and `keepalive_timeout`, by themselves and each without the other: the server
detaches the session, the client comes back. And what is alive but has nothing to say stays connected.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from session_client import Attachment, AttachmentState, ClientSession, SessionClient

from session_service.config import Config
from session_service.examples import apps
from session_service.host import ManagedSession
from session_service.server import Server
from session_service.server.server import _options
from tests.cli.program import Program
from tests.protocol.peer import Service, connect

# Seconds that anything may take before its test fails: far above the 1.5 that the tests give to a silent peer, and far
# below the 75 that three missing heartbeats take by default, so that it is the keepalive that notices.
PATIENCE = 20.0

SOON = {"keepalive": 0.5, "keepalive_timeout": 1.0}
NEVER = {"keepalive": 600.0, "keepalive_timeout": 600.0}

# The relay cuts what carries nothing for so many seconds, as proxies do after a minute.
IDLE_LIMIT = 1.0


class Relay:
    """Forwards TCP connections, until it swallows what they carry, or cuts them for being idle.

    Attributes:
        address: where it listens.
        connections: how many there have been.
        chunks: how much it has forwarded, "up" and "down".
    """

    def __init__(self, target: str, idle_limit: float | None) -> None:
        self.address = ""
        self.connections = 0
        self.chunks: Counter[str] = Counter()
        self._target = target
        self._idle_limit = idle_limit
        self._swallowing: dict[int, tuple[str, ...]] = {}  # by connection
        self._loop = asyncio.get_running_loop()
        self._carried_at = self._loop.time()

    def swallow(self, *directions: str) -> None:
        """From now on the connections there are take in and never pass on; those to come are sound."""
        self._swallowing.update(dict.fromkeys(range(1, self.connections + 1), directions))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        self.connections += 1
        number = self.connections
        host, _, port = self._target.rpartition(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        ways = [
            self._loop.create_task(self._forward(number, "up", reader, up_writer)),
            self._loop.create_task(self._forward(number, "down", up_reader, writer)),
        ]
        try:
            await self._until_idle_or_over(ways)
        finally:
            for way in ways:
                way.cancel()
            writer.close()
            up_writer.close()

    async def _until_idle_or_over(self, ways: list[asyncio.Task[None]]) -> None:
        self._carried_at = self._loop.time()
        while (left := self._idle_left()) is None or left > 0:
            done, _ = await asyncio.wait(ways, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return

    def _idle_left(self) -> float | None:
        return None if self._idle_limit is None else self._carried_at + self._idle_limit - self._loop.time()

    async def _forward(
        self, number: int, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await reader.read(65536):
                if direction not in self._swallowing.get(number, ()):
                    self.chunks[direction] += 1
                    self._carried_at = self._loop.time()
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            pass


@asynccontextmanager
async def relayed(target: str, idle_limit: float | None = None) -> AsyncIterator[Relay]:
    """Relay to an address, on one of its own."""
    relay = Relay(target, idle_limit)
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await relay.serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    relay.address = "{}:{}".format(*listener.sockets[0].getsockname())
    try:
        yield relay
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what nothing announces."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nothing sets an Event here
            await asyncio.sleep(0.01)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


class Scene:
    """A server in this process, a relay before it, and what is told of the attachments of clients.

    Attributes:
        server: the server.
        relay: the way to it.
        changes: what clients were told.
    """

    def __init__(self, stack: AsyncExitStack, server: Server, relay: Relay) -> None:
        self._stack = stack
        self.server = server
        self.relay = relay
        self.changes: list[AttachmentState] = []

    @property
    def managed(self) -> ManagedSession:
        """The only session."""
        [managed] = self.server.manager
        return managed

    async def client(self, **options: Any) -> ClientSession:
        """Open a session of echo through the relay."""

        def note(change: Attachment) -> None:
            self.changes.append(change.state)

        client = await self._stack.enter_async_context(SessionClient(self.relay.address, on_attachment=note, **options))
        return await self._stack.enter_async_context(client.open("echo"))


async def scene(stack: AsyncExitStack, idle_limit: float | None = None, **settings: Any) -> Scene:
    """Serve the examples."""
    server = Server(apps, Config(listen="127.0.0.1:0", **settings))
    stack.push_async_callback(server.drain, 0)
    relay = await stack.enter_async_context(relayed(await server.start(), idle_limit))
    return Scene(stack, server, relay)


async def echoed(session: ClientSession, data: object) -> None:
    async with asyncio.timeout(PATIENCE):
        await session.send_event("say", data)
        assert (await anext(session)).spec == data


# --- a black hole ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [("up", "down"), ("up",), ("down",)], ids="-".join)
async def test_a_session_outlives_a_connection_that_swallows_everything(
    stack: AsyncExitStack, directions: tuple[str, ...]
) -> None:
    it = await scene(stack, **SOON)
    session = await it.client(**SOON)
    await echoed(session, "before")
    it.relay.swallow(*directions)
    await echoed(session, "swallowed, or its echo is")
    await echoed(session, "after")
    assert it.changes == [AttachmentState.ATTACHED, AttachmentState.LOST, AttachmentState.RESUMED]
    assert it.managed.inbox.taken == 3


async def test_a_server_notices_a_client_that_is_silent_and_detaches_its_session(stack: AsyncExitStack) -> None:
    it = await scene(stack, **SOON)
    channel = await stack.enter_async_context(connect(it.relay.address))
    peer = await Service(it.server, channel).open("echo", resumable=True)
    managed = it.managed
    assert managed.stream is not None
    it.relay.swallow("up", "down")
    await until(lambda: managed.stream is None)
    assert not managed.session.closed()  # to detach is not to close (A1)
    peer.cancel()


async def test_a_server_closes_the_plain_session_of_a_client_that_is_silent(stack: AsyncExitStack) -> None:
    it = await scene(stack, **SOON)
    channel = await stack.enter_async_context(connect(it.relay.address))
    peer = await Service(it.server, channel).open("echo")
    it.relay.swallow("up", "down")
    await until(lambda: len(it.server.manager) == 0)
    peer.cancel()


async def test_a_client_notices_a_server_that_is_silent_and_comes_back(stack: AsyncExitStack) -> None:
    it = await scene(stack, keepalive=SOON["keepalive"], keepalive_timeout=NEVER["keepalive_timeout"])
    session = await it.client(**SOON)
    await echoed(session, "before")
    it.relay.chunks.clear()
    await until(lambda: min(it.relay.chunks["up"], it.relay.chunks["down"]) >= 6)  # what there was to say has been said
    it.relay.swallow("up", "down")
    await until(lambda: it.changes == [AttachmentState.ATTACHED, AttachmentState.LOST, AttachmentState.RESUMED])
    assert it.managed.generation == 2  # it took over from the stream that the server still believed in
    await echoed(session, "after")


# --- a peer that is stopped -------------------------------------------------------------------------------------------

CLIENT = """
import asyncio
import sys
from session_client import SessionClient

async def main():
    async with SessionClient(sys.argv[1], keepalive=1, keepalive_timeout=1) as client:
        async with client.open("echo") as session:
            print("open", flush=True)
            async for command in session:
                print(command.spec, flush=True)

asyncio.run(main())
"""


async def test_a_server_detaches_the_session_of_a_process_that_is_stopped_and_has_it_back_later(
    stack: AsyncExitStack,
) -> None:
    it = await scene(stack, **SOON)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, it.relay.address, stdout=asyncio.subprocess.PIPE
    )
    stack.push_async_callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await process.stdout.readline() == b"open\n"
    managed = it.managed
    process.send_signal(signal.SIGSTOP)
    await until(lambda: managed.stream is None)
    managed.session.send_task_command({"command": "echo", "spec": "welcome back"})
    process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(PATIENCE):
        assert await process.stdout.readline() == b"welcome back\n"
    assert managed.generation == 2


async def test_a_client_of_a_server_that_is_stopped_comes_back_when_it_runs_again(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    served = await Program(tmp_path, stack).serve("session_service.examples:apps")
    changes: list[AttachmentState] = []
    client = await stack.enter_async_context(
        SessionClient(
            served.address,
            keepalive=SOON["keepalive"],
            keepalive_timeout=SOON["keepalive_timeout"],
            on_attachment=lambda change: changes.append(change.state),
        )
    )
    session = await stack.enter_async_context(client.open("echo"))
    served.signal(signal.SIGSTOP)
    await session.send_event("say", "are you there?")
    await until(lambda: AttachmentState.LOST in changes)
    served.signal(signal.SIGCONT)
    async with asyncio.timeout(PATIENCE):
        assert (await anext(session)).spec == "are you there?"
    assert AttachmentState.RESUMED in changes


# --- idle, but alive --------------------------------------------------------------------------------------------------


async def test_heartbeats_keep_an_idle_stream_alive_through_a_proxy_that_cuts_idle_connections(
    stack: AsyncExitStack,
) -> None:
    it = await scene(stack, IDLE_LIMIT, heartbeat_interval=0.3, **NEVER)
    session = await it.client(**NEVER)
    it.relay.chunks.clear()
    await until(lambda: min(it.relay.chunks["up"], it.relay.chunks["down"]) >= 7)  # two limits' worth
    await echoed(session, "still here")
    assert it.changes == [AttachmentState.ATTACHED]


async def test_without_heartbeats_such_a_proxy_cuts_and_the_client_comes_back(stack: AsyncExitStack) -> None:
    it = await scene(stack, IDLE_LIMIT, **NEVER)
    session = await it.client(**NEVER)
    await until(lambda: it.changes[-2:] == [AttachmentState.LOST, AttachmentState.RESUMED])
    await echoed(session, "here again")


async def test_a_client_may_ask_as_often_as_the_server_does(stack: AsyncExitStack) -> None:
    """A server takes pings that come more often than it permits for abuse, and ends the connection, again and again."""
    it = await scene(stack, **SOON)
    await it.client(**SOON)
    it.relay.chunks.clear()
    # A ping and the answer to the other side's, each way: more than twice what a server puts up with.
    await until(lambda: min(it.relay.chunks["up"], it.relay.chunks["down"]) >= 8)
    assert it.changes == [AttachmentState.ATTACHED]


def test_by_default_a_client_asks_less_often_than_a_server_permits() -> None:
    asked = inspect.signature(SessionClient).parameters["keepalive"].default
    permitted = dict(_options(Config()))["grpc.http2.min_ping_interval_without_data_ms"]
    assert asked * 1000 >= permitted
