"""Servers in processes of their own, whose limits can be set, and channels that are closed when the test ends."""

from __future__ import annotations

from ..cli.conftest import program
from ..server.conftest import connect

__all__ = ["connect", "program"]
