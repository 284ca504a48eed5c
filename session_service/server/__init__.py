"""The gRPC side: streams, statuses, health, reflection, start and stop."""

from .auth import Authenticate
from .server import Server

__all__ = ["Authenticate", "Server"]
