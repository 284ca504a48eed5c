"""nginx and HAProxy, as processes of their own, with the configurations of deploy/proxies.

What a machine has no room for is replaced: ports, certificates, files, and times that no test can wait for. Each
replacement has to find what it replaces.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from abc import ABC, abstractmethod
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.protocol.peer import PATIENCE
from tests.server.authority import Identity

__all__ = ["PROXIES", "HAProxy", "Nginx", "Proxy"]

CONFIGURATIONS = Path(__file__).parents[2] / "deploy" / "proxies"

# Where Debian has them, which is not on everybody's path.
PATH = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))


class Proxy(ABC):
    """A proxy that runs.

    Attributes:
        address: where it listens.
        default_streams: how many streams of a connection it lets through by default.
    """

    name: str
    default_streams: int
    silence: ClassVar[Mapping[str, str]]
    """The lines that say how long it stands silence, and what they are where a test is to outlast it."""

    def __init__(self, folder: Path, target: str, identity: Identity) -> None:
        self._folder, self._target = folder, target
        identity.write(folder)
        (folder / "both.pem").write_bytes(identity.cert + identity.key)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    def find(cls) -> str | None:
        """Return the program; None where there is none."""
        return shutil.which(cls.name, path=PATH)

    async def start(self, changes: Mapping[str, str]) -> None:
        """Run it, and wait until it listens; ``changes`` are made to its configuration, beside the usual ones."""
        [original] = CONFIGURATIONS.glob(f"{self.name}.c*")
        text = original.read_text()
        for old, new in {**self._changes(), **changes}.items():
            assert old in text, f"{original.name} has no {old!r}"
            text = text.replace(old, new)
        config = self._folder / original.name
        config.write_text(text)
        program = self.find()
        assert program is not None
        log = self._folder / "stderr"
        with log.open("wb") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                program, *self._arguments(config), stdin=DEVNULL, stderr=stderr, cwd=self._folder
            )
        host, port = self.address.split(":")
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, port)
                except OSError:
                    assert self._process.returncode is None, log.read_text()
                    await asyncio.sleep(0.01)  # nothing tells when it listens
                else:
                    writer.close()
                    return

    @abstractmethod
    async def reload(self) -> None:
        """Have it begin anew."""

    async def stop(self) -> None:
        """End it, with all its workers."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    @abstractmethod
    def _changes(self) -> Mapping[str, str]:
        """Return what is another in a test."""

    @abstractmethod
    def _arguments(self, config: Path) -> tuple[str, ...]:
        """Return the command line."""


class Nginx(Proxy):
    """nginx."""

    name = "nginx"
    default_streams = 128
    silence: ClassVar = {
        "client_body_timeout 1h": "client_body_timeout 2s",
        "grpc_read_timeout 2m": "grpc_read_timeout 2s",
    }

    async def reload(self) -> None:
        """Do what ``nginx -s reload`` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def _changes(self) -> Mapping[str, str]:
        return {
            "listen 443 ssl": f"listen {self.address} ssl",
            "127.0.0.1:50051": self._target,
            "/etc/nginx/tls/": f"{self._folder}/",
            "/run/nginx.pid": f"{self._folder}/nginx.pid",
            "/var/log/nginx/": f"{self._folder}/",
            "worker_rlimit_nofile 65536": "worker_rlimit_nofile 4096",
            "worker_connections 32768": "worker_connections 2048",
            "worker_processes auto": "worker_processes 2",
            "worker_shutdown_timeout 30s": "worker_shutdown_timeout 1s",
            "http {": "http {\n" + "".join(f"{kind}_temp_path {self._folder}/{kind};\n" for kind in TEMPORARY),
        }

    def _arguments(self, config: Path) -> tuple[str, ...]:
        return "-c", str(config), "-e", str(self._folder / "early.log"), "-g", "daemon off;"


TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class HAProxy(Proxy):
    """HAProxy."""

    name = "haproxy"
    default_streams = 100
    silence: ClassVar = {"timeout client 2m": "timeout client 2s", "timeout server 2m": "timeout server 2s"}

    async def reload(self) -> None:
        """Do what ``systemctl reload haproxy`` does; but while the master is starting, the signal would be lost."""
        assert self._process is not None
        async with asyncio.timeout(PATIENCE):
            while not await self._master_answers():  # noqa: ASYNC110 - nothing sets an Event here
                await asyncio.sleep(0.01)
        self._process.send_signal(signal.SIGUSR2)

    async def _master_answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self._folder / "master")
        except OSError:
            return False
        try:
            writer.write(b"show version\n")
            return bool(await reader.readline())
        except ConnectionError:
            return False
        finally:
            writer.close()

    def _changes(self) -> Mapping[str, str]:
        return {
            "bind :443": f"bind {self.address}",
            "127.0.0.1:50051": self._target,
            "/etc/haproxy/tls/cert-and-key.pem": str(self._folder / "both.pem"),
            "global\n": "global\n    maxconn 1000\n",
            "hard-stop-after 30s": "hard-stop-after 1s",
        }

    def _arguments(self, config: Path) -> tuple[str, ...]:
        return "-W", "-S", str(self._folder / "master"), "-f", str(config)


PROXIES: tuple[type[Proxy], ...] = (Nginx, HAProxy)
