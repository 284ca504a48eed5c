"""The image, built once, and its containers, removed however the test ends.

`make test` leaves this folder out, since it takes an engine, a network and minutes; `make test-image` runs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .engine import BUILD_PATIENCE, IMAGE, Container, Engine, Start

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(BUILD_PATIENCE))


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Find what runs containers."""
    engine = Engine.find()
    if engine is None:
        missing = "neither docker nor podman works here, and IMAGE_RUNNER names nothing else"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return engine


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """Build the image."""
    engine.build(IMAGE, ROOT)
    return IMAGE


@pytest.fixture
def start(engine: Engine, image: str) -> Iterator[Start]:
    """Start containers: ``start(*command, image=..., options=(...))``."""
    with ExitStack() as stack:

        def start(*command: str, image: str = image, options: tuple[str, ...] = ()) -> Container:
            return Container.start(engine, image, command, stack, *options)

        yield start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder that the user of the image can read."""
    tmp_path.chmod(0o755)
    return tmp_path
