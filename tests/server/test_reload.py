"""Files that change: what is loaded when, and what is said about it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from session_service.server.auth.reload import Reloading


def load(path: Path) -> str:
    text = path.read_text()
    if text == "bad":
        raise ValueError(f"{path.name} is bad")
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    return path


@pytest.fixture
def files(path: Path) -> Reloading[str]:
    return Reloading("things", [str(path)], lambda: load(path))


def look(files: Reloading[str]) -> str:
    """Look twice, since two looks must agree."""
    files.look()
    files.look()
    return files.value


def test_what_has_not_changed_is_not_loaded_again(files: Reloading[str]) -> None:
    assert look(files) == "one"
    assert files.loads == 1


def test_a_change_is_loaded_when_two_looks_agree_on_it(files: Reloading[str], path: Path) -> None:
    path.write_text("two")
    files.look()
    assert files.value == "one"
    path.write_text("two and a half")  # it is being written
    files.look()
    assert files.value == "one"
    files.look()
    assert (files.value, files.loads) == ("two and a half", 2)


def test_a_file_of_the_same_size_and_time_is_a_change_as_well(files: Reloading[str], path: Path) -> None:
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look(files) == "two"


def test_another_file_behind_a_symbolic_link_is_a_change(tmp_path: Path) -> None:
    """So Kubernetes changes a mounted secret."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    link = tmp_path / "data"
    link.symlink_to("one")
    path = link / "file"
    files = Reloading("things", [str(path)], lambda: load(path))
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    assert look(files) == "two"


@pytest.mark.parametrize("how", ["bad", "gone"])
def test_a_change_for_the_worse_is_said_once_and_the_old_stays(
    files: Reloading[str], path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    if how == "bad":
        path.write_text("bad")
    else:
        path.unlink()
    for _ in range(5):
        assert look(files) == "one"
    assert (files.loads, files.failures, files.failing) == (1, 1, True)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("the things cannot be reloaded, the old ones stay in use: ")

    path.write_text("two")
    assert look(files) == "two"
    assert (files.loads, files.failures, files.failing) == (2, 1, False)


def test_what_was_bad_is_tried_again_though_its_file_has_not_changed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when there were no file descriptors."""
    faults = [OSError("too many open files"), OSError("too many open files")]

    def load_at_last() -> str:
        text = path.read_text()
        if text == "two" and faults:
            raise faults.pop()
        return text

    files = Reloading("things", [str(path)], load_at_last)
    path.write_text("two")
    files.look()
    for expected in ("one", "one", "two"):
        files.look()
        assert files.value == expected
    assert (files.loads, files.failures, files.failing) == (2, 1, False)


def test_a_file_that_is_put_back_as_it_was_is_no_failure_any_more(files: Reloading[str], path: Path) -> None:
    kept = path.rename(path.with_name("kept"))
    look(files)
    assert files.failing
    before = kept.stat()
    kept.rename(path)
    assert look(files) == "one"
    assert not files.failing
    assert (path.stat().st_ino, files.failures) == (before.st_ino, 1)


def test_an_error_that_nobody_foresaw_does_not_end_the_looking(files: Reloading[str], path: Path) -> None:
    def fail() -> str:
        raise RecursionError

    files._load = fail
    path.write_text("two")
    assert look(files) == "one"
    assert files.failing
