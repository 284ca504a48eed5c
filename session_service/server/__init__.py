"""The gRPC side: streams, statuses, health, reflection, start and stop."""

from .auth import Authenticator, Peer
from .server import Server

__all__ = ["Authenticator", "Peer", "Server"]
