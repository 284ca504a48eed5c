"""HTTP/2 frames, as far as a proxy has to tell where one ends, and gRPC messages within them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

__all__ = ["Direction", "Frames", "Messages"]

Direction: TypeAlias = Literal["up", "down"]

# What an HTTP/2 client sends before its first frame (RFC 9113, 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER = 9
DATA = 0

# Before a gRPC message: whether it is compressed, and its size.
MESSAGE_HEADER = 5


class Frames:
    """Cuts a direction of a connection into HTTP/2 frames (RFC 9113, 4.1)."""

    def __init__(self, direction: Direction) -> None:
        self._rest = b""
        self._preface = len(PREFACE) if direction == "up" else 0

    def split(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that are complete with ``data``; the client's preface counts as one."""
        data, at = self._rest + data, 0
        while len(data) - at >= (size := self._preface or _frame_size(data, at)):
            self._preface = 0
            yield data[at : at + size]
            at += size
        self._rest = data[at:]


def _frame_size(data: bytes, at: int) -> int:
    return FRAME_HEADER + int.from_bytes(data[at : at + 3]) if len(data) - at >= FRAME_HEADER else FRAME_HEADER


class Messages:
    """Puts the gRPC messages of a connection's direction together again, whatever frames they come in."""

    def __init__(self) -> None:
        self._streams: dict[bytes, bytes] = {}  # stream id -> what is not yet whole

    def complete(self, frame: bytes) -> list[bytes]:
        """Return the messages that are whole with this frame."""
        messages: list[bytes] = []
        if frame[3] != DATA:
            return messages
        stream = frame[5:FRAME_HEADER]
        data = self._streams.get(stream, b"") + frame[FRAME_HEADER:]
        while len(data) >= MESSAGE_HEADER:
            end = MESSAGE_HEADER + int.from_bytes(data[1:MESSAGE_HEADER])
            if len(data) < end:
                break
            messages.append(data[MESSAGE_HEADER:end])
            data = data[end:]
        self._streams[stream] = data
        return messages
