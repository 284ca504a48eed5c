"""Who calls: the place where authentication goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["Authenticate", "anonymous"]

Authenticate = Callable[[Mapping[str, str], str], str]
"""Metadata and peer in, the principal's name out; raises `Unauthenticated`. It runs on every RPC and every attach."""


def anonymous(metadata: Mapping[str, str], peer: str) -> str:
    """Take everybody for the same principal: what a server on the loopback interface does."""
    return ""
