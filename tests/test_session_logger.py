"""Lines about one session."""

from __future__ import annotations

import json
import logging

import pytest

from session_service.cli.logs import JsonFormatter, TextFormatter
from session_service.session_logger import SessionLogger

logger = logging.getLogger("of.a.test")


@pytest.fixture
def record(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """A line about a session, as a handler gets it."""
    SessionLogger(logger, "100%s").error("task %s failed", "main-1", extra={"error_id": "e-7"})
    (found,) = caplog.records
    return found


def test_a_line_begins_with_its_session_and_its_text_is_the_same_for_all(record: logging.LogRecord) -> None:
    assert record.getMessage() == "session 100%s: task main-1 failed"
    assert record.msg == "session %s: task %s failed"


def test_a_line_is_its_caller_s(record: logging.LogRecord) -> None:
    assert (record.name, record.funcName, record.filename) == ("of.a.test", "record", "test_session_logger.py")


def test_what_a_line_says_beside_its_text_is_kept_for_programs(record: logging.LogRecord) -> None:
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["session_id"], entry["error_id"]) == ("100%s", "e-7")


def test_for_people_the_session_is_not_said_twice(record: logging.LogRecord) -> None:
    assert TextFormatter().format(record).endswith(": session 100%s: task main-1 failed [error_id=e-7]")


def test_a_line_below_the_level_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    SessionLogger(logger, "a").debug("%s", "nobody asks")
    assert caplog.records == []
