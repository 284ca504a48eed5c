"""Apps to try and to read; ``session-service serve session_service.examples:apps`` serves them."""

from .approve import approve
from .chat import chat
from .echo import echo
from .greet import greet
from .typed import typed
from .upload import upload

__all__ = ["apps"]

apps = {"approve": approve, "chat": chat, "echo": echo, "greet": greet, "typed": typed, "upload": upload}
