"""What others get who install the distribution: its metadata, and its types."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

import session_service

# As somebody else's project has it, in which every call of the guide and of the client's page is typed.
APPS = """\
import asyncio

from session_client import Command, SessionClient, SyncSessionClient

from session_service import ClientEvent, SessionInfo, get_current_session


def in_a_thread() -> None:
    session = get_current_session()
    event: ClientEvent = session.next_client_event(timeout=30)
    name: str = event["event"]
    session.send_task_command({"command": "said", "spec": [name, event["task_id"], event["data"]]})


async def on_the_loop() -> None:
    session = get_current_session()
    info: SessionInfo = session.info
    event: ClientEvent = await session.next_client_event(timeout=30)
    async with asyncio.timeout(30):
        event = await session.next_client_event()
    event = await asyncio.to_thread(session.next_client_event, timeout=30)
    handle = session.run_task(on_the_loop)
    session.send_task_command({"command": "said", "spec": [event["data"], info.user_language, handle.id]})
    await session.drain()


async def client() -> None:
    async with SessionClient("localhost:1") as client, client.open("app") as session:
        async for command in session:
            show(command)
            await session.send_event("answer", 36, task_id=command.task_id)


def sync_client() -> None:
    with SyncSessionClient("localhost:1") as client, client.open("app") as session:
        for command in session:
            show(command)


def show(command: Command) -> None:
    print(command.command, command.task_id)
"""

MISTAKES = """\
from session_service import ClientEvent, get_current_session


def app() -> None:
    event: ClientEvent = get_current_session().next_client_event(timeout="soon")
    print(event["name"])
"""


def test_the_version_is_that_of_the_distribution() -> None:
    assert session_service.__version__ == version("session-service")


def test_the_distribution_says_where_its_project_is() -> None:
    urls = dict(url.split(", ") for url in metadata("session-service").get_all("Project-URL") or [])

    assert {"Homepage", "Documentation", "Changelog", "Source", "Issues"} <= urls.keys()
    assert all(url.startswith("https://") for url in urls.values())


def test_no_link_in_the_distributions_readme_is_relative() -> None:
    readme = str(metadata("session-service").json["description"])
    links = re.findall(r"\]\(([^)]+)\)", readme)

    assert "https://github.com/session-service/session-service/blob/main/docs/guide.md" in links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def mypy(file: Path) -> list[str]:
    """Return the lines with errors."""
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", sys.executable, file.name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)
    assert not done.stderr
    return re.findall(rf"{file.name}:(\d+): error", done.stdout)


def pyright(file: Path) -> list[str]:
    """Return the lines with errors."""
    (file.parent / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, file.name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    return sorted({str(found["range"]["start"]["line"] + 1) for found in report["generalDiagnostics"]})


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_type_checker_is_content_with_what_the_docs_show_and_finds_mistakes(
    tmp_path: Path, checker: Callable[[Path], list[str]]
) -> None:
    (apps := tmp_path / "apps.py").write_text(APPS)
    (mistakes := tmp_path / "mistakes.py").write_text(MISTAKES)

    assert checker(apps) == []
    assert checker(mistakes) == ["5", "6"]
