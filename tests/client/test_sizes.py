"""How large a message may be is what `Limits` says, and nothing else (F7)."""

from __future__ import annotations

import pytest
from session_client import SessionClient

from session_service.errors import PayloadError

from .served import Serve, echo

MIB = 1 << 20
either_kind = pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])


@either_kind
async def test_what_a_server_grants_beyond_4_mib_passes_both_ways(serve: Serve, resumable: bool) -> None:
    served = await serve({"echo": echo}, max_message_bytes=8 * MIB)
    text = "x" * (6 * MIB)
    async with SessionClient(served.address) as client, client.open("echo", resumable=resumable) as session:
        await session.send_event("say", text)
        assert (await anext(session)).spec == text


@either_kind
@pytest.mark.parametrize("limit", [64 * 1024, 4_000_000, 8 * MIB])
async def test_an_event_beyond_the_limit_is_refused_before_it_has_a_sequence(
    serve: Serve, resumable: bool, limit: int
) -> None:
    served = await serve({"echo": echo}, max_message_bytes=limit)
    async with SessionClient(served.address) as client, client.open("echo", resumable=resumable) as session:
        with pytest.raises(PayloadError, match="send it in parts"):
            await session.send_event("say", "x" * limit)
        assert session.position.sent == 0
        await session.send_event("say", "x" * (limit - 2000))
        assert len((await anext(session)).spec) == limit - 2000
        assert session.position.sent == 1


@either_kind
async def test_a_batch_is_no_larger_than_a_message_may_be(serve: Serve, resumable: bool) -> None:
    """Neither the client's nor the server's: the echo answers with as much as it got."""
    served = await serve({"echo": echo}, max_message_bytes=64 * 1024)
    async with SessionClient(served.address) as client, client.open("echo", resumable=resumable) as session:
        for number in range(40):
            await session.send_event("say", [number, "x" * 10_000])
        for number in range(40):
            assert (await anext(session)).spec == [number, "x" * 10_000]
