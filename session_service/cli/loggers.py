"""The server's own loggers: whatever an app does to `logging`, they stay as they are.

An app shares the process with the server, and `logging` is one for the process: `dictConfig` disables every logger that
there is, `basicConfig(force=True)` replaces the handlers of all, `disable` means everybody. Then a client would be told
an error id that no log has.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = ["ServerLogger", "seal"]

# The server's, with all below them.
OURS = ("session_service", "grpc")

# Python's, of which a server needs to hear; where their records go is up to the handlers of the root logger.
PYTHONS = ("asyncio", "py.warnings")


class KeptLogger(logging.Logger):
    """Cannot be disabled."""

    def isEnabledFor(self, level: int) -> bool:
        """Tell whether a record of this level is logged."""
        return level >= self.getEffectiveLevel()

    def handle(self, record: logging.LogRecord) -> None:
        """Hand a record to the handlers, if the filters let it through; what they raise is told, and goes no further.

        They are an app's, and who logs is the server, which would fail where it only wants to say something.
        """
        self.disabled = False
        try:
            super().handle(record)
        except BaseException as error:
            if logging.raiseExceptions:  # as a handler of Python's own does it
                _tell(f"a handler or a filter of the logger {record.name}, or of one above it, raised", error)


class ServerLogger(KeptLogger):
    """Logs to the handler of the server's, whatever its level, filters and handlers and those above it have become.

    Handlers that somebody gives to the logger ``session_service`` get the records as well; those of the root logger do
    not, or what an app sends from there to stderr would stand there twice.

    Attributes:
        output: the handler.
        least: the level from which on records are logged.
    """

    output: ClassVar[logging.Handler]
    least: ClassVar[int]

    def isEnabledFor(self, level: int) -> bool:
        """Tell whether a record of this level is logged."""
        return level >= self.least

    def makeRecord(  # noqa: D102 - Logger's own, but not by the factory that an app may have set
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,  # a tuple or a mapping; and so on, as in Logger
        exc_info: Any,
        func: str | None = None,
        extra: Mapping[str, object] | None = None,
        sinfo: str | None = None,
    ) -> logging.LogRecord:
        record = logging.LogRecord(name, level, fn, lno, msg, args, exc_info, func, sinfo)
        record.__dict__.update(extra or {})
        return record

    def handle(self, record: logging.LogRecord) -> None:
        """Write a record, and then hand it to the handlers that there are."""
        self.output.handle(record)
        super().handle(record)

    def callHandlers(self, record: logging.LogRecord) -> None:
        """Hand a record to the handlers."""
        top: logging.Logger = self
        while isinstance(top.parent, ServerLogger):
            top = top.parent
        top.propagate = False
        if self.hasHandlers():  # else logging would write it to stderr, as its last resort
            super().callHandlers(record)


def _tell(text: str, error: BaseException) -> None:
    trace = (type(error), error, error.__traceback__)
    ServerLogger.output.handle(logging.LogRecord(__name__, logging.ERROR, __file__, 0, text, None, trace))


def seal() -> None:
    """Make `ServerLogger`s of the loggers that the server has by now; those that are made later need another call."""
    for name in (*OURS, *PYTHONS):
        logging.getLogger(name)
    for name, known in list(logging.root.manager.loggerDict.items()):
        if not isinstance(known, logging.Logger):
            continue
        if name.partition(".")[0] in OURS:
            known.__class__ = ServerLogger
        elif name in PYTHONS:
            known.__class__ = KeptLogger
        if name in OURS and not known.handlers:
            known.addHandler(
                logging.NullHandler()
            )  # so that what watches `Logger.callHandlers`, as Sentry does, sees all
