"""Servers, each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from . import machine

__all__ = ["BENCH_PYTHON", "COROUTINES", "KINDS", "Server", "serve"]

ROOT = Path(__file__).parent.parent
BENCH_PYTHON = str(ROOT / ".venv-bench/bin/python")

# What people run: ours with its defaults, PyWebIO by its own `start_server`, websockets by hand. uvloop is an extra of
# ours that `serve` finds by itself; PyWebIO knows nothing of it, so it is shown both ways.
KINDS = {
    "ours": (sys.executable, "-m", "session_service", "serve", "bench.apps:apps", "--listen", "127.0.0.1:0"),
    "bare": (sys.executable, "-m", "bench.bare"),
    "websockets": (BENCH_PYTHON, "-m", "bench.websockets_apps"),
    "PyWebIO": (BENCH_PYTHON, "-m", "bench.pywebio_apps", "coroutine"),
    "PyWebIO on uvloop": (BENCH_PYTHON, "-m", "bench.pywebio_apps", "coroutine", "uvloop"),
    "PyWebIO threads": (BENCH_PYTHON, "-m", "bench.pywebio_apps", "thread"),
    "PyWebIO threads on uvloop": (BENCH_PYTHON, "-m", "bench.pywebio_apps", "thread", "uvloop"),
}

# What carries a session, or what one would be without.
COROUTINES = ("ours", "bare", "PyWebIO", "PyWebIO on uvloop", "websockets")

_LISTENS = re.compile(r"(?:listening on |=== Running on http://)([\d.]+:\d+)")

# Seconds until it listens.
PATIENCE = 30.0


class Server:
    """One that runs.

    Attributes:
        address: where it listens.
    """

    def __init__(self, pid: int, address: str) -> None:
        """Not called: `serve` makes it."""
        self.pid = pid
        self.address = address

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        return machine.cpu_time(self.pid)

    def rss(self) -> int:
        """Return the bytes of memory that it holds."""
        return machine.rss(self.pid)


@asynccontextmanager
async def serve(kind: str, *options: str) -> AsyncIterator[Server]:
    """Run one of `KINDS`, on the core of servers."""
    with tempfile.TemporaryFile() as log:
        process = _start((*KINDS[kind], *options), log)
        try:
            async with asyncio.timeout(PATIENCE):
                address = await asyncio.to_thread(_address, process)
            if address is None:
                log.seek(0)
                raise RuntimeError(f"{kind} has ended with {process.wait()}: {log.read()[-2000:].decode()}")
            yield Server(process.pid, address)
        finally:
            process.kill()
            process.communicate()


def _start(command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a process.

    Not by the loop: uvloop forks, and gRPC's handlers for that now and then crash what is to become the server.
    `subprocess` uses vfork, which calls no handlers.
    """
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_SERVICE_")}
    machine.pin(machine.SERVER_CORE)
    try:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    finally:
        machine.pin(machine.CLIENT_CORE)


def _address(process: subprocess.Popen[bytes]) -> str | None:
    """Return where it says that it listens, None where it has ended."""
    for line in process.stdout or ():
        if (match := _LISTENS.search(line.decode())) is not None:
            return match[1]
    return None
