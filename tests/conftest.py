"""What all tests share: the event loop that each runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import pytest


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


@pytest.fixture(scope="session", autouse=True)
def close_last_loop() -> Iterator[None]:
    yield
    if LingeringLoop.lingering is not None:
        LingeringLoop.lingering.close_at_last()
        LingeringLoop.lingering = None
