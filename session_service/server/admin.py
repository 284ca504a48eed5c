"""The admin service, and what else is served on the admin address; admin.proto is its contract."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf import duration_pb2, message_factory
from google.protobuf.message import DecodeError, Message
from grpc_channelz.v1 import channelz, channelz_pb2

from ..config import LONGEST
from ..errors import PayloadInvalid, ProtocolError, ProtocolViolation, SessionUnknown
from ..host import SessionManager
from ..session import CloseReason, Principal
from ..session.snapshot import CallbackSnapshot, TaskSnapshot
from ..session_logger import SessionLogger
from ..v1 import admin_pb2 as pb
from ..v1 import session_pb2
from ..window import Window
from .auth import Authenticator, ExpiryTimer, metadata_of, peer_of
from .statuses import StatusGuard
from .watch.records import Record, Records, Watcher, matches

__all__ = ["ADMIN_SERVICE_NAME", "CHANNELZ_SERVICE_NAME", "AdminService", "channelz_handler"]

logger = logging.getLogger(__name__)

_CHANNELZ = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]

ADMIN_SERVICE_NAME = pb.DESCRIPTOR.services_by_name["SessionAdminService"].full_name
CHANNELZ_SERVICE_NAME = _CHANNELZ.full_name

# As admin.proto says.
PAGE_SIZE = 100
LARGEST_PAGE = 1000
MOST_TASKS = 100
LONGEST_STACK = 4000

# In characters: a function may have any name.
LONGEST_NAME = 200

Context = grpc.aio.ServicerContext[bytes, bytes]
Request = TypeVar("Request", bound=Message)


class AdminService:
    """Serves ``session_service.v1.SessionAdminService``.

    Attributes:
        records: what is known of sessions.
    """

    def __init__(
        self,
        manager: SessionManager,
        authenticate: Authenticator,
        records: Records,
        drain: Callable[[float], object],
    ) -> None:
        """Begin.

        Args:
            manager: of the sessions.
            authenticate: who calls.
            records: what is known of sessions; an observer of the manager.
            drain: makes the server drain, with a grace in seconds; called again, with a shorter one perhaps.
        """
        self._manager = manager
        self._authenticate = authenticate
        self._drain = drain
        self.records = records

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server is given; its methods take and return bytes, so that it is we who refuse a request."""
        unary = grpc.unary_unary_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            ADMIN_SERVICE_NAME,
            {
                "ListSessions": unary(self.list_sessions),
                "GetSession": unary(self.get_session),
                "WatchSessions": grpc.unary_stream_rpc_method_handler(self.watch_sessions),
                "CloseSession": unary(self.close_session),
                "Drain": unary(self.drain),
            },
        )

    async def list_sessions(self, data: bytes, context: Context) -> bytes:
        """Return a page of sessions."""
        response = pb.ListSessionsResponse()
        async with self._call(context):
            request = _decoded(pb.ListSessionsRequest, data)
            if request.page_size < 0:
                raise ProtocolViolation(f"a page of {request.page_size} sessions: page_size is 0 or more")
            size = min(request.page_size or PAGE_SIZE, LARGEST_PAGE)
            found = (
                record
                for record in self.records.after(_position(request.page_token))
                if matches(record.managed, request.app, request.principal)
                and request.state in (pb.SESSION_STATE_UNSPECIFIED, record.state)
            )
            page = list(itertools.islice(found, size))
            response.sessions.extend(record.summary() for record in page)
            if next(found, None) is not None:
                response.next_page_token = str(page[-1].number)
        return response.SerializeToString()

    async def get_session(self, data: bytes, context: Context) -> bytes:
        """Return what is known of one session."""
        response = pb.GetSessionResponse()
        async with self._call(context):
            record = self._find(_decoded(pb.GetSessionRequest, data).session_id)
            response = self._describe(record)
        return response.SerializeToString()

    async def watch_sessions(self, data: bytes, context: Context) -> None:
        """Tell of changes until the server has ended, or the watcher leaves."""
        async with self._call(context) as principal:
            request = _decoded(pb.WatchSessionsRequest, data)
            watcher = Watcher(request.app, request.principal)
            self.records.watchers.add(watcher)
            try:
                await context.send_initial_metadata(())
                with ExpiryTimer(principal, watcher.end):
                    while (change := await watcher.next()) is not None:
                        await context.write(change.SerializeToString())
            finally:
                self.records.watchers.discard(watcher)

    async def close_session(self, data: bytes, context: Context) -> bytes:
        """Close a session."""
        response = pb.CloseSessionResponse()
        async with self._call(context) as principal:
            request = _decoded(pb.CloseSessionRequest, data)
            record = self._find(request.session_id)
            managed = self._manager.get(request.session_id)
            assert managed is not None  # what is forgotten loses its record in the same step
            session = managed.session
            now = " now" if request.now else ""
            about = SessionLogger(logger, session.id)
            about.info("an administrator%s closes it%s: %.200r", _by(principal), now, request.reason)
            if request.now:
                session.close(reason=CloseReason.SERVER, message=request.reason)
            else:
                session.end_events(reason=CloseReason.SERVER, message=request.reason)
            response.session.CopyFrom(record.summary())
        return response.SerializeToString()

    async def drain(self, data: bytes, context: Context) -> bytes:
        """Make the server drain."""
        response = pb.DrainResponse()
        async with self._call(context) as principal:
            request = _decoded(pb.DrainRequest, data)
            grace = self._manager.config.shutdown_grace
            if request.HasField("grace"):
                grace = request.grace.seconds + request.grace.nanos / 1e9
                if not 0 <= grace <= LONGEST:
                    raise ProtocolViolation(f"a grace of {grace:g} s: it is 0 to {LONGEST:g}")
            logger.info("an administrator%s drains the server, with a grace of %g s", _by(principal), grace)
            left = self._manager.grace_left
            self._drain(grace)
            response.sessions = len(self._manager)
            response.grace.CopyFrom(_duration(grace if left is None else min(left, grace)))
        return response.SerializeToString()

    def end_watches(self) -> None:
        """Let those who watch know that no more will come."""
        self.records.end_watches()

    @asynccontextmanager
    async def _call(self, context: Context) -> AsyncIterator[Principal]:
        async with StatusGuard(context, _refused):
            yield self._authenticate(metadata_of(context), peer_of(context))

    def _find(self, session_id: str) -> Record:
        record = self.records.get(session_id)
        if record is None:
            raise SessionUnknown("no session here of this id: it is forgotten, or never was")
        return record

    def _describe(self, record: Record) -> pb.GetSessionResponse:
        managed, session = record.managed, record.managed.session
        inbox, outbox = managed.inbox, managed.outbox
        snapshot = session.snapshot(most=MOST_TASKS, stacks=self._manager.config.debug)
        return pb.GetSessionResponse(
            session=record.summary(),
            resume_window=_duration(managed.resume_window) if managed.resumable else None,
            attachments=record.attachments,
            events=pb.EventFlow(
                taken=inbox.taken,
                received=inbox.expected - 1,
                received_bytes=inbox.waiting_size,
                pending=snapshot.events,
                pending_bytes=snapshot.event_bytes,
                window=_window(inbox.window),
                duplicates=inbox.duplicates,
                dropped=session.dropped,
                stalls=session.event_stalls,
            ),
            commands=pb.CommandFlow(
                acked=outbox.acked,
                sent=outbox.sent,
                last=outbox.last,
                unacked_bytes=outbox.unacked_size,
                pending=snapshot.commands,
                pending_bytes=snapshot.command_bytes,
                window=_window(outbox.window),
                replayed=outbox.replayed,
                stalls=managed.command_stalls,
            ),
            tasks=[_task(task) for task in snapshot.tasks],
            task_count=snapshot.task_count,
            callbacks=[_callback(callback) for callback in snapshot.callbacks],
            callback_count=snapshot.callback_count,
        )


