"""The WebSocket client takes frames apart however they arrive."""

from __future__ import annotations

import asyncio
import json

import pytest

from bench.conversation import WebSocketConversation

SHORT = b'{"task_id": "t"}'
MIDDLE = json.dumps("m" * 300).encode()
LONG = json.dumps("l" * 70_000).encode()

SENT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    + b"\x81" + bytes((len(SHORT),)) + SHORT
    + b"\x81\x7e" + len(MIDDLE).to_bytes(2, "big") + MIDDLE
    + b"\x81\x7f" + len(LONG).to_bytes(8, "big") + LONG
)  # fmt: skip


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data


@pytest.mark.parametrize("size", [1, 7, 4096, len(SENT)])
async def test_messages_of_all_lengths_are_counted_in_pieces_of_any_size(size: int) -> None:
    conversation = WebSocketConversation("echo", "localhost")
    conversation.connection_made(Transport())
    for start in range(0, len(SENT), size):
        conversation.data_received(SENT[start : start + size])

    await conversation.start()

    assert await conversation.receive() == 2


async def test_a_close_is_answered() -> None:
    transport = Transport()
    conversation = WebSocketConversation("echo", "localhost")
    conversation.connection_made(transport)
    conversation.data_received(SENT)
    transport.written = b""

    conversation.data_received(b"\x88\x02\x03\xe8")

    assert transport.written == b"\x88\x82\x00\x00\x00\x00\x03\xe8"
