"""What a server can be told: every limit and time in one frozen record."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .window import Window

__all__ = ["LISTEN", "LONGEST", "Config"]

# gRPC itself takes a missing port for 443, and 99999 for another.
LISTEN = re.compile(r"unix:.+|(?:[^:\[\]]+|\[[^\[\]]+\]):(\d{1,5})")

# gRPC counts milliseconds in 32 bits, and far above a month nobody means it.
LONGEST = 24 * 24 * 3600.0

# What a client may send before it knows its windows (protocol D5).
LEAST_EVENT_WINDOW = Window(16, 64 * 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one server.

    Attributes:
        listen: ``HOST:PORT``, port 0 for a free one, or ``unix:PATH``.
        resume_window: seconds that a detached session is kept; a client may ask for less.
        max_sessions: the most sessions at once, those that wait to be resumed included.
        shutdown_grace: seconds that sessions have to end by themselves after SIGTERM.
        debug: tell clients the tracebacks of failures.
        event_window: what a client may send and have unacknowledged; also what a session's mailboxes hold.
        command_window: what a server may send and have unacknowledged, which a client may ask to be less; also what a
            session buffers.
        max_message_bytes: the largest gRPC message either way; gRPC clients refuse more than 4 MiB by default.
        heartbeat_interval: seconds of silence after which an empty message is due (protocol F3).
        keepalive: seconds of silence of a connection after which the server asks whether its peer is there.
        keepalive_timeout: seconds that the peer has to answer; then its streams are lost, and their sessions detach.
        first_request_timeout: seconds that a new stream has to open or resume (protocol F1).
    """

    listen: str = "127.0.0.1:50051"
    resume_window: float = 120.0
    max_sessions: int = 10_000
    shutdown_grace: float = 30.0
    debug: bool = False
    event_window: Window = field(default_factory=Window)
    command_window: Window = field(default_factory=Window)
    max_message_bytes: int = 4_000_000
    heartbeat_interval: float = 25.0
    keepalive: float = 20.0
    keepalive_timeout: float = 10.0
    first_request_timeout: float = 10.0

    def __post_init__(self) -> None:
        """Check what a client relies on; raise ValueError."""
        match = LISTEN.fullmatch(self.listen)
        if match is None or int(match[1] or 0) > 65535:
            raise ValueError(f"{self.listen!r} is neither HOST:PORT nor unix:PATH")
        for name in ("resume_window", "shutdown_grace"):
            if not 0 <= getattr(self, name) <= LONGEST:  # nor is it NaN
                raise ValueError(f"{name} is no number of seconds from 0 to {LONGEST:g}")
        for name in ("heartbeat_interval", "keepalive", "keepalive_timeout", "first_request_timeout"):
            if not 0 < getattr(self, name) <= LONGEST:
                raise ValueError(f"{name} is no number of seconds above 0, up to {LONGEST:g}")
        least = LEAST_EVENT_WINDOW
        if self.event_window.messages < least.messages or self.event_window.size < least.size:
            raise ValueError(f"event_window must be at least {least}: clients send that much before they are told")
        if self.max_message_bytes < least.size:
            raise ValueError(f"max_message_bytes must be at least {least.size}")