def channelz_handler(authenticate: Authenticator) -> grpc.GenericRpcHandler:
    """Return gRPC's own service on channels, servers and sockets of this process, for those who may call."""
    servicer = channelz.aio.ChannelzServicer()
    message_class: Callable[[Any], type[Message]] = message_factory.GetMessageClass  # its types know one descriptor
    handlers = {}
    for method in _CHANNELZ.methods:
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            _authenticated(getattr(servicer, method.name), authenticate),
            request_deserializer=message_class(method.input_type).FromString,
            response_serializer=message_class(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(CHANNELZ_SERVICE_NAME, handlers)


def _authenticated(
    method: Callable[[Message, Any], Awaitable[Message]], authenticate: Authenticator
) -> Callable[[Message, Any], Awaitable[Message]]:
    async def call(request: Message, context: Any) -> Message:
        async with StatusGuard(context, _refused):
            authenticate(metadata_of(context), peer_of(context))
        return await method(request, context)

    return call


def _refused(error: ProtocolError) -> None:
    # Not by the manager: its observers count what becomes of clients of sessions.
    logger.info("an admin call was refused, by %s", type(error).__name__)


def _by(principal: Principal) -> str:
    return f", {principal.name}," if principal.name else ""


def _decoded(kind: type[Request], data: bytes) -> Request:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise PayloadInvalid(f"the request cannot be decoded as a {kind.DESCRIPTOR.name}") from None


def _position(page_token: str) -> int:
    if not page_token:
        return 0
    if not page_token.isascii() or not page_token.isdecimal() or len(page_token) > 20:
        raise ProtocolViolation("this page_token is none of this server's: begin again without one")
    return int(page_token)


def _task(task: TaskSnapshot) -> pb.Task:
    return pb.Task(
        task_id=task.id,
        name=task.name[:LONGEST_NAME],
        waiting=task.waiting,
        pending=task.pending,
        stack=task.stack[-LONGEST_STACK:],
    )


def _callback(callback: CallbackSnapshot) -> pb.Callback:
    return pb.Callback(
        callback_id=callback.id,
        name=callback.name[:LONGEST_NAME],
        runs=callback.runs,
        running=callback.running,
        waiting=callback.waiting,
    )


def _window(window: Window) -> session_pb2.Window:
    return session_pb2.Window(messages=window.messages, bytes=window.size)


def _duration(seconds: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))
