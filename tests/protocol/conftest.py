"""A server for each test, torn down however the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from session_service.config import Config
from session_service.host import App
from session_service.server import Server

from .peer import Serve, Service, connect


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
