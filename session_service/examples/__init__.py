"""Apps to try and to read; ``session-service serve session_service.examples:apps`` serves them."""

from .echo import echo
from .greet import greet

__all__ = ["apps"]

apps = {"echo": echo, "greet": greet}
