"""The example `upload`: blobs in, a digest out, and backpressure in between."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from session_client import CloseReason as Reason
from session_client import SessionClient

from session_service import CloseReason
from session_service.examples.upload import upload
from session_service.testing import Event, run

from ..cli.program import Served

CHUNKS = [bytes([number]) * 1000 for number in range(20)]
DIGEST = hashlib.sha256(b"".join(CHUNKS)).hexdigest()


@pytest.mark.parametrize("params", [{}, {"sha256": DIGEST}], ids=["unknown", "expected"])
def test_it_says_what_it_has(params: dict[str, Any]) -> None:
    transcript = run(upload, [*(Event("chunk", chunk) for chunk in CHUNKS), Event("end")], params=params)
    assert [(c["command"], c["spec"]) for c in transcript.commands] == [("stored", {"size": 20000, "sha256": DIGEST})]
    assert transcript.reason is CloseReason.COMPLETED


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (Event("chunk", "text"), "a chunk is bytes"),
        (Event("end"), f"that is {hashlib.sha256().hexdigest()}, not {DIGEST}"),
    ],
)
def test_it_refuses_what_is_wrong(event: Event, why: str) -> None:
    (command,) = run(upload, [event], params={"sha256": DIGEST}).commands
    assert (command["command"], command["spec"]) == ("refused", why)


def test_it_refuses_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(upload.__globals__, "LARGEST", 1500)
    (command,) = run(upload, [Event("chunk", chunk) for chunk in CHUNKS[:2]]).commands
    assert (command["command"], command["spec"]) == ("refused", "that is more than 1500 bytes")


def test_a_client_that_goes_away_in_the_middle_ends_it() -> None:
    assert run(upload, [Event("chunk", b"half")]).reason is CloseReason.CLIENT


async def test_more_than_any_window_holds_arrives_whole(examples: Served) -> None:
    chunk, count = bytes(range(256)) * 256, 64  # 4 MiB in all, and windows are of 1 MiB
    digest = hashlib.sha256(chunk * count).hexdigest()
    async with (
        SessionClient(examples.address) as client,
        client.open("upload", params={"sha256": digest}) as session,
    ):
        for _ in range(count):
            await session.send_event("chunk", chunk)
        await session.send_event("end")
        commands = [(command.command, command.spec) async for command in session]
    assert commands == [("stored", {"size": len(chunk) * count, "sha256": digest})]
    assert session.closed is not None
    assert session.closed.reason is Reason.COMPLETED
