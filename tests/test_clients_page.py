"""docs/clients.md leaves out nothing that a resumable client must do, and names nothing that there is not."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "clients.md").read_text()
PROTOCOL = (DOCS / "protocol.md").read_text()

RULES = set(re.findall(r"^\*\*([FPDAE]\d+a?)\.", PROTOCOL, re.MULTILINE))
NAMED = set(re.findall(r"\b[FPDAE]\d+a?\b", PAGE))


def test_every_rule_of_delivery_and_attachment_is_named() -> None:
    assert not {rule for rule in RULES if rule[0] in "DA"} - NAMED


def test_every_rule_that_is_named_exists() -> None:
    assert not NAMED - RULES


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]*)\)", PAGE)
    assert [link for link in links if not leads_somewhere(link)] == []
    assert "(clients.md#a-resumable-client)" in PROTOCOL


def leads_somewhere(link: str) -> bool:
    file, _, anchor = link.partition("#")
    target = DOCS / (file or "clients.md")
    if not anchor:
        return target.exists()
    headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
