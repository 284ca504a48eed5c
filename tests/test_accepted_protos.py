"""protos/accepted.binpb guards the protos: what would break a client of them is refused, what would not is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUF = Path(sys.executable).with_name("buf")
SESSION = "protos/session_service/v1/session.proto"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what buf looks at."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    return tmp_path


def breaking(checkout: Path) -> str:
    """Return what buf finds, one complaint a line."""
    ended = subprocess.run(
        [BUF, "breaking", "--against", "protos/accepted.binpb"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    assert (ended.returncode == 0) == (ended.stdout == "")
    return ended.stdout


def change(checkout: Path, file: str, old: str, new: str) -> None:
    text = (checkout / file).read_text()
    assert text.count(old) == 1
    (checkout / file).write_text(text.replace(old, new))


def test_the_protos_break_nothing_that_was_accepted(checkout: Path) -> None:
    assert breaking(checkout) == ""


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  string request_id = 5;\n", "", 'Previously present field "5" with name "request_id" on message "Open"'),
        ("string request_id = 5;", "string open_id = 5;", 'changed name from "request_id" to "open_id"'),
        ("string request_id = 5;", "string request_id = 15;", 'Previously present field "5"'),
        ("string request_id = 5;", "bytes request_id = 5;", 'changed type from "string" to "bytes"'),
        (
            "CLOSE_REASON_SHUTDOWN = 6;",
            "CLOSE_REASON_SHUT_DOWN = 6;",
            'Enum value "6" on enum "CloseReason" changed name',
        ),
        ("rpc Attach(stream AttachRequest)", "rpc Attach(AttachRequest)", 'RPC "Attach" on service "SessionService"'),
    ],
    ids=["removed", "renamed", "renumbered", "retyped", "renamed value", "no stream"],
)
def test_what_would_break_a_client_is_refused(checkout: Path, old: str, new: str, complaint: str) -> None:
    change(checkout, SESSION, old, new)
    assert complaint in breaking(checkout)


def test_the_conformance_kit_s_messages_are_guarded_too(checkout: Path) -> None:
    shutil.rmtree(checkout / "protos/session_service/conformance")
    assert "session_service/conformance/v1/conformance.proto" in breaking(checkout)


def test_a_new_field_and_a_better_comment_are_no_break(checkout: Path) -> None:
    change(checkout, SESSION, "  string request_id = 5;\n", "  string request_id = 5;\n  // New.\n  string new = 77;\n")
    assert breaking(checkout) == ""
