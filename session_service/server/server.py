"""A server: the port, the services on it, and how it stops."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ..config import Config
from ..manager import App, Drained, SessionManager
from .auth import Authenticate, anonymous
from .service import SERVICE_NAME, SessionService

__all__ = ["Server"]

logger = logging.getLogger(__name__)

# What lingers when everything is done, such as a health watch or a client that does not read, gets this many seconds.
STOP_GRACE = 0.5


class Server:
    """Serves apps on one address, with health and reflection.

    Attributes:
        manager: its sessions.
        address: where it listens; a port 0 has become a real one.
    """

    def __init__(
        self, apps: Mapping[str, App], config: Config | None = None, authenticate: Authenticate = anonymous
    ) -> None:
        self.manager = SessionManager(apps, config)
        self.address = ""
        self._authenticate = authenticate
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> str:
        """Listen, and return the address.

        Raises:
            OSError: the address cannot be had.
        """
        config = self.manager.config
        _quieten_grpc()
        server = grpc.aio.server(options=_options(config))
        server.add_generic_rpc_handlers((SessionService(self.manager, self._authenticate).handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        _add_reflection(server)
        try:
            if _is_served(config.listen):
                raise RuntimeError("gRPC would take a unix socket away from the server that listens there")
            port = server.add_insecure_port(config.listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {config.listen}: in use, or no address of this machine") from error
        await server.start()
        self._server = server
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        host, _, _ = config.listen.rpartition(":")
        self.address = config.listen if config.listen.startswith("unix:") else f"{host}:{port}"
        return self.address

    async def drain(self, grace: float | None = None) -> Drained:
        """Shut down in good order (E3): at the latest 20 s after ``grace`` seconds everything has ended.

        Args:
            grace: None for the one of the config.
        """
        grace = self.manager.config.shutdown_grace if grace is None else grace
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        drained = await self.manager.drain(grace)
        if drained.undelivered:
            logger.warning(
                "shut down with %d sessions whose clients have not had everything: %d commands are lost",
                drained.undelivered,
                drained.commands,
            )
        await self.stop()
        return drained

    async def stop(self) -> None:
        """Stop at once; streams that are left end as UNAVAILABLE."""
        if self._server is not None:
            await self._server.stop(STOP_GRACE)
            self._server = None

    async def _set_health(self, status: int) -> None:
        for service in ("", SERVICE_NAME):
            await self._health.set(service, status)


def _options(config: Config) -> list[tuple[str, int]]:
    return [
        # Two servers on one port would share its connections, and a resume would reach the wrong one.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        # keepalive_timeout_ms is ignored where the peer acknowledges TCP but not HTTP/2 (grpc/grpc#39239), so
        # ping_timeout_ms is set, too.
        ("grpc.keepalive_time_ms", round(config.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", round(config.keepalive_timeout * 1000)),
        ("grpc.http2.ping_timeout_ms", round(config.keepalive_timeout * 1000)),
        # A client that asks as often as we do must not be taken for an abuser, whatever the jitter of its timers.
        ("grpc.http2.min_ping_interval_without_data_ms", round(config.keepalive * 500)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Else the window of each stream grows to 4 to 6 MiB, all of it memory when the receiver does not read.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 256 * 1024),
        # By default a storm of reconnects is refused at random from 1,000 calls on (grpc/grpc#38164).
        ("grpc.server.max_pending_requests", 20_000),
        ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ]


def _is_served(listen: str) -> bool:
    """Tell whether somebody listens on a unix socket already; a file that a dead server left may be replaced."""
    if not listen.startswith("unix:"):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(listen.removeprefix("unix:")) == 0


def _add_reflection(server: grpc.aio.Server) -> None:
    reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)


class _Noise(logging.Filter):
    """Keeps grpc.aio from reporting at ERROR, with a traceback, that a client has gone: that is daily life here."""

    _TEXTS = ("ExecuteBatchError raised in core", "Exception not handled by _handle_exceptions")

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self._TEXTS)


def _quieten_grpc() -> None:
    grpc_logger = logging.getLogger("grpc._cython.cygrpc")
    if not any(isinstance(known, _Noise) for known in grpc_logger.filters):
        grpc_logger.addFilter(_Noise())
