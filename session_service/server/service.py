"""The servicer: what gRPC calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ..errors import PayloadInvalid, ProtocolError
from ..host import SessionManager
from ..session import SessionInfo, get_session_info_from_headers
from ..session.agent import parse_user_agent
from ..v1 import info_pb2, session_pb2
from .attachment import AckTimer, Attachment, Context, read_on
from .auth import Authenticator, ExpiryTimer, metadata_of, peer_of
from .farewell import Farewell
from .statuses import StatusGuard, as_error

__all__ = ["SERVICE_NAME", "SessionService"]

parse_user_agent("")  # loads the rules, which takes 0.2 s, before the first request rather than in it

SERVICE_NAME = session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name


class SessionService:
    """Serves ``session_service.v1.SessionService``."""

    def __init__(
        self,
        manager: SessionManager,
        authenticate: Authenticator,
        enter: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        """``enter`` is called with the metadata of each attach, in the context in which it is served."""
        self._manager = manager
        self._authenticate = authenticate
        self._enter = enter
        self._acks = AckTimer()
        self._farewell = Farewell(manager)
        self._readers: set[asyncio.Task[None]] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server is given.

        Not by the generated ``add_..._to_server``: the methods take and return bytes. A command is serialised once, by
        the call that sends it, and a request that cannot be decoded is answered by us.
        """
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Attach": grpc.stream_stream_rpc_method_handler(self.attach),
                "ParseSessionInfo": grpc.unary_unary_rpc_method_handler(self.parse_session_info),
            },
        )

    async def attach(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        """Serve one stream."""
        # F0: it commits the call, so that no client library's retry policy replays its first messages.
        await context.send_initial_metadata(())
        error: ProtocolError | None
        try:
            attachment = self._begin(context)
        except Exception as refusal:
            error = as_error(refusal).with_traceback(None)
            reader = self._keep(read_on(context))
        else:
            reader = self._keep(attachment.read())
            with ExpiryTimer(attachment.principal, attachment.fail):
                error = await attachment.run()
            del attachment  # gRPC keeps an abort, and with it this frame, until the garbage collector comes
        await self._farewell.say(context, reader, error)

    def hurry(self) -> None:
        """End the calls that only wait for their client's half-close (E2)."""
        self._farewell.hurry()

    def _keep(self, reading: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Read in a task. It ends by itself, with the call: a read that is cancelled leaks 100 bytes in grpc's core."""
        reader = asyncio.create_task(reading)
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        return reader

    def _begin(self, context: Context) -> Attachment:
        metadata = metadata_of(context)
        principal = self._authenticate(metadata, peer_of(context))
        if self._enter is not None:
            self._enter(metadata)
        return Attachment(context, self._manager, self._acks, principal, metadata)

    async def parse_session_info(self, data: bytes, context: Context) -> bytes:
        """Tell what headers say about a client: those of the request, else those of the call."""
        response = info_pb2.ParseSessionInfoResponse()
        async with StatusGuard(context, self._manager.refused):
            metadata = metadata_of(context)
            self._authenticate(metadata, peer_of(context))
            try:
                request = info_pb2.ParseSessionInfoRequest.FromString(data)
            except DecodeError:
                raise PayloadInvalid("the request cannot be decoded as a ParseSessionInfoRequest") from None
            info = get_session_info_from_headers(request.headers or metadata, context.peer())
            response.info.CopyFrom(_to_proto(info))
        return response.SerializeToString()


def _to_proto(info: SessionInfo) -> info_pb2.SessionInfo:
    agent = info.user_agent
    return info_pb2.SessionInfo(
        user_agent=info_pb2.UserAgent(
            text=info.user_agent_text,
            browser=agent.browser.family,
            browser_version=agent.browser.version_string,
            os=agent.os.family,
            os_version=agent.os.version_string,
            device=agent.device.family,
            device_brand=agent.device.brand or "",
            device_model=agent.device.model or "",
            mobile=agent.is_mobile,
            tablet=agent.is_tablet,
            pc=agent.is_pc,
            touch=agent.is_touch_capable,
            bot=agent.is_bot,
        ),
        user_language=info.user_language,
        server_host=info.server_host,
        origin=info.origin,
        peer=info.peer,
    )
