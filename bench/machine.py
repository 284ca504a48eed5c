"""The machine: cores to pin to, the CPU time and memory of other processes, and what it all is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

__all__ = ["CLIENT_CORE", "SERVER_CORE", "context_switches", "cpu_time", "describe", "pin", "rss"]

_cores = sorted(os.sched_getaffinity(0))

# On a machine of one core there is nothing to pin to; both are then left where they are.
SERVER_CORE: int | None = _cores[0] if len(_cores) > 1 else None
CLIENT_CORE: int | None = _cores[1] if len(_cores) > 1 else None

# Of linux/posix-timers.h: the clock of a process that counts what the scheduler counted.
_CPUCLOCK_SCHED = 2

_PACKAGES = ("session-service", "grpcio", "protobuf", "orjson", "uvloop")
_OTHER_PACKAGES = ("pywebio", "aiohttp", "websockets")


def pin(core: int | None) -> None:
    """Keep the calling thread, and what it starts from now on, on one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def cpu_time(pid: int) -> float:
    """Return the seconds of CPU that a process has used, in user and kernel, exact to the nanosecond.

    It is the counter that ``/proc/PID/task/*/schedstat`` shows thread by thread. The sum over those files loses what
    threads had used that have ended since: in thread sessions and in gRPC's own pool, most of it.
    """
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def rss(pid: int) -> int:
    """Return the bytes of memory that a process holds."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def context_switches(pid: int) -> int:
    """Return how often the threads of a process have gone to sleep."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def describe(bench_python: str) -> dict[str, object]:
    """Return what the figures were taken on.

    Args:
        bench_python: the interpreter of the environment that PyWebIO and websockets are in.
    """
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    asked = "import importlib.metadata, sys; print(*map(importlib.metadata.version, sys.argv[1:]))"
    others = subprocess.run(
        [bench_python, "-c", asked, *_OTHER_PACKAGES], check=True, capture_output=True, text=True
    ).stdout.split()
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    describe = ["git", "describe", "--always", "--dirty"]
    return {
        "commit": subprocess.run(describe, check=False, capture_output=True, text=True).stdout.strip(),
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "pinned": {"server": SERVER_CORE, "client": CLIENT_CORE},
        "load": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {**versions, **dict(zip(_OTHER_PACKAGES, others, strict=True))},
        "environment": {name: os.environ[name] for name in ("GRPC_EXPERIMENTS", "GRPC_TRACE") if name in os.environ},
    }
