"""A server: the port, the services on it, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ..address import is_local
from ..config import Config
from ..host import App, Drained, SessionManager
from ..host.observers import Observer
from .addresses import addresses_of
from .admin import ADMIN_SERVICE_NAME, CHANNELZ_SERVICE_NAME, AdminService, channelz_handler
from .auth import Authenticator, anonymous, certificate_subject
from .auth.reload import INTERVAL, Reloading
from .auth.tls import Certificates
from .auth.tokens import TokenFile
from .executor import GrowingExecutor
from .forks import let_go
from .reflection import reflection_handlers
from .service import SERVICE_NAME, SessionService
from .watch.records import Records
from .watch.watchdog import Watchdog

if TYPE_CHECKING:
    from .watch.metrics import Metrics, MetricsEndpoint
    from .watch.traces import Traces

__all__ = ["Server"]

logger = logging.getLogger(__name__)

# A name of the health service: it is serving until the server stops, for one that drains is alive.
LIVE = "live"

# What lingers when everything is done, such as a health watch or a client that does not read, gets this many seconds.
STOP_GRACE = 0.5


class Server:
    """Serves apps on one address, with health and reflection, and the admin service on another.

    Attributes:
        manager: its sessions.
        address: where it listens; a port 0 has become a real one.
        admin_address: where the admin service listens; empty where it does not.
        on_drain: called with the grace, in seconds, when an administrator drains the server, and again when one who
            wants it sooner does. By default it drains and stops.
        metrics_address: where its metrics are; empty where there are none.
        files: certificates, tokens and keys, which it loads again when they change.
    """

    def __init__(
        self,
        apps: Mapping[str, App],
        config: Config | None = None,
        authenticate: Authenticator | None = None,
        *,
        observers: Iterable[Observer] = (),
    ) -> None:
        """Load what the server needs.

        Args:
            apps: by their names.
            config: the settings; None for the defaults.
            authenticate: who calls; None for what the settings say.
            observers: who else is told what becomes of sessions.

        Raises:
            OSError, ValueError: a file of the settings is no good, or they would open the server to anybody.
            TypeError: one of ``apps`` is no app; the text says why.
        """
        self.address = ""
        self.admin_address = ""
        self.on_drain: Callable[[float], object] = self._start_drain
        self.metrics_address = ""
        self.files: list[Reloading[Any]] = []
        config = config or Config()
        self._authenticate = authenticate or self._configured_authenticator(config)
        self._certificates: Certificates | None = None
        if config.tls_cert:
            self._certificates = Certificates(config.tls_cert, config.tls_key, config.tls_client_ca)
            self.files.append(self._certificates.files)
        self._dangers = [danger for danger in map(self._exposure, (config.listen, config.admin_listen)) if danger]
        if self._dangers and not config.insecure:
            raise ValueError(f"{self._dangers[0]}: set them up, listen on 127.0.0.1, or allow it by --insecure")
        self._metrics: Metrics | None = None
        self._metrics_endpoints: list[MetricsEndpoint] = []
        if config.metrics_listen:
            from .watch.metrics import Metrics  # needs the extra `prometheus`

            self._metrics = Metrics(apps, self.files, lambda: self.manager)
        self._traces = _configured_traces()
        records = Records() if config.admin_listen else None
        told = [observer for observer in (records, self._metrics, self._traces) if observer is not None]
        around = self._traces.around if self._traces is not None else None
        self.manager = SessionManager(apps, config, observers=(*told, *observers), around=around)
        self._admin: AdminService | None = None
        if records is not None:
            self._admin = AdminService(self.manager, self._authenticate, records, lambda grace: self.on_drain(grace))
        self._watcher: asyncio.Task[None] | None = None
        self._watchdog: Watchdog | None = None
        _servers.add(self)
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._service: SessionService | None = None
        self._admin_server: grpc.aio.Server | None = None
        self._draining: asyncio.Task[Drained] | None = None

    async def start(self) -> str:
        """Listen, and return the address.

        A loop of asyncio without a default executor gets a `GrowingExecutor`, for `asyncio.to_thread` in apps.

        Raises:
            OSError: the address cannot be had.
        """
        config = self.manager.config
        _quieten_grpc()
        _let_executor_grow(config)
        server = grpc.aio.server(options=_options(config))
        enter = self._traces.enter if self._traces is not None else None
        service = SessionService(self.manager, self._authenticate, enter)
        server.add_generic_rpc_handlers((service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SERVICE_NAME, health.SERVICE_NAME)
        server.add_generic_rpc_handlers(reflection_handlers(names, self._authenticate, self.manager.refused))
        address = self._bind(server, config.listen)
        admin_server = self._make_admin_server()
        if self._metrics is not None:
            self._serve_metrics(self._metrics, config.metrics_listen)
            logger.info("metrics at http://%s/metrics", self.metrics_address)
        if admin_server is not None:
            await admin_server.start()
            self._admin_server = admin_server
            logger.info("the admin service listens on %s", self.admin_address)
        await server.start()
        self._server, self._service = server, service
        self._watchdog = Watchdog(config.block_warning)
        if self._metrics is not None:
            self._metrics.watchdog = self._watchdog
        for danger in self._dangers:
            logger.warning("%s", danger)
        if self.files:
            self._watcher = asyncio.create_task(self._watch_files(), name="watch files")
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        await self._health.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
        if self._admin is not None:
            await self._health.set(ADMIN_SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
        self.address = address
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
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        if self._server is not None and self._service is not None:
            asyncio.get_running_loop().call_later(STOP_GRACE / 2, self._service.hurry)  # to end, not to be cancelled
            await self._server.stop(STOP_GRACE)
            self._server = self._service = None
        if self._admin_server is not None and self._admin is not None:  # last, to tell of the end
            self._admin.end_watches()
            await self._admin_server.stop(STOP_GRACE)
            self._admin_server = None
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        if self._metrics is not None:
            self._metrics.lag.stop()
        while self._metrics_endpoints:
            self._metrics_endpoints.pop().stop()

    def _configured_authenticator(self, config: Config) -> Authenticator:
        if config.token_file:
            tokens = TokenFile(config.token_file)
            self.files.append(tokens.files)
            return tokens
        if config.jwt_keys:
            from .auth.jwt import JsonWebTokens  # needs the extra `jwt`

            jwts = JsonWebTokens(config.jwt_keys, config.jwt_issuer, config.jwt_audience)
            self.files.append(jwts.files)
            return jwts
        return certificate_subject if config.tls_client_ca else anonymous

    def _bind(self, server: grpc.aio.Server, listen: str) -> str:
        """Give a server its port at each address that ``listen`` stands for, and return ``listen`` with that port."""
        try:
            if not listen.startswith("unix:"):
                for address in addresses_of(listen, dual_stack=True):  # gRPC takes 0.0.0.0 for [::]
                    self._add_port(server, address)
                return f"{listen.rpartition(':')[0]}:{address.rpartition(':')[2]}"
            if _is_served(listen):
                raise OSError("in use")  # gRPC would take a unix socket away from the server that listens there
            self._add_port(server, listen)
        except OSError as error:
            raise OSError(f"cannot listen on {listen}: {error}") from error
        return listen

    def _add_port(self, server: grpc.aio.Server, address: str) -> None:
        try:
            if self._certificates is not None:
                server.add_secure_port(address, self._certificates.credentials())
            else:
                server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError("in use, or no address of this machine") from error

    def _serve_metrics(self, metrics: Metrics, listen: str) -> None:
        from .watch.metrics import MetricsEndpoint

        try:
            for address in addresses_of(listen):
                self._metrics_endpoints.append(MetricsEndpoint(address, metrics))
        except OSError as error:
            raise OSError(f"cannot listen on {listen} for metrics: {error}") from error
        self.metrics_address = f"{listen.rpartition(':')[0]}:{address.rpartition(':')[2]}"
        metrics.lag.start()

    def _make_admin_server(self) -> grpc.aio.Server | None:
        if self._admin is None:
            return None
        server = grpc.aio.server(options=_options(self.manager.config))
        names = (ADMIN_SERVICE_NAME, CHANNELZ_SERVICE_NAME, health.SERVICE_NAME)
        server.add_generic_rpc_handlers(
            (
                self._admin.handler(),
                channelz_handler(self._authenticate),
                *reflection_handlers(names, self._authenticate, lambda _: None),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self.admin_address = self._bind(server, self.manager.config.admin_listen)
        return server

    def left_behind(self) -> None:
        """Let go of what a forked process has copied; called there."""
        for managed in self.manager:
            managed.session.left_behind()
        let_go((self.address, self.admin_address, self.metrics_address))

    def _start_drain(self, grace: float) -> None:
        if self._draining is None and not self.manager.draining:
            self._draining = asyncio.get_running_loop().create_task(self.drain(grace), name="drain")
        else:
            self.manager.shorten_grace(grace)

    def _exposure(self, address: str) -> str:
        """Return what makes an address dangerous; empty where nothing does."""
        missing = ["TLS"] if self._certificates is None else []
        if self._authenticate is anonymous:
            missing.append("authentication")
        if not missing or not address or is_local(address):
            return ""
        return f"{address} can be reached from other machines, without {' and '.join(missing)}"

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            for files in self.files:
                files.look()

    async def _set_health(self, status: int) -> None:
        for service in ("", SERVICE_NAME):
            await self._health.set(service, status)


_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _leave_behind() -> None:
    for server in list(_servers):
        server.left_behind()


os.register_at_fork(after_in_child=_leave_behind)


def _let_executor_grow(config: Config) -> None:
    loop = asyncio.get_running_loop()
    # There is no public way to ask whether one is set. uvloop does not say: then that is up to whose loop it is.
    if getattr(loop, "_default_executor", loop) is None:
        loop.set_default_executor(GrowingExecutor(loop, config.max_threads))


def _options(config: Config) -> list[tuple[str, int]]:
    return [
        # Two servers on one port would share its connections, and a resume would reach the wrong one.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        # By default gRPC refuses what is between a soft limit, of 8 KB, and a hard one, of 16, at random.
        ("grpc.max_metadata_size", config.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", config.max_metadata_bytes),
        # keepalive_timeout_ms is ignored where the peer acknowledges TCP but not HTTP/2 (grpc/grpc#39239), so
        # ping_timeout_ms is set, too.
        ("grpc.keepalive_time_ms", round(config.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", round(config.keepalive_timeout * 1000)),
        ("grpc.http2.ping_timeout_ms", round(config.keepalive_timeout * 1000)),
        # A client that asks as often as we do must not be taken for an abuser, whatever the jitter of its timers. Nor
        # must one that asks more often: gRPC would end its connection, sessions and all, and a ping costs us little.
        ("grpc.http2.min_ping_interval_without_data_ms", round(config.keepalive * 500)),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_concurrent_streams", config.max_connection_streams),
        # Else the window of each stream grows to 4 to 6 MiB, all of it memory when the receiver does not read.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 256 * 1024),
        # By default a storm of reconnects is refused at random from 1,000 calls on (grpc/grpc#38164).
        ("grpc.server.max_pending_requests", 20_000),
        ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ]


def _configured_traces() -> Traces | None:
    try:
        from .watch.traces import Traces, configured
    except ImportError:  # the extra `otel` is not installed
        return None
    return Traces() if configured() else None


def _is_served(listen: str) -> bool:
    """Tell whether somebody listens on a unix socket already; a file that a dead server left may be replaced."""
    if not listen.startswith("unix:"):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(listen.removeprefix("unix:")) == 0


class _Noise(logging.Filter):
    """Keeps grpc.aio from reporting at ERROR, with a traceback, that a client has gone: that is daily life here."""

    _TEXTS = ("ExecuteBatchError raised in core", "Exception not handled by _handle_exceptions")

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self._TEXTS)


def _quieten_grpc() -> None:
    grpc_logger = logging.getLogger("grpc._cython.cygrpc")
    if not any(isinstance(known, _Noise) for known in grpc_logger.filters):
        grpc_logger.addFilter(_Noise())
