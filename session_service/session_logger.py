"""A logger for lines about one session."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

__all__ = ["SessionLogger"]


class SessionLogger(logging.LoggerAdapter[logging.Logger]):
    """Begins each line with the session, and says in its record, as ``about_session``, which it is.

    Made for a line, or a few: ``SessionLogger(logger, self.id).info("task %s is done", task.id)``. The id is an
    argument of the record, so that the text of the record is the same for all sessions.
    """

    def __init__(self, logger: logging.Logger, session_id: str) -> None:
        super().__init__(logger, {"about_session": session_id})
        self._session_id = session_id

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Keep what a line says beside its text; the base class would drop that."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the caller is not `log` below
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a line, as `logging.Logger.log` does."""
        super().log(level, f"session %s: {msg}", self._session_id, *args, **kwargs)
