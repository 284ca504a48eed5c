"""Servers in this process and in others, an authority, and channels that are closed when the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import grpc
import pytest

from ..cli.conftest import program
from ..protocol.conftest import serve
from ..protocol.peer import Service
from .authority import Authority

__all__ = ["Connect", "program", "serve"]

Connect = Callable[..., Service]


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect to an address, over a connection of its own; by TLS where credentials are given."""
    async with AsyncExitStack() as stack:

        def connect(address: str, credentials: grpc.ChannelCredentials | None = None) -> Service:
            options = [("grpc.use_local_subchannel_pool", 1)]
            if credentials is None:
                channel = grpc.aio.insecure_channel(address, options)
            else:
                channel = grpc.aio.secure_channel(address, credentials, options)
            stack.push_async_callback(channel.close)
            return Service(cast(Any, None), channel)  # the server is in another process, or known to the test

        yield connect
