"""The log of ``serve``: one event a line, with the session that it is about.

A line about a session is logged by a `SessionLogger`; any other that code of a session logs is about that session,
too. What else is known of the session is added here. No line holds a token, and none a payload but for what an app logs
itself, or raises.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
import threading
import time
from types import TracebackType
from typing import Protocol

from ..errors import ProtocolError
from ..host.observers import Observer, SessionView
from ..session.current import current_task
from .loggers import ServerLogger, seal
from .stderr import StderrHandler

__all__ = ["Formatter", "SessionLog", "Sessions", "configure"]

logger = logging.getLogger(__name__)

Fields = dict[str, str | int]


class Sessions(Protocol):
    """Where sessions are looked up: a `SessionManager`."""

    def get(self, session_id: str, /) -> SessionView | None:
        """Return the session of this id, if there is one; from any thread."""


class TextFormatter(logging.Formatter):
    """For people: what is known beside the message follows it in brackets, and a traceback on lines of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: Sessions | None = None

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and what follows it."""
        message = record.getMessage()
        fields = _fields(record, self.sessions)
        if _about_session(record):
            del fields["session_id"]  # the message begins with it
        if fields.get("error_id", "") and str(fields["error_id"]) in message:
            del fields["error_id"]
        known = " ".join([f"{name}={_quoted(value)}" for name, value in fields.items()])
        when = f"{_local_second(int(record.created))},{int(record.msecs):03}"
        text = f"{when} {record.levelname} {record.name}: {message}"
        if known:
            text = f"{text} [{known}]"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        if record.stack_info:
            text = f"{text}\n{self.formatStack(record.stack_info)}"
        return text


class JsonFormatter(logging.Formatter):
    """For programs: an object a line."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: Sessions | None = None

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        entry: Fields = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record, self.sessions),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        return json.dumps(entry)  # in ASCII: no character ends the line, whatever the reader takes for one


Formatter = TextFormatter | JsonFormatter


class SessionLog(Observer):
    """Logs when sessions start, lose their streams, are resumed and end."""

    def opened(self, managed: SessionView) -> None:  # noqa: D102
        _log(managed, "opened")

    def attached(self, managed: SessionView) -> None:  # noqa: D102
        if managed.generation > 1:
            _log(managed, "resumed")

    def detached(self, managed: SessionView, error: ProtocolError | None) -> None:  # noqa: D102
        if not managed.session.closed():
            # Not what the error says: it may quote what the client has sent.
            reason = f", by {type(error).__name__}" if error is not None else ""
            _log(managed, "detached%s", reason)

    def ended(self, managed: SessionView) -> None:  # noqa: D102
        reason = managed.session.close_reason
        _log(managed, "ended, %s", reason.name if reason is not None else "")


def configure(*, as_json: bool, debug: bool) -> Formatter:
    """Log to stderr, whatever comes to be said there; return where `Sessions` can be set.

    The root logger, and its handler, are for the apps: they may do with them as they like. The server has its own.

    Args:
        as_json: for programs.
        debug: log more.
    """
    formatter = JsonFormatter() if as_json else TextFormatter()
    for_apps, for_server = StderrHandler(), StderrHandler()
    for_apps.setFormatter(formatter)
    for_server.setFormatter(formatter)
    level = logging.DEBUG if debug else logging.INFO
    root = logging.getLogger()
    root.setLevel(level)
    root.addHandler(for_apps)
    ServerLogger.output, ServerLogger.least = for_server, level
    seal()
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable
    return formatter


@functools.lru_cache(maxsize=1)
def _local_second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


@functools.lru_cache(maxsize=1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _log(managed: SessionView, text: str, *args: object) -> None:
    # Not by a `SessionLogger`: it would look through the stack for what is known, a fifth of a record's cost.
    if logger.isEnabledFor(logging.INFO):
        session_id = managed.session.id
        record = logging.LogRecord(
            logger.name, logging.INFO, __file__, 0, f"session %s: {text}", (session_id, *args), None
        )
        record.about_session = session_id
        logger.handle(record)


def _about_session(record: logging.LogRecord) -> str:
    """Return the id of the session that a line names; empty for none."""
    if isinstance(record.msg, str) and record.msg.startswith("session %s: ") and isinstance(record.args, tuple):
        return str(record.args[0])  # by hand: what does not yet log by a `SessionLogger`
    return str(getattr(record, "about_session", ""))


def _fields(record: logging.LogRecord, sessions: Sessions | None) -> Fields:
    """Return what is known of a record beside its message."""
    fields: Fields = {}
    task = current_task.get()
    session_id = task.session_id if task is not None else ""
    if (about := _about_session(record)) and about != session_id:
        session_id, task = about, None
    if session_id:
        fields["session_id"] = session_id
    managed = sessions.get(session_id) if sessions is not None and session_id else None
    if managed is not None:
        fields["app"] = managed.app
        if managed.principal:
            fields["principal"] = managed.principal
        if managed.generation:
            fields["generation"] = managed.generation
    if task is not None:
        fields["task_id"] = task.id
    if error_id := getattr(record, "error_id", None):
        fields["error_id"] = str(error_id)
    return fields


def _quoted(value: str | int) -> str:
    text = str(value)
    return text if text.isascii() and text.isprintable() and " " not in text else json.dumps(text, ensure_ascii=False)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logger.critical("an exception ends the process", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread is not None else "that is gone"
    error = args.exc_value if args.exc_value is not None else args.exc_type()
    logger.error("an exception ended the thread %s", name, exc_info=error)


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    logger.error("%s: %r", args.err_msg or "an exception was ignored", args.object, exc_info=args.exc_value)
