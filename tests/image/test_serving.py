"""A container serves, says how it is, and stops in good order. Each has a read-only root and no capability."""

from __future__ import annotations

from pathlib import Path

import pytest
from session_client import CloseReason, SyncSessionClient

from .engine import Engine, Start

STAYS = """
from session_service import get_current_session


def stays():
    '''Never ends by itself, and says when it is ended.'''
    session = get_current_session()
    session.defer_call(lambda: print("the deferred call has run"))
    session.send_task_command({"command": "here"})
    session.next_client_event()
"""


def test_its_default_command_serves_the_examples_and_it_is_healthy(engine: Engine, image: str, start: Start) -> None:
    container = start()
    with SyncSessionClient(container.address) as client, client.open("greet", params={"name": "Ada"}) as session:
        assert next(session).command == "ask"
        session.send_event("answer", 36)
        assert next(session).spec == {"text": "Hello Ada, 36 is a fine age!"}
        assert list(session) == []
    assert session.closed is not None
    assert session.closed.reason is CloseReason.COMPLETED
    assert container.execute("session-service", "healthcheck") == ""


def test_its_root_file_system_is_read_only_in_these_tests(start: Start) -> None:
    container = start()
    refused = "for folder in / /app /usr /etc; do touch $folder/file 2>/dev/null && echo $folder; done; true"
    assert container.execute("sh", "-c", refused) == ""
    assert " / " in container.execute("sh", "-c", "grep -E '^[^ ]+ / [^ ]+ ro[, ]' /proc/mounts")


def test_a_stop_drains_what_is_attached_and_exits_0(start: Start, folder: Path) -> None:
    (folder / "app.py").write_text(STAYS)
    container = start(
        *("serve", "--insecure", "app:stays"),
        options=("--volume", f"{folder}:/app:ro", "--env", "SESSION_SERVICE_SHUTDOWN_GRACE=0.5"),
    )
    with SyncSessionClient(container.address) as client, client.open("stays") as session:
        assert next(session).command == "here"
        stopped = container.stop()
        assert list(session) == []
        assert session.draining
        assert session.closed is not None
        assert session.closed.reason is CloseReason.SHUTDOWN
    assert stopped.result() == 0
    assert "the deferred call has run" in container.logs()


def test_sessions_that_end_within_the_grace_end_as_they_would_anyway(start: Start) -> None:
    container = start(options=("--env", "SESSION_SERVICE_SHUTDOWN_GRACE=30"))
    with SyncSessionClient(container.address) as client, client.open("greet", params={"name": "Ada"}) as session:
        assert next(session).command == "ask"
        stopped = container.stop()
        session.send_event("answer", 36)
        assert [command.command for command in session] == ["greeting"]
    assert session.closed is not None
    assert session.closed.reason is CloseReason.COMPLETED
    assert stopped.result() == 0


def test_nothing_is_open_to_everybody_that_is_not_said_to_be(engine: Engine, image: str) -> None:
    with pytest.raises(AssertionError, match="allow it by --insecure"):
        engine.run("--rm", image, "serve", "session_service.examples:apps")
