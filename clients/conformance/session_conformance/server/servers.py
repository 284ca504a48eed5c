"""The servers under test: one that runs already, or those that the kit starts as its cases need them."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

__all__ = ["ALONE", "NEEDS", "OURS", "Running", "Served", "Servers", "Started", "Unavailable"]

OURS = f"{shlex.quote(sys.executable)} -m session_conformance.server.serve"

# What cases may need, and the settings of a server that the kit starts for them.
NEEDS: Mapping[str, Mapping[str, Any]] = {
    "short_heartbeat": {"heartbeat_interval": 0.4},
    "authentication": {"authenticate": True},
    "session_limit": {"max_sessions": 1},
    "draining": {"shutdown_grace": 3.0},
}

# Servers that no other case may use.
ALONE = {"session_limit", "draining"}

_START_TIME = 20.0


class Unavailable(Exception):
    """There is no such server: the case is not applicable."""


class Served:
    """A server under test.

    Attributes:
        address: where it listens.
    """

    def __init__(self, address: str, process: asyncio.subprocess.Process | None = None) -> None:
        self.address = address
        self._process = process

    def terminate(self) -> None:
        """Send it SIGTERM."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    async def wait(self) -> int:
        """Wait until it exits."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self) -> None:
        """End it."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.communicate()


class Servers(Protocol):
    """Gives each case a server."""

    async def get(self, needs: tuple[str, ...]) -> Served:
        """Return a server that has what is needed; raise `Unavailable`."""

    async def release(self, served: Served) -> None:
        """Take a server back."""

    async def stop(self) -> None:
        """End whatever was started."""


class Running:
    """A server that somebody else has started."""

    def __init__(self, address: str, has: frozenset[str]) -> None:
        self._served = Served(address)
        self._has = has

    async def get(self, needs: tuple[str, ...]) -> Served:
        """Return it."""
        for need in needs:
            if need in ALONE:
                raise Unavailable(f"needs {need}: a server of its own (--serve)")
            if need not in self._has:
                raise Unavailable(f"needs {need} (--has {need})")
        return self._served

    async def release(self, served: Served) -> None:
        """Leave it."""

    async def stop(self) -> None:
        """Leave it."""


class Started:
    """Servers of a command, which gets their settings as JSON and says ``listening on HOST:PORT``.

    The command finds the kit on its PYTHONPATH.
    """

    def __init__(self, command: str = OURS) -> None:
        self._command = shlex.split(command)
        self._shared: dict[tuple[str, ...], asyncio.Task[Served]] = {}
        self._alone: list[Served] = []

    async def get(self, needs: tuple[str, ...]) -> Served:
        """Return a server with such settings; cases share one where they can."""
        if ALONE & set(needs):
            served = await self._start(needs)
            self._alone.append(served)
            return served
        if needs not in self._shared:
            self._shared[needs] = asyncio.create_task(self._start(needs))
        return await asyncio.shield(self._shared[needs])  # a case that ends early does not end the start for others

    async def release(self, served: Served) -> None:
        """End it, if it was for one case."""
        if served in self._alone:
            self._alone.remove(served)
            await served.stop()

    async def stop(self) -> None:
        """End them all."""
        for starting in self._shared.values():
            await asyncio.wait([starting])
            if starting.exception() is None:
                await starting.result().stop()
        for served in self._alone:
            await served.stop()

    async def _start(self, needs: tuple[str, ...]) -> Served:
        settings = {name: value for need in needs for name, value in NEEDS[need].items()}
        kit = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (kit, os.environ.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            *self._command, json.dumps(settings), stdout=PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        assert process.stdout is not None
        served = Served("", process)
        try:
            async with asyncio.timeout(_START_TIME):
                line = (await process.stdout.readline()).decode()
            if not line.startswith("listening on "):
                raise OSError(f"{shlex.join(self._command)} does not say where it listens: {line!r}")
        except BaseException:
            await served.stop()
            raise
        served.address = line.removeprefix("listening on ").strip()
        return served
