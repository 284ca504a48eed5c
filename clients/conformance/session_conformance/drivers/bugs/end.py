"""Bugs at the end: E."""

from __future__ import annotations

from typing import Any

from session_client.conversation import Closed, Conversation

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
