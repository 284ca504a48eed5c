"""How a bug is planted: a method is put in the place of another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from session_client import stream
from session_client.conversation import Conversation
from session_client.stream import StreamEnd

from session_service.v1 import session_pb2 as pb

__all__ = [
    "BUGS",
    "bug",
    "change_ends",
    "change_first_requests",
    "change_requests",
    "change_responses",
    "patch",
]

BUGS: dict[str, Callable[[], None]] = {}
"""What breaks the library, by name."""


def bug(plant: Callable[[], None]) -> Callable[[], None]:
    """Add a function to `BUGS`."""
    BUGS[plant.__name__] = plant
    return plant


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put something else in the place of a method."""
    setattr(owner, name, make(getattr(owner, name)))


def change_requests(change: Callable[[Conversation, pb.AttachRequest], None]) -> None:
    """Change the requests that a client writes, but the first of each stream."""

    def make(original: Any) -> Any:
        def next_request(self: Conversation, ack: bool = False, heartbeat: bool = False) -> bytes | None:
            data = original(self, ack, heartbeat)
            if data is None:
                return None
            request = pb.AttachRequest.FromString(data)
            change(self, request)
            return request.SerializeToString()

        return next_request

    patch(Conversation, "next_request", make)


def change_first_requests(change: Callable[[Conversation, pb.AttachRequest], None]) -> None:
    """Change the first request that a client writes on each stream."""

    def make(original: Any) -> Any:
        def first_request(self: Conversation) -> bytes:
            request = pb.AttachRequest.FromString(original(self))
            change(self, request)
            return request.SerializeToString()

        return first_request

    patch(Conversation, "first_request", make)


def change_ends(change: Callable[[StreamEnd], StreamEnd]) -> None:
    """Change what the client understands of how a stream ended."""

    def make(original: Any) -> Any:
        async def find_end(self: stream.Stream) -> StreamEnd:
            return change(await original(self))

        return find_end

    patch(stream.Stream, "_find_end", make)


def change_responses(change: Callable[[pb.AttachResponse], object]) -> None:
    """Change the responses that a client gets."""

    def make(original: Any) -> Any:
        def receive(self: Conversation, data: bytes) -> None:
            response = pb.AttachResponse.FromString(data)
            change(response)
            original(self, response.SerializeToString())

        return receive

    patch(Conversation, "receive", make)
