"""The apps, tests and clients that docs/guide.md and docs/client.md show are run."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from session_client import SessionClient

from session_service import CloseReason
from session_service.testing import Event, run

from ..cli.program import PATIENCE, Served

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


QUIZ, QUIZ_IN_THREAD, DEPLOY, CONVERT, COUNT, QUIZ_TEST, DEPLOY_TEST = blocks("guide.md")
ASYNC_CLIENT, SYNC_CLIENT, SHOW, HAND_OVER = blocks("client.md")


def names(source: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(compile(source, "the documentation", "exec"), found)
    return found


def commands(app: Any, *script: Any) -> list[tuple[str, Any]]:
    return [(command["command"], command["spec"]) for command in run(app, script).commands]


def test_the_quiz_counts_points_in_both_kinds() -> None:
    quiz, in_thread = names(QUIZ)["quiz"], names(QUIZ_IN_THREAD)["quiz"]
    assert commands(quiz, Event("answer", "4"), Event("answer", "9"))[-1] == ("result", {"points": 2})
    assert commands(in_thread, Event("answer", "4"))[-1] == ("result", {"right": True})


def test_the_deployment_ends_by_itself_and_by_its_button() -> None:
    deploy = names(DEPLOY)["deploy"]
    assert commands(deploy)[-1] == ("progress", {"percent": 100})


def test_the_conversion_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert commands(names(CONVERT)["convert"], Event("file", b"12345")) == [("size", 5)]
    assert list(tmp_path.iterdir()) == []


def test_the_counter_sends_all_of_its_numbers() -> None:
    assert [spec for _, spec in commands(names(COUNT)["count"])] == list(range(100_000))


def test_the_tests_of_the_guide_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quiz.py").write_text(QUIZ)
    (tmp_path / "deploy.py").write_text(DEPLOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    for source in (QUIZ_TEST, DEPLOY_TEST):
        [test] = [value for name, value in names(source).items() if name.startswith("test_")]
        test()
    for name in ("quiz", "deploy"):
        sys.modules.pop(name)


@pytest.mark.parametrize("source", [ASYNC_CLIENT, SYNC_CLIENT], ids=["async", "sync"])
async def test_the_clients_of_the_page_hold_their_conversation(examples: Served, tmp_path: Path, source: str) -> None:
    (tmp_path / "client.py").write_text(source.replace("127.0.0.1:50051", examples.address))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "client.py", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        stdout, _ = await process.communicate()
    assert process.returncode == 0
    assert stdout.decode().endswith("CloseReason.COMPLETED\n")


async def test_another_client_goes_on_as_the_page_shows(examples: Served, capsys: pytest.CaptureFixture[str]) -> None:
    show, hand_over = names(SHOW)["show"], names(HAND_OVER)["hand_over"]
    async with asyncio.timeout(PATIENCE), SessionClient(examples.address, on_attachment=show) as client:
        await hand_over(client)
    assert capsys.readouterr().out.split() == ["attached", "attached", "hello"]


def test_the_tables_name_every_close_reason_and_error() -> None:
    page = (DOCS / "client.md").read_text()
    for name in ("PayloadError", "SessionRefused", "TakenOver", "SessionLost", "SessionEnded"):
        assert f"`{name}`" in page
    assert CloseReason.COMPLETED.name in (DOCS / "guide.md").read_text()
