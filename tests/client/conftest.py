"""Servers, relays and fakes for each test, torn down however the test ends; and a look at what a client left behind."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from session_service.config import Config
from session_service.host import App
from session_service.server import Server

from .fake import FakeServer, Script
from .relay import Relay
from .served import FakeServes, RelayTo, Serve, Served, client_tasks, echo, echo_in_thread

# Seconds that a test may take before it counts as stuck: far more than any does take.
PATIENCE = 20.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(PATIENCE))


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Ends what a test has started; then nothing of the client is left."""
    async with AsyncExitStack() as stack:
        yield stack
    assert client_tasks() == []


@pytest.fixture
async def serve(stack: AsyncExitStack) -> Serve:
    """Start servers in this process, on real sockets of 127.0.0.1."""

    async def start(apps: dict[str, App], *, authenticate: Any = None, **settings: Any) -> Served:
        config = Config(listen="127.0.0.1:0", **settings)
        server = Server(apps, config) if authenticate is None else Server(apps, config, authenticate)
        stack.push_async_callback(server.drain, 0)
        await server.start()
        return Served(server)

    return start


@pytest.fixture
async def relay_to(stack: AsyncExitStack) -> RelayTo:
    """Put a relay before a server."""

    async def start(target: str) -> Relay:
        relay = Relay(target)
        stack.push_async_callback(relay.close)
        await relay.start()
        return relay

    return start


@pytest.fixture
async def fake_server(stack: AsyncExitStack) -> FakeServes:
    """Start servers that run scripts; a script that fails fails the test."""

    async def start(*scripts: Script) -> FakeServer:
        fake = FakeServer(scripts)
        stack.push_async_callback(fake.stop)
        stack.callback(check, fake)
        await fake.start()
        return fake

    def check(fake: FakeServer) -> None:
        assert fake.errors == []

    return start


@pytest.fixture(params=[echo, echo_in_thread], ids=["coroutine", "thread"])
def echo_app(request: pytest.FixtureRequest) -> App:
    """Say everything back, in either kind of session."""
    app: App = request.param
    return app


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail where a background loop of the sync client outlives the test."""
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "session-client"] == []
