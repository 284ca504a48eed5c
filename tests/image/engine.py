"""What builds and runs images: docker, podman, or what stands in for them.

IMAGE_RUNNER names it. Anything but docker and podman is a command that is called as ``build TAG FOLDER``,
``run ARGS...`` and, for whatever else podman can do, ``podman ARGS...``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

__all__ = ["BUILD_PATIENCE", "IMAGE", "PATIENCE", "Container", "Engine", "Start"]

logger = logging.getLogger(__name__)

# Seconds that a call of the engine may take, and a build, which downloads: far more than any does take.
PATIENCE = 60.0
BUILD_PATIENCE = 900.0

IMAGE = "session-service:test"

# As hard as it gets; the image is meant to bear it.
CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

Start = Callable[..., "Container"]


class Engine:
    """Builds and runs images."""

    def __init__(self, runner: str) -> None:
        self._runner = runner
        self._name = Path(runner).name

    @classmethod
    def find(cls) -> Engine | None:
        """Return the engine that IMAGE_RUNNER names, or else one that works here."""
        if runner := os.environ.get("IMAGE_RUNNER"):
            return cls(runner)
        for runner in ("docker", "podman"):
            try:
                _run(runner, "info")
            except (OSError, AssertionError):
                continue
            return cls(runner)
        return None

    def build(self, tag: str, folder: Path) -> None:
        """Build the Dockerfile of a folder."""
        args = {
            "docker": ("--tag", tag, str(folder)),
            "podman": ("--format", "docker", "--tag", tag, str(folder)),  # OCI's own format has no health check
        }.get(self._name, (tag, str(folder)))
        _run(self._runner, "build", *args, patience=BUILD_PATIENCE)

    def run(self, *args: str) -> str:
        """Run a container, and return what it printed."""
        return _run(self._runner, "run", *args)

    def call(self, *args: str) -> str:
        """Call what docker and podman have in common."""
        return _run(*self._command(*args))

    def output_in(self, image: str, script: str) -> str:
        """Return what a shell script prints in a container, as root, so that it sees everything."""
        return self.run("--rm", "--user", "0", "--entrypoint", "sh", image, "-c", script)

    @contextmanager
    def follow(self, *args: str) -> Iterator[Iterable[str]]:
        """Make a call that goes on, for the lines that it prints; it ends with the block."""
        with subprocess.Popen(
            self._command(*args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                process.terminate()

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what there is to know of an image or a container."""
        (found,) = json.loads(self.call("inspect", name))
        assert isinstance(found, dict)
        return found

    def _command(self, *args: str) -> tuple[str, ...]:
        return (self._runner, *args) if self._name in ("docker", "podman") else (self._runner, "podman", *args)


class Container:
    """One that runs.

    Attributes:
        address: where its server is to be reached.
    """

    def __init__(self, engine: Engine, name: str, address: str, stack: ExitStack) -> None:
        """Not called: `start` makes it."""
        self.address = address
        self._engine = engine
        self._name = name
        self._stack = stack

    @classmethod
    def start(cls, engine: Engine, image: str, command: tuple[str, ...], stack: ExitStack, *options: str) -> Container:
        """Start one, and wait until it listens."""
        # Not the image's own port: some engines give a container no network of its own.
        port = _free_port()
        name = f"session-service-test-{uuid.uuid4()}"
        stack.callback(_remove, engine, name)
        engine.run(
            *("--detach", "--name", name, *CONFINED, "--publish", f"127.0.0.1:{port}:{port}"),
            *("--env", f"SESSION_SERVICE_LISTEN=0.0.0.0:{port}"),
            *("--env", f"SESSION_SERVICE_ADDRESS=127.0.0.1:{port}"),
            *(*options, image, *command),
        )
        container = cls(engine, name, f"127.0.0.1:{port}", stack)
        container._wait_listening()
        return container

    def execute(self, *command: str) -> str:
        """Run a command in it that succeeds, and return what it printed."""
        return self._engine.call("exec", self._name, *command)

    def stop(self) -> Future[int]:
        """Stop it meanwhile; the result is its exit code."""
        executor = self._stack.enter_context(ThreadPoolExecutor(1))
        return executor.submit(self._stop)

    def logs(self) -> str:
        """Return what it has printed."""
        return self._engine.call("logs", self._name)

    def _wait_listening(self) -> None:
        with self._engine.follow("logs", "--follow", self._name) as lines:
            printed = []
            for line in lines:
                if line.startswith("listening on "):
                    return
                printed.append(line)
        raise AssertionError(f"it ended: {''.join(printed)}")

    def _stop(self) -> int:
        self._engine.call("stop", "-t", f"{PATIENCE / 2:.0f}", self._name)
        code = self._engine.inspect(self._name)["State"]["ExitCode"]
        assert isinstance(code, int)
        return code


def _run(*command: str, patience: float = PATIENCE) -> str:
    """Run what succeeds, and return its stdout."""
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=patience, stdin=subprocess.DEVNULL, check=False
    )
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def _remove(engine: Engine, name: str) -> None:
    with engine.follow("logs", name) as lines:  # pytest shows them where the test has failed
        logger.warning("%s printed:\n%s", name, "".join(lines))
    engine.call("rm", "--force", name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
