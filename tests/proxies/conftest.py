"""A server, and each proxy before it, torn down however the test ends.

`make test` leaves this folder out, since it takes nginx and HAProxy; `make test-proxies` runs it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import pytest

from session_service.config import Config
from session_service.host import App
from session_service.server import Server
from tests.protocol.peer import Service
from tests.server.authority import Authority

from .proxy import PROXIES, Proxy

NO_CHANGES: Mapping[str, str] = MappingProxyType({})

Serve = Callable[..., Coroutine[Any, Any, "Behind"]]


class Behind(Service):
    """A server behind a proxy, and a channel to that.

    Attributes:
        proxy: what stands between.
        credentials: what a client needs to trust it.
    """

    def __init__(
        self, server: Server, channel: grpc.aio.Channel, proxy: Proxy, credentials: grpc.ChannelCredentials
    ) -> None:
        super().__init__(server, channel)
        self.proxy = proxy
        self.credentials = credentials


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(params=PROXIES, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[Proxy]:
    """Go through the proxies."""
    kind: type[Proxy] = request.param
    return kind


@pytest.fixture
async def serve(kind: type[Proxy], tmp_path: Path, authority: Authority) -> AsyncIterator[Serve]:
    """Serve apps behind a proxy: ``await serve(apps, changes, **settings)``, changes to its configuration."""
    if kind.find() is None:
        missing = f"{kind.name} is missing: `make tools` installs it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    async with AsyncExitStack() as stack:

        async def start(apps: dict[str, App], changes: Mapping[str, str] = NO_CHANGES, **settings: Any) -> Behind:
            server = Server(apps, Config(listen="127.0.0.1:0", **settings))
            stack.push_async_callback(server.drain, 0)
            proxy = kind(tmp_path, await server.start(), authority.server())
            stack.push_async_callback(proxy.stop)
            await proxy.start(changes)
            credentials = authority.channel_credentials()
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
            channel = await stack.enter_async_context(grpc.aio.secure_channel(proxy.address, credentials, options))
            return Behind(server, channel, proxy, credentials)

        yield start
