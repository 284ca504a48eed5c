"""What outlives a stream: the sessions of one server, with what is known of them; knows no gRPC."""

from __future__ import annotations

from .drain import Drained
from .hosted import ManagedSession, Stream
from .manager import App, SessionManager
from .observers import Observer, SessionView

__all__ = ["App", "Drained", "ManagedSession", "Observer", "SessionManager", "SessionView", "Stream"]
