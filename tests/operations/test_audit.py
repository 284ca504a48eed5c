"""The audit of `make lint`, with a pip-audit that says what it is told to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit"

GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


class Audited(NamedTuple):
    """How the audit ended."""

    code: int
    text: str


def audited(folder: Path, packages: list[dict[str, Any]] | None, **environment: str) -> Audited:
    said = (
        f"print({json.dumps({'dependencies': packages})!r})" if packages is not None else "raise OSError('no network')"
    )
    (folder / "pip_audit.py").write_text(said)
    clean = {name: text for name, text in os.environ.items() if name not in ("CI", "AUDIT")}
    ran = subprocess.run(
        [sys.executable, AUDIT],
        env={**clean, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    return Audited(ran.returncode, ran.stdout + ran.stderr)


def test_where_nothing_is_known_of_any_package_it_passes(tmp_path: Path) -> None:
    assert audited(tmp_path, [GOOD], CI="true") == (0, "No known vulnerability in 1 packages.\n")


@pytest.mark.parametrize("environment", [{}, {"CI": "true"}, {"CI": "true", "AUDIT": "warn"}], ids=str)
def test_a_vulnerability_fails_everywhere(tmp_path: Path, environment: dict[str, str]) -> None:
    assert audited(tmp_path, [GOOD, BAD, UNKNOWN], **environment) == (1, "bad 2: PYSEC-1, fixed in 3\n")


@pytest.mark.parametrize("packages", [None, [GOOD, UNKNOWN]], ids=["without a network", "without an answer"])
@pytest.mark.parametrize(
    ("environment", "code", "level"),
    [({}, 0, "warning"), ({"CI": "true"}, 1, "error"), ({"CI": "true", "AUDIT": "warn"}, 0, "warning")],
    ids=["for a developer", "in CI", "in a CI without a way out"],
)
def test_what_could_not_be_looked_up_does_not_pass_in_silence(
    tmp_path: Path, packages: list[dict[str, Any]] | None, environment: dict[str, str], code: int, level: str
) -> None:
    ended = audited(tmp_path, packages, **environment)
    assert ended.code == code
    assert ended.text.startswith(f"{level}: NOT AUDITED for known vulnerabilities: ")
