"""A client that says things twice, and hears things twice, as the protocol allows (D2).

The real client waits for `resumed` and then sends what the server has not, so nobody would ever meet a duplicate.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from session_client import SessionClient
from session_client.connections import Connection
from session_client.stream import Call

from session_service.v1 import session_pb2 as pb

__all__ = ["Repeated", "RepeatingClient"]

KINDS = ("event", "command")

# One message in so many is repeated on its own stream.
EACH = 5


@dataclass
class Repeated:
    """What went over the wire more than once, in elements, as the client's end of it sees it.

    Attributes:
        events: on a stream that did not need them any more, or twice on one.
        commands: heard twice.
        events_again: sent again after a cut, since no answer said that the server has them.
        commands_again: likewise.
    """

    events: int = 0
    commands: int = 0
    events_again: int = 0
    commands_again: int = 0
    _turns: dict[str, Iterator[int]] = field(default_factory=lambda: {kind: itertools.count() for kind in KINDS})
    _last_batch: pb.AttachRequest = field(default_factory=pb.AttachRequest)
    _highest: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def is_due(self, kind: str) -> bool:
        """Tell whether this message is one of those that are repeated."""
        return next(self._turns[kind]) % EACH == 0

    def count_again(self, kind: str, first: int, count: int) -> int:
        """Return how many of ``count`` elements have been seen before."""
        highest = self._highest[kind]
        self._highest[kind] = max(highest, first + count - 1)
        return max(0, min(count, highest - first + 1))


class RepeatingClient(SessionClient):
    """A client whose streams repeat things, and count them in ``repeated``."""

    def __init__(self, target: str, repeated: Repeated, **options: Any) -> None:
        super().__init__(target, **options)
        self._repeated = repeated

    def _attach(self, metadata: Mapping[str, str]) -> tuple[Call, Connection]:
        call, connection = super()._attach(metadata)
        return cast("Call", _RepeatingCall(call, self._repeated)), connection


class _RepeatingCall:
    def __init__(self, call: Call, repeated: Repeated) -> None:
        self._call = call
        self._repeated = repeated
        self._first = True
        self._hear_again: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def write(self, data: bytes) -> None:
        repeated, request = self._repeated, pb.AttachRequest.FromString(data)
        if not request.events:
            await self._call.write(data)
            return
        batch = pb.AttachRequest(events=request.events, first_sequence=request.first_sequence)
        if self._first:  # as if it had sent before it knew what the server has
            self._first = False
            await self._repeat(repeated._last_batch, request)
        repeated._last_batch = batch
        repeated.events_again += repeated.count_again("event", request.first_sequence, len(request.events))
        await self._call.write(data)
        if repeated.is_due("event"):
            await self._repeat(batch, request)

    async def _repeat(self, batch: pb.AttachRequest, request: pb.AttachRequest) -> None:
        """Write a batch once more, unless it leaves a gap before the request or goes beyond it."""
        if not batch.events or batch.first_sequence > request.first_sequence or _end(batch) > _end(request):
            return
        self._repeated.events += len(batch.events)
        await self._call.write(batch.SerializeToString())

    async def read(self) -> Any:
        if self._hear_again is not None:
            again, self._hear_again = self._hear_again, None
            return again
        data = await self._call.read()
        if isinstance(data, bytes):
            repeated, response = self._repeated, pb.AttachResponse.FromString(data)
            count = len(response.commands)
            repeated.commands_again += repeated.count_again("command", response.first_sequence, count)
            if count and repeated.is_due("command"):
                repeated.commands += count
                batch = pb.AttachResponse(commands=response.commands, first_sequence=response.first_sequence)
                self._hear_again = batch.SerializeToString()
        return data


def _end(batch: pb.AttachRequest) -> int:
    return batch.first_sequence + len(batch.events)
