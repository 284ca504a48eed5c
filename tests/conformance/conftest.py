"""The kit stands beside the packages, and is not installed: see clients/conformance/README.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

KIT = Path(__file__).parents[2] / "clients" / "conformance"

sys.path.insert(0, str(KIT))

# Seconds that a test may take before it counts as stuck: a run of all cases takes a minute on a busy machine.
PATIENCE = 180.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(PATIENCE))
