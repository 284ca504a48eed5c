"""`make demo` ends by itself, and shows what it promises."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from ..cli.program import PATIENCE

ROOT = Path(__file__).parents[2]
DEMO = "clients/python/demo.py"

TOLD = [
    "server  listens on 127.0.0.1:",
    "client  opens “approve”",
    "app     staging    0 10 20 30 40",
    "the connection is cut",
    "client  has lost the connection",
    "client  is back",
    "app     asks: Staging runs 2.1. Go on to production?",
    "the connection is cut",
    "Ada     clicks on “go”",
    "client  has lost the connection",
    "client  is back",
    "app     production 0 10",
    "app     is done: 2.1 is in production, says Ada",
    "server  has closed the session: COMPLETED",
    "24 commands and 1 event over",
    "nothing lost, nothing twice",
]


async def test_the_conversation_is_cut_twice_and_nothing_is_lost() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", DEMO),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, stderr.decode()) == (0, "")
    told, place = stdout.decode(), 0
    for text in TOLD:
        place = told.find(text, place)
        assert place >= 0, f"{text!r} is not told, or too early:\n{told}"
    for stage in ("staging", "production"):
        lines = re.findall(rf"^  app     {stage:<10} (.*)$", told, re.MULTILINE)
        assert " ".join(lines).split() == [str(percent) for percent in range(0, 101, 10)]


def test_make_demo_runs_it() -> None:
    assert re.search(
        rf"^demo:.*\n\t@\$\(BIN\)/python {re.escape(DEMO)}$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
