"""The command line as a user meets it: a process of its own, in a folder of its own, with a raw client.

The shape, as tests use it::

    async def test_...(program: Program) -> None:
        program.write("async def app(): ...")               # apps.py, in the folder where the program runs
        served = await program.serve("apps:app")            # on port 0; has said where it listens
        peer = await served.open("app")                     # as in tests/protocol/peer.py
        served.signal()                                     # SIGTERM
        assert await served.exit_code() == 0
        assert "..." in served.log()                        # stderr
        ended = await program.run("serve", "apps:nope")     # one that ends by itself: code, stdout, stderr
        ended = await program.run("attach", served.address, "app", stdin=b"...")    # through a pipe; or an open file
        person = await program.at_terminal("attach", served.address, "app")         # on a pty; see Person

Every wait is bounded, and every process is killed when the test ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import AsyncExitStack
from pathlib import Path
from textwrap import dedent
from typing import IO, NamedTuple

from grpc_health.v1 import health_pb2

from session_service.v1 import session_pb2_grpc

from ..protocol.peer import Service, connect
from .person import ON_TERMINAL, PATIENCE, Person

__all__ = ["CONSOLE_SCRIPT", "MODULE", "PATIENCE", "Ended", "Program", "Served"]

MODULE = (sys.executable, "-m", "session_service")
CONSOLE_SCRIPT = (str(Path(sys.executable).with_name("session-service")),)


class Ended(NamedTuple):
    """A process that has ended."""

    code: int
    stdout: str
    stderr: str


class Served(Service):
    """A server in a process of its own, and a channel to it.

    Attributes:
        address: where it says that it listens.
        process: what runs.
        stdout: what it prints.
    """

    def __init__(self, process: asyncio.subprocess.Process, stdout: asyncio.StreamReader, log: Path) -> None:
        """Not called: `Program.serve` makes it."""
        self.process = process
        self.stdout = stdout
        self._log = log

    async def wait_listening(self) -> None:
        """Wait for the line on stdout, and connect."""
        async with asyncio.timeout(PATIENCE):
            line = (await self.stdout.readline()).decode()
        assert line.startswith("listening on "), line + self.log()
        self.address = line.removeprefix("listening on ").rstrip("\n")
        self.channel = connect(self.address)
        self.stub = session_pb2_grpc.SessionServiceStub(self.channel)

    async def health(self, service: str = "") -> str:
        """Ask how a service is."""
        check = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        response = await check(health_pb2.HealthCheckRequest(service=service))
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        """Wait for the end; there is nothing on stdout but where it listens."""
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            assert await self.stdout.read() == b""
        return code

    def log(self) -> str:
        """Return what stderr holds by now."""
        return self._log.read_text()


class Program:
    """The command line, in a folder of its own.

    Attributes:
        folder: the current folder of what runs.
        command: how it is called.
    """

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.command: tuple[str, ...] = MODULE
        self._stack = stack

    def write(self, source: str, name: str = "apps.py") -> None:
        """Write a module."""
        (self.folder / name).write_text(dedent(source))

    async def serve(self, *args: str, **environment: str) -> Served:
        """Start ``serve``, on port 0 unless told otherwise, and wait until it listens."""
        environment.setdefault("SESSION_SERVICE_LISTEN", "127.0.0.1:0")
        log = self.folder / "stderr.log"
        with log.open("wb") as stderr:
            process = await self._start(("serve", *args), environment, stderr.fileno())
        assert process.stdout is not None
        served = Served(process, process.stdout, log)
        await served.wait_listening()
        self._stack.push_async_callback(served.channel.close)
        return served

    async def run(self, *args: str, stdin: bytes | IO[bytes] = b"", **environment: str) -> Ended:
        """Run the program until it ends by itself; stdin is what a pipe holds, or a file."""
        process = await self._start(args, environment, PIPE, PIPE if isinstance(stdin, bytes) else stdin)
        async with asyncio.timeout(PATIENCE):
            stdout, stderr = await process.communicate(stdin if isinstance(stdin, bytes) else None)
        assert process.returncode is not None
        return Ended(process.returncode, stdout.decode(), stderr.decode())

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        """Start the program, with pipes on all sides."""
        return await self._start(args, {}, PIPE, PIPE)

    async def at_terminal(self, *args: str, within: tuple[str, ...] = ()) -> Person:
        """Start the program on a terminal of its own; ``within`` is a command that runs it."""
        person = Person()
        self._stack.callback(person.leave)
        process = await self._start(
            args, {}, person.tty, person.tty, person.tty, (*ON_TERMINAL, *within, *self.command)
        )
        person.sit_down(process)
        return person

    async def _start(
        self,
        args: tuple[str, ...],
        environment: dict[str, str],
        stderr: int,
        stdin: int | IO[bytes] = DEVNULL,
        stdout: int = PIPE,
        command: tuple[str, ...] = (),
    ) -> asyncio.subprocess.Process:
        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith(("SESSION_SERVICE_", "GRPC_"))
        }
        process = await asyncio.create_subprocess_exec(
            *(command or self.command),
            *args,
            cwd=self.folder,
            env={**inherited, **environment},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=bool(command),
        )
        self._stack.push_async_callback(_kill, process)
        return process


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()
