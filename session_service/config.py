"""What a server can be told: every limit and time in one frozen record."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from .window import Window

__all__ = ["GREATEST", "LISTEN", "LONGEST", "Config"]

# gRPC itself takes a missing port for 443, and 99999 for another.
LISTEN = re.compile(r"unix:.+|(?:[^:\[\]]+|\[[^\[\]]+\]):(\d{1,5})")

# gRPC counts milliseconds in 32 bits, and far above a month nobody means it.
LONGEST = 24 * 24 * 3600.0

# gRPC's numbers have 32 bits.
GREATEST = 2**31 - 1

# What a client may send before it knows its windows (protocol D5).
LEAST_EVENT_WINDOW = Window(16, 64 * 1024)

# What gRPC sends by itself, a token and a few headers of a browser take about half of it.
LEAST_METADATA = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one server.

    Attributes:
        listen: ``HOST:PORT``, port 0 for a free one, or ``unix:PATH``.
        admin_listen: like ``listen``, for the admin service, see docs/admin.md; empty for none.
        metrics_listen: ``HOST:PORT`` of the metrics, see docs/metrics.md; empty for none.
        insecure: listen on other than the loopback interface though TLS or authentication is missing.
        tls_cert: file of the server's certificate and those of its issuers, PEM; empty for no TLS.
        tls_key: file of its private key, PEM.
        tls_client_ca: file of the authorities, PEM, of which each client needs a certificate; empty for none.
        token_file: file of the bearer tokens that are let in, see server/auth/tokens.py; empty for none.
        jwt_keys: file of the keys that sign the JWTs that are let in, a JWKS or PEM; empty for none.
        jwt_issuer: what those name as their issuer.
        jwt_audience: what those name as their audience, among others perhaps.
        resume_window: seconds that a detached session is kept; a client may ask for less.
        max_sessions: the most sessions at once, those that wait to be resumed included.
        max_principal_sessions: the most of those that one principal may have; 0 for no limit of its own.
        principal_open_rate: how many sessions a second one principal may open; 0 for no limit.
        principal_event_rate: how many bytes a second of requests are read from one principal; 0 for no limit.
        max_connection_streams: the most streams of one connection; gRPC lets further ones wait in the client.
        max_threads: no thread of an app is started while the process has so many, and `asyncio.to_thread` waits; 0 for
            no limit.
        session_lifetime: seconds after which a session is closed, whatever it does; 0 for no limit.
        idle_timeout: seconds without an event or a command after which a session is closed; 0 for no limit.
        deferred_timeout: seconds that one deferred call may take.
        shutdown_grace: seconds that sessions have to end by themselves after SIGTERM.
        block_warning: seconds that code may hold the event loop before it is logged.
        debug: tell clients the tracebacks of failures.
        event_window: what a client may send and have unacknowledged; also what a session's mailboxes hold.
        command_window: what a server may send and have unacknowledged, which a client may ask to be less; also what a
            session buffers.
        max_message_bytes: the largest gRPC message either way; gRPC clients refuse more than 4 MiB by default.
        max_metadata_bytes: the most metadata of a call, counted as HTTP/2 does: names, values, and 32 for each pair.
        heartbeat_interval: seconds of silence after which an empty message is due (protocol F3).
        keepalive: seconds of silence of a connection after which the server asks whether its peer is there.
        keepalive_timeout: seconds that the peer has to answer; then its streams are lost, and their sessions detach.
        first_request_timeout: seconds that a new stream has to open or resume (protocol F1).
    """

    listen: str = "127.0.0.1:50051"
    admin_listen: str = ""
    metrics_listen: str = ""
    insecure: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    token_file: str = ""
    jwt_keys: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    resume_window: float = 120.0
    max_sessions: int = 10_000
    max_principal_sessions: int = 0
    principal_open_rate: float = 0.0
    principal_event_rate: float = 0.0
    max_connection_streams: int = 20_000
    max_threads: int = 10_000
    session_lifetime: float = 0.0
    idle_timeout: float = 0.0
    deferred_timeout: float = 10.0
    shutdown_grace: float = 30.0
    block_warning: float = 1.0
    debug: bool = False
    event_window: Window = field(default_factory=Window)
    command_window: Window = field(default_factory=Window)
    max_message_bytes: int = 4_000_000
    max_metadata_bytes: int = 16 * 1024
    heartbeat_interval: float = 25.0
    keepalive: float = 20.0
    keepalive_timeout: float = 10.0
    first_request_timeout: float = 10.0

    def __post_init__(self) -> None:
        """Check what a client relies on; raise ValueError."""
        for address in (self.listen, *filter(None, [self.admin_listen])):
            match = LISTEN.fullmatch(address)
            if match is None or int(match[1] or 0) > 65535:
                raise ValueError(f"{address!r} is neither HOST:PORT nor unix:PATH")
        if self.metrics_listen:
            match = LISTEN.fullmatch(self.metrics_listen)
            if match is None or match[1] is None or int(match[1]) > 65535:
                raise ValueError(f"{self.metrics_listen!r} is no HOST:PORT")
        self._check_security()
        for name in ("max_principal_sessions", "principal_open_rate", "principal_event_rate", "max_threads"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is no number from 0 on")
        for name in ("max_sessions", "max_connection_streams"):
            if not 0 < getattr(self, name) <= GREATEST:
                raise ValueError(f"{name} is no number from 1 to {GREATEST}")
        for name in ("resume_window", "shutdown_grace", "session_lifetime", "idle_timeout"):
            if not 0 <= getattr(self, name) <= LONGEST:  # nor is it NaN
                raise ValueError(f"{name} is no number of seconds from 0 to {LONGEST:g}")
        for name in (
            "deferred_timeout",
            "block_warning",
            "heartbeat_interval",
            "keepalive",
            "keepalive_timeout",
            "first_request_timeout",
        ):
            if not 0 < getattr(self, name) <= LONGEST:
                raise ValueError(f"{name} is no number of seconds above 0, up to {LONGEST:g}")
        least = LEAST_EVENT_WINDOW
        if self.event_window.messages < least.messages or self.event_window.size < least.size:
            raise ValueError(f"event_window must be at least {least}: clients send that much before they are told")
        if self.command_window.messages < 1 or self.command_window.size < 1:
            raise ValueError("command_window must be at least one command and one byte")
        if not least.size <= self.max_message_bytes <= GREATEST:
            raise ValueError(f"max_message_bytes is no number from {least.size} to {GREATEST}")
        if not LEAST_METADATA <= self.max_metadata_bytes <= GREATEST:
            raise ValueError(f"max_metadata_bytes is no number from {LEAST_METADATA} to {GREATEST}")

    def _check_security(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("a TLS certificate and its key need each other")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("certificates of clients need TLS: a certificate of the server, and its key")
        if self.token_file and self.jwt_keys:
            raise ValueError("either a token file or keys of JWTs: only one of them can authenticate")
        if not bool(self.jwt_keys) == bool(self.jwt_issuer) == bool(self.jwt_audience):
            raise ValueError("JWTs need their keys, their issuer and their audience")
