"""Our own server, in processes of its own."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from types import TracebackType

__all__ = ["Servers"]

# Seconds that a server has to start.
PATIENCE = 30.0


class Servers:
    """Starts ``session-service serve`` for each kind of apps that a case asks for, once; stops all at the end."""

    def __init__(self) -> None:
        self._processes: list[asyncio.subprocess.Process] = []
        self._addresses: dict[str, asyncio.Task[str]] = {}

    async def __aenter__(self) -> Servers:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._addresses.values():
            task.cancel()
        await asyncio.gather(*self._addresses.values(), return_exceptions=True)
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def address(self, apps: str) -> str:
        """Return where ``apps``, ``module:name``, are served.

        Raises:
            RuntimeError: they are not.
        """
        if apps not in self._addresses:
            self._addresses[apps] = asyncio.create_task(self._start(apps))
        return await asyncio.shield(self._addresses[apps])

    async def _start(self, apps: str) -> str:
        command = (sys.executable, "-m", "session_service", "serve", "--listen", "127.0.0.1:0", apps)
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
        self._processes.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await process.stdout.readline()).decode()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the server of {apps} does not start: {' '.join(command)}")
        return line.removeprefix("listening on ").strip()
