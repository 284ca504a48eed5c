"""The process of a client under test."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from .v1.conformance_pb2 import Instruction, Observation

__all__ = ["Driver", "DriverFailure"]

# Seconds that a driver has to end when its stdin does.
FAREWELL = 5.0

# More than any observation is: what claims to be longer is no length.
LONGEST = 64 * 1024 * 1024


class DriverFailure(Exception):
    """The driver does not do what protos/session_service/conformance/v1/conformance.proto says."""


class Driver:
    """A driver that runs."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        """Not called: `start` makes it."""
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, command: Sequence[str]) -> Driver:
        """Start a driver.

        Raises:
            DriverFailure: there is no such program.
        """
        handle, name = tempfile.mkstemp(prefix="driver-", suffix=".log")
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=handle, start_new_session=True
            )
        except OSError as error:
            os.unlink(name)
            raise DriverFailure(f"the driver cannot be started: {error}") from error
        finally:
            os.close(handle)
        return cls(process, Path(name))

    async def tell(self, instruction: Instruction) -> None:
        """Write an instruction.

        Raises:
            DriverFailure: the driver is gone.
        """
        assert self._process.stdin is not None
        data = instruction.SerializeToString()
        try:
            self._process.stdin.write(len(data).to_bytes(4) + data)
            await self._process.stdin.drain()
        except ConnectionError:
            raise DriverFailure(await self._obituary()) from None

    async def observation(self) -> Observation:
        """Read the next observation.

        Raises:
            DriverFailure: there is none.
        """
        assert self._process.stdout is not None
        try:
            head = await self._process.stdout.readexactly(4)
            length = int.from_bytes(head)
            if length > LONGEST:
                raise DriverFailure(f"the driver wrote {head!r} where a length is due: does it print to stdout?")
            return Observation.FromString(await self._process.stdout.readexactly(length))
        except asyncio.IncompleteReadError:
            raise DriverFailure(await self._obituary()) from None
        except DecodeError as error:
            raise DriverFailure(f"the driver wrote something that is no observation: {error}") from None

    async def stop(self) -> None:
        """Let it end, as it must when its stdin does.

        Raises:
            DriverFailure: it does not, or not well.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(FAREWELL):
                code = await self._process.wait()
        except TimeoutError:
            raise DriverFailure(f"the driver did not end within {FAREWELL:g} s after its stdin had") from None
        if code:
            raise DriverFailure(f"the driver ended with {_code(code)}")

    async def kill(self) -> None:
        """End it at once, and whatever it has started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended
        await self._process.communicate()

    def log(self) -> str:
        """Return what it has written to stderr, the end of it, and forget it."""
        try:
            text = self._log.read_text(errors="replace")
            self._log.unlink()
        except FileNotFoundError:
            return ""
        return text[-3000:].strip()

    async def _obituary(self) -> str:
        try:
            async with asyncio.timeout(FAREWELL):
                code = await self._process.wait()
        except TimeoutError:
            return "the driver has closed its stdout, and runs on"
        return f"the driver ended with {_code(code)} in the middle of the case"


def _code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
