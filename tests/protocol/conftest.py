"""A server for each test, torn down however the test ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest

from session_service.config import Config
from session_service.manager import App
from session_service.server import Server

from .peer import Serve, Service, connect


class LingeringLoop(asyncio.SelectorEventLoop):
    """A loop that is closed when the loop of the next test is.

    All loops of a process share one poller of grpc.aio, and what is left of a test's calls may reach the next test's
    loop. That hands it on, and where its own loop is closed it stops with a RuntimeError, with the next test's events
    still in its hands: then that test waits for ever.
    """

    lingering: ClassVar[LingeringLoop | None] = None

    def close(self) -> None:
        before, LingeringLoop.lingering = LingeringLoop.lingering, self
        if before is not None:
            before.close_at_last()

    def close_at_last(self) -> None:
        super().close()


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": LingeringLoop}


@pytest.fixture(scope="package", autouse=True)
def close_last_loop() -> Iterator[None]:
    yield
    if LingeringLoop.lingering is not None:
        LingeringLoop.lingering.close_at_last()
        LingeringLoop.lingering = None


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers in this process, on real sockets of 127.0.0.1."""
    async with AsyncExitStack() as stack:

        async def start(apps: dict[str, App], *, authenticate: Any = None, **settings: Any) -> Service:
            config = Config(listen="127.0.0.1:0", **settings)
            server = Server(apps, config) if authenticate is None else Server(apps, config, authenticate)
            stack.push_async_callback(server.drain, 0)  # closes what is left, and waits for it
            address = await server.start()
            return Service(server, await stack.enter_async_context(connect(address)))

        yield start
