"""A client of one server."""

from __future__ import annotations

import asyncio
import functools
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
from google.protobuf import duration_pb2

from session_service import payload
from session_service.address import is_local
from session_service.v1 import session_pb2 as pb
from session_service.window import Window

from . import mistakes
from .attachment import Attachment
from .connections import Connection, Connections
from .conversation import Conversation, Position
from .errors import SessionEnded
from .retry import RetryPolicy
from .session import ClientSession, Credentials
from .stream import Call

__all__ = ["SessionClient"]

ATTACH = "/session_service.v1.SessionService/Attach"

_OPTIONS = [
    ("grpc.http2.max_pings_without_data", 0),
    # The library comes back by itself: the channel must not sit out its own delays, two minutes by default.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A retry policy would replay the first messages of a stream.
    ("grpc.enable_retries", 0),
    # `Limits` says how large a message may be (protocol F7).
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Each channel has a connection of its own, else a further one would bring no further streams.
    ("grpc.use_local_subchannel_pool", 1),
]


class SessionClient:
    """Opens and resumes the sessions of one server.

    ::

        async with SessionClient("localhost:50051") as client:
            async with client.open("greet", params={"name": "Ada"}) as session:
                async for command in session:
                    await session.send_event("answer", 36, task_id=command.task_id)
            print(session.closed.reason)
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: Credentials | None = None,
        channel_credentials: grpc.ChannelCredentials | None = None,
        retry: RetryPolicy | None = None,
        command_window: Window | None = None,
        keepalive: float = 20.0,
        keepalive_timeout: float = 10.0,
        on_attachment: Callable[[Attachment], None] | None = None,
    ) -> None:
        """Make a client; nothing is connected before a session is opened.

        Args:
            target: ``HOST:PORT`` or ``unix:PATH``, or another of gRPC's names, such as ``dns:///HOST:PORT``.
            credentials: asked at each attach for metadata, such as ``{"authorization": "Bearer ..."}``; sync or async.
            channel_credentials: for TLS; None for plain text.
            retry: how it comes back after a lost connection.
            command_window: how many commands, and bytes, may wait for the application; None for 1,024 and 1 MiB.
            keepalive: seconds of silence of the connection after which to ask whether the server is there; less than
                half of the server's own setting, which is 20 by default, would be taken for abuse.
            keepalive_timeout: seconds that the server has to answer; then the connection counts as lost.
            on_attachment: called when a session is attached, resumed or has lost its stream.

        Raises:
            ValueError: the target can be none; it says what to write instead.
        """
        mistakes.check_target(target)
        self._credentials = credentials
        self._secure = channel_credentials is not None
        self._policy = retry or RetryPolicy()
        self._command_window = command_window or Window()
        self._on_attachment = on_attachment
        options = [
            *_OPTIONS,
            ("grpc.keepalive_time_ms", round(keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", round(keepalive_timeout * 1000)),
            # keepalive_timeout_ms alone is not enough (grpc/grpc#39239)
            ("grpc.http2.ping_timeout_ms", round(keepalive_timeout * 1000)),
            # Container engines hand http_proxy to every container, and gRPC would take even this machine through it.
            ("grpc.enable_http_proxy", int(not is_local(target))),
        ]
        # No method of this object, for that were a cycle: what gRPC holds has to die with the client, not at a
        # garbage collection (a fork copies it).
        self._connections = Connections(functools.partial(_make_channel, target, channel_credentials, options))
        self._sessions: weakref.WeakSet[ClientSession] = weakref.WeakSet()
        self._closed = False

    async def __aenter__(self) -> SessionClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the server keeps sessions that are not closed for their resume window.

        One that is being opened, or whose opening was given up, is closed first, which takes 5 seconds at most.
        """
        self._closed = True
        await asyncio.gather(*(session._abandon() for session in self._sessions))
        await self._connections.close()

    def open(
        self,
        app: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        resumable: bool = True,
        resume_window: float | None = None,
        request_id: str | None = None,
    ) -> ClientSession:
        """Return a new session; ``async with`` opens it.

        Args:
            app: the name of the app.
            params: JSON values for it.
            headers: those of the person's browser, for the session's information; see ParseSessionInfo.
            resumable: whether it outlives a lost connection.
            resume_window: seconds that the server shall keep it without a connection; None for what the server allows.
            request_id: makes repeating this open safe; None for a random UUID.

        Raises:
            PayloadError: ``params`` cannot be carried exactly.
        """
        opening = pb.Open(
            app=app,
            params=payload.encode_struct(params or {}, "params"),
            headers=headers or {},
            resumable=resumable,
            command_format=pb.PAYLOAD_FORMAT_JSON,
        )
        if resumable:
            opening.request_id = request_id or str(uuid.uuid4())
            opening.client_id = str(uuid.uuid4())
            opening.command_window.messages = self._command_window.messages
            opening.command_window.bytes = self._command_window.size
        if resume_window is not None:
            opening.resume_window.CopyFrom(
                duration_pb2.Duration(seconds=int(resume_window), nanos=int(resume_window % 1 * 1e9))
            )
        return self._session(opening, None)

    def resume(self, position: Position) -> ClientSession:
        """Return a session that another process, or this one, has left; ``async with`` resumes it.

        Commands after ``position.received`` come again. Events after what the server has taken over died with the
        other process; `ClientSession.taken_over` says where to go on.
        """
        return self._session(None, position)

    def _session(self, opening: pb.Open | None, position: Position | None) -> ClientSession:
        conversation = Conversation(opening, position, self._command_window)
        return ClientSession(
            conversation,
            self._enter,
            self._attach,
            self._secure,
            self._credentials,
            self._policy,
            self._on_attachment,
        )

    def _enter(self, session: ClientSession) -> None:
        if self._closed:
            raise SessionEnded("the client is closed: make a new one")
        self._sessions.add(session)

    def _attach(self, metadata: Mapping[str, str]) -> tuple[Call, Connection]:
        connection = self._connections.find()
        # As bytes: a response that does not decode would look like the end of the stream (protocol D7).
        attach: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = connection.channel.stream_stream(ATTACH)
        return attach(metadata=tuple(metadata.items())), connection


def _make_channel(
    target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)
