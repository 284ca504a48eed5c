"""Bugs at the end: E."""

from __future__ import annotations

from typing import Any

from session_client import stream
from session_client.conversation import Closed, Conversation
from session_client.stream import StreamEnd

from session_service.delivery import Outbox

from .planting import bug, patch


@bug
def closes_once() -> None:
    """Send `close` on one stream only (E1)."""

    def make(original: Any) -> Any:
        def first_request(self: Conversation) -> bytes:
            written = self._close_written
            data: bytes = original(self)
            self._close_written = written
            return data

        return first_request

    patch(Conversation, "first_request", make)


@bug
def closes_before_its_events() -> None:
    """Send a graceful `close` before the events that wait (E1)."""
    patch(Outbox, "waiting", lambda _: property(lambda self: False))


@bug
def takes_draining_for_the_end() -> None:
    """Close when the server says that it is draining (E3)."""

    def make(original: Any) -> Any:
        def receive(self: Conversation, data: bytes) -> None:
            original(self, data)
            if self.draining:
                self.close("draining", True)

        return receive

    patch(Conversation, "receive", make)


@bug
def drops_commands_at_closed() -> None:
    """Forget the commands that the application has not taken when `closed` comes (E2)."""

    def make(original: Any) -> Any:
        def take(self: Conversation) -> Any:
            while self.closed is not None and (item := original(self)) is not None:
                if isinstance(item, Closed):
                    return item
            return original(self)

        return take

    patch(Conversation, "take", make)


@bug
def never_half_closes() -> None:
    """Leave the call open when everything is said (E2)."""

    def make(original: Any) -> Any:
        async def write(self: stream.Stream) -> None:
            self._call = _NeverDone(self._call)  # type: ignore[assignment]
            await original(self)

        return write

    patch(stream.Stream, "_write", make)


class _NeverDone:
    def __init__(self, call: Any) -> None:
        self._call = call

    async def done_writing(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


@bug
def trusts_in_the_last_ack() -> None:
    """Take the session for over when its last ack is written, whatever the status says (A7)."""

    def make(original: Any) -> Any:
        async def run(self: stream.Stream, attach_timeout: float) -> StreamEnd | None:
            end: StreamEnd | None = await original(self, attach_timeout)
            return None if self._conversation.finished else end

        return run

    patch(stream.Stream, "run", make)
