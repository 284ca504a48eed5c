"""The examples, and the README's, served by the command line in a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ..cli.program import Program, Served


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    """Run the command line in an empty folder."""
    async with AsyncExitStack() as stack:
        yield Program(tmp_path, stack)


@pytest.fixture
async def examples(program: Program) -> Served:
    """Serve all examples."""
    return await program.serve("session_service.examples:apps")
