"""Bugs in the delivery: D1 to D6."""

from __future__ import annotations

from typing import Any

from session_client.conversation import Conversation

from session_service.delivery import Inbox, Outbox
from session_service.v1 import session_pb2 as pb
from session_service.window import Window

from .planting import bug, change_requests, patch


@bug
def keeps_duplicates() -> None:
    """Give the application a command each time that it comes (D2)."""
    patch(Inbox, "skip", lambda original: lambda self, first, count: 0 * original(self, first, count))


@bug
def forgets_ack_of_duplicates() -> None:
    """Drop a duplicate, and say nothing (D2)."""

    def make(original: Any) -> Any:
        def skip(self: Inbox[Any], first: int, count: int) -> int:
            known: int = original(self, first, count)
            self._repeat = False
            return known

        return skip

    patch(Inbox, "skip", make)


@bug
def ignores_gaps() -> None:
    """Take what comes, though something before it is missing (D2)."""

    def make(original: Any) -> Any:
        def skip(self: Inbox[Any], first: int, count: int) -> int:
            known: int = original(self, min(first, self.expected), count)
            return known

        return skip

    patch(Inbox, "skip", make)


@bug
def numbers_anew() -> None:
    """Give an event that is sent again a sequence of its own (D1)."""

    def make(original: Any) -> Any:
        def resume(self: Outbox[Any], received: int) -> None:
            original(self, received)
            again = self.last - self.sent
            self.acked += again
            self.sent += again
            self._highest = self.last

        return resume

    patch(Outbox, "resume", make)


@bug
def forgets_unacknowledged() -> None:
    """Send nothing again (A4)."""

    def make(original: Any) -> Any:
        def resume(self: Outbox[Any], received: int) -> None:
            original(self, max(received, self._highest))

        return resume

    patch(Outbox, "resume", make)


@bug
def acks_too_early() -> None:
    """Acknowledge what the library has, whatever the application does (D4)."""

    def make(original: Any) -> Any:
        def receive(self: Conversation, data: bytes) -> None:
            original(self, data)
            self.take_all()

        return receive

    patch(Conversation, "receive", make)


@bug
def acks_the_command_in_hand() -> None:
    """Acknowledge a command as soon as the application has it (D4)."""

    def make(original: Any) -> Any:
        def take(self: Conversation) -> Any:
            item = original(self)
            self.release()
            return item

        return take

    patch(Conversation, "take", make)


@bug
def acks_only_with_events() -> None:
    """Let no ack go alone (D3)."""

    def change(_: Conversation, request: pb.AttachRequest) -> None:
        if not request.events:
            request.ack = 0

    change_requests(change)


@bug
def acks_once() -> None:
    """Acknowledge nothing again on the next stream (D3)."""

    def make(original: Any) -> Any:
        def restart_acks(self: Inbox[Any], heard: int, told: int) -> None:
            original(self, heard, max(told, self._acked))

        return restart_acks

    patch(Inbox, "restart_acks", make)


@bug
def leaves_closed_unacknowledged() -> None:
    """Half-close without an ack of `closed` (D4)."""

    def change(self: Conversation, request: pb.AttachRequest) -> None:
        if self.closed is not None and request.ack == self.inbox.taken:
            request.ack -= 1

    change_requests(change)


@bug
def stops_acks_at_close() -> None:
    """Leave what arrives after `close` to an application that reads no more (D4)."""
    patch(Conversation, "take_all", lambda _: lambda self: None)


@bug
def ignores_the_window() -> None:
    """Send whatever the application does (D5)."""
    patch(Window, "has_room", lambda _: lambda self, messages, size: True)
    patch(Window, "fits", lambda _: lambda self, messages, size, extra: True)
    patch(Outbox, "room", lambda _: lambda self: (1, 1))


@bug
def ignores_bytes_of_the_window() -> None:
    """Count events, and not their sizes (D5)."""
    patch(Window, "fits", lambda _: lambda self, messages, size, extra: messages == 0 or messages < self.messages)
    patch(Outbox, "room", lambda original: lambda self: (original(self)[0], 1))


@bug
def ignores_the_window_in_a_replay() -> None:
    """Keep to the window of the first stream (D5)."""
    first: dict[int, Window] = {}

    def make(original: Any) -> Any:
        def on_answer(self: Conversation, response: pb.AttachResponse, control: str | None) -> None:
            original(self, response, control)
            self.outbox.window = first.setdefault(id(self), self.outbox.window)

        return on_answer

    patch(Conversation, "_on_answer", make)
