"""The command line for each test, its processes killed however the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from .program import Program


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    """Run the command line in an empty folder."""
    async with AsyncExitStack() as stack:
        yield Program(tmp_path, stack)
