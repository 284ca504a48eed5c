"""A run over random cuts, as `make robustness` makes it, but shorter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import ServerProcess
from .run import KINDS, run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "server.log")
    yield server
    server.kill()


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_lost_repeated_or_reordered_over_random_cuts(
    server: ServerProcess, tmp_path: Path, kind: str
) -> None:
    figures = await run(server, tmp_path, kind, messages=5_000, cuts=50, seed=1)
    assert figures.cuts >= 50
    assert figures.resumes >= 50
    # Else it would prove little: duplicates came both ways, and the app was slower than its client.
    assert figures.repeated.events > 0
    assert figures.repeated.commands > 0
    assert figures.repeated.events_again > 0
    assert figures.full > 0
