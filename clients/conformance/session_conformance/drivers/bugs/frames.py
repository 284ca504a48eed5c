"""Bugs in single messages: F."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from session_client import SessionClient, client, stream
from session_client.conversation import Conversation

from session_service.errors import ProtocolViolation
from session_service.v1 import session_pb2 as pb

from .planting import bug, patch


@bug
def sends_no_heartbeats() -> None:
    """Say nothing when there is nothing to say (F3)."""
    patch(Conversation, "next_request", lambda original: lambda self, ack=False, heartbeat=False: original(self, ack))


@bug
def sets_a_deadline() -> None:
    """Give the call a deadline (F0)."""

    def attach(self: SessionClient, metadata: Mapping[str, str]) -> Any:
        connection = self._connections.find()
        attach: Any = connection.channel.stream_stream(client.ATTACH)
        return attach(metadata=tuple(metadata.items()), timeout=60), connection

    patch(SessionClient, "_attach", lambda _: attach)


@bug
def bears_silence() -> None:
    """Wait for ever for a server that says nothing (F3)."""
    stream.SILENT_INTERVALS = 1_000_000


@bug
def breaks_at_what_it_does_not_know() -> None:
    """Want an answer in the first response that is not empty (F6)."""

    def make(original: Any) -> Any:
        def receive(self: Conversation, data: bytes) -> None:
            if not self.attached and data and pb.AttachResponse.FromString(data).WhichOneof("control") is None:
                raise ProtocolViolation("the server began with something else")
            original(self, data)

        return receive

    patch(Conversation, "receive", make)


@bug
def gives_large_events_a_sequence() -> None:
    """Find out that an event is too large when it has a sequence (F7)."""

    def make(original: Any) -> Any:
        def send(self: Conversation, event: str, data: Any, task_id: str) -> bool:
            sent: bool = original(self, event, data, task_id) if not isinstance(data, bytes) else False
            if isinstance(data, bytes):
                most, self._max_message = self._max_message, 1 << 30
                try:
                    sent = original(self, event, data, task_id)
                finally:
                    self._max_message = most
            return sent

        return send

    patch(Conversation, "send", make)


@bug
def loses_integers() -> None:
    """Carry integers as doubles (F4)."""

    def make(original: Any) -> Any:
        def send(self: Conversation, event: str, data: Any, task_id: str) -> bool:
            sent: bool = original(self, event, int(float(data)) if type(data) is int else data, task_id)
            return sent

        return send

    patch(Conversation, "send", make)


@bug
def limits_what_it_receives() -> None:
    """Receive no more than gRPC does by itself (F7)."""
    client._OPTIONS[:] = [option for option in client._OPTIONS if option[0] != "grpc.max_receive_message_length"]
