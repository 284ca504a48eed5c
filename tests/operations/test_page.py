"""docs/operations.md names nothing that there is not, and leaves out no alert."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]*)\)", PAGE)
    assert links
    assert [link for link in links if not leads_somewhere(link)] == []


def leads_somewhere(link: str) -> bool:
    file, _, anchor = link.partition("#")
    target = ROOT / "docs" / (file or "operations.md")
    if not anchor:
        return target.exists()
    headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_test_that_is_named_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("*/test_*.py"))
    named = re.findall(r"`(test_\w+)…?`", PAGE)
    assert len(named) > 10
    assert [name for name in named if f"def {name}" not in tests] == []


def test_every_alert_has_a_row() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    assert alerts == re.findall(r"^\| (SessionService\w+) \|", PAGE, re.MULTILINE)
