from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop

from tests.session.kinds import CoroutineKind, Kind, ThreadKind


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=[CoroutineKind, ThreadKind], ids=["coroutine", "thread"])
async def kind(request: pytest.FixtureRequest) -> AsyncIterator[Kind]:
    """Either kind of session."""
    kind: Kind = request.param()
    yield kind
    await kind.finish()


@pytest.fixture
async def coroutines() -> AsyncIterator[CoroutineKind]:
    """For what only coroutine sessions have."""
    kind = CoroutineKind()
    yield kind
    await kind.finish()


@pytest.fixture
async def threads() -> AsyncIterator[ThreadKind]:
    """For what only thread sessions have."""
    kind = ThreadKind()
    yield kind
    await kind.finish()


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged as an error so far, tracebacks included; a test that does not ask for it must log none."""
    return lambda: [logging.Formatter().format(record) for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.fixture(autouse=True)
def no_errors_logged(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    if "errors" not in request.fixturenames:
        assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []
