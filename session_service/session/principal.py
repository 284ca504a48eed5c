"""Whom a session belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ANONYMOUS", "Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom the authentication of a call names.

    Attributes:
        name: what a session is bound to, and what logs say; empty where the server authenticates nobody.
        claims: what else its credentials say, such as the claims of a JWT; never the credentials themselves.
        expires_at: when the credentials end, in seconds of Unix time; None for never.
    """

    name: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    expires_at: float | None = None


ANONYMOUS = Principal()
