"""What a server can be told: every limit and time in one frozen record.

Each setting is written once, here: its name, type, default and kind, and the sentence that says what it is. `serve`
makes its options of them, and a test compares README's table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from .window import Window

__all__ = ["ADDRESS", "GREATEST", "LISTEN", "LONGEST", "SECONDS", "Config", "Kind"]

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


@dataclass(frozen=True, slots=True)
class Kind:
    """What the value of a setting can be.

    Attributes:
        metavar: what stands for it in ``--help``.
        allows: tells whether it can be this one.
        fault: what is said of any other, with ``{name}`` and ``{value}`` in it.
    """

    metavar: str
    allows: Callable[[Any], bool] = lambda _: True
    fault: str = ""


def _is_address(text: str) -> bool:
    match = LISTEN.fullmatch(text)
    return match is not None and int(match[1] or 0) <= 65535


def _between(metavar: str, least: int) -> Kind:
    return Kind(
        metavar,
        lambda value: least <= value <= GREATEST,
        f"{{name}} is no number from {least} to {GREATEST}: {{value}}",
    )


def _window(least: Window, why: str = "") -> Kind:
    return Kind(
        "MESSAGES,BYTES",
        lambda value: value.messages >= least.messages and value.size >= least.size,
        f"{{name}} must be at least {least.messages},{least.size}{why}: {{value.messages}},{{value.size}}",
    )


FLAG, TEXT, FILE = Kind(""), Kind("TEXT"), Kind("FILE")
ADDRESS = Kind("HOST:PORT", _is_address, "{value!r} is neither HOST:PORT nor unix:PATH")
ADDRESS_IF_ANY = Kind("HOST:PORT", lambda text: not text or _is_address(text), ADDRESS.fault)
PORT_IF_ANY = Kind(
    "HOST:PORT",
    lambda text: not text or (_is_address(text) and not text.startswith("unix:")),
    "{value!r} is no HOST:PORT",
)
# Neither of them is NaN.
SECONDS = Kind(
    "SECONDS",
    lambda value: 0 <= value <= LONGEST,
    f"{{name}} is no number of seconds from 0 to {LONGEST:.0f}: {{value:g}}",
)
SOME_SECONDS = Kind(
    "SECONDS",
    lambda value: 0 < value <= LONGEST,
    f"{{name}} is no number of seconds above 0, up to {LONGEST:.0f}: {{value:g}}",
)
RATE = Kind("RATE", lambda value: 0 <= value < math.inf, "{name}: {value:g} is no number from 0 on")
NUMBER, COUNT = _between("N", 0), _between("N", 1)
MESSAGE, METADATA = _between("BYTES", LEAST_EVENT_WINDOW.size), _between("BYTES", LEAST_METADATA)
EVENT_WINDOW = _window(LEAST_EVENT_WINDOW, ", which clients send before they are told")
COMMAND_WINDOW = _window(Window(1, 1))


def _setting(default: object, kind: Kind, sentence: str, *, option: bool = True) -> Any:
    """Return a field; ``option`` says whether it is one of ``serve``."""
    return field(default=default, metadata={"kind": kind, "sentence": sentence, "option": option})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one server; each has a sentence that says what it is."""

    listen: str = _setting(
        "127.0.0.1:50051",
        ADDRESS,
        "where to listen: HOST:PORT, port 0 for a free one, or unix:PATH; a name means all its addresses, and all"
        " must be free",
    )
    admin_listen: str = _setting(
        "", ADDRESS_IF_ANY, "where the admin service listens: HOST:PORT or unix:PATH; none by default"
    )
    metrics_listen: str = _setting(
        "", PORT_IF_ANY, "where Prometheus finds metrics, by the extra prometheus; none by default"
    )
    insecure: bool = _setting(
        False, FLAG, "listen on other than the loopback interface though TLS or authentication is missing"
    )
    tls_cert: str = _setting(
        "", FILE, "file of the server's certificate and those of its issuers, PEM; loaded again when it changes"
    )
    tls_key: str = _setting("", FILE, "file of its private key, PEM")
    tls_client_ca: str = _setting(
        "", FILE, "file of the authorities, PEM, of which each client needs a certificate (mTLS)"
    )
    token_file: str = _setting("", FILE, "file of the bearer tokens that are let in; session-service token makes them")
    jwt_keys: str = _setting(
        "", FILE, "file of the keys, a JWKS or PEM, that sign the JWTs that are let in; needs the extra jwt"
    )
    jwt_issuer: str = _setting("", TEXT, "the issuer that a JWT must name")
    jwt_audience: str = _setting("", TEXT, "the audience that a JWT must name")
    resume_window: float = _setting(
        120.0, SECONDS, "seconds that a session waits for its client at most, who may ask for less"
    )
    max_sessions: int = _setting(10_000, COUNT, "the most sessions at once, those that wait for their client included")
    max_principal_sessions: int = _setting(0, NUMBER, "the most of one principal; 0 for no limit of its own")
    principal_open_rate: float = _setting(0.0, RATE, "sessions a second that one principal may open; 0 for no limit")
    principal_event_rate: float = _setting(
        0.0, RATE, "bytes a second that are read from one principal, who waits beyond; 0 for no limit"
    )
    max_connection_streams: int = _setting(
        20_000, COUNT, "the most streams of one connection; further ones wait in the client"
    )
    max_threads: int = _setting(10_000, NUMBER, "the most threads of the process that apps may add to; 0 for no limit")
    max_message_bytes: int = _setting(4_000_000, MESSAGE, "the largest message, either way")
    max_metadata_bytes: int = _setting(
        16 * 1024, METADATA, "the most metadata of a call: names, values, and 32 for each pair, as HTTP/2 counts"
    )
    event_window: Window = _setting(  # noqa: RUF009 - a field
        Window(), EVENT_WINDOW, "what a client may send unacknowledged: messages, bytes"
    )
    command_window: Window = _setting(  # noqa: RUF009 - a field
        Window(), COMMAND_WINDOW, "what is sent unacknowledged to a client, which may ask for less: messages, bytes"
    )
    session_lifetime: float = _setting(
        0.0, SECONDS, "seconds after which a session is closed, whatever it does; 0 for no limit"
    )
    idle_timeout: float = _setting(
        0.0, SECONDS, "seconds without an event or a command after which a session is closed; 0 for no limit"
    )
    deferred_timeout: float = _setting(10.0, SOME_SECONDS, "seconds that one deferred call of an app may take")
    shutdown_grace: float = _setting(30.0, SECONDS, "seconds that sessions go on after SIGTERM or SIGINT")
    block_warning: float = _setting(
        1.0, SOME_SECONDS, "seconds that code may block the event loop before the log says where"
    )
    keepalive: float = _setting(
        20.0, SOME_SECONDS, "seconds of silence of a connection after which its peer is asked whether it is there"
    )
    keepalive_timeout: float = _setting(
        10.0, SOME_SECONDS, "seconds that the peer may take to answer; then its streams are lost"
    )
    debug: bool = _setting(False, FLAG, "log more, and tell clients the tracebacks of failed apps")
    heartbeat_interval: float = _setting(
        25.0, SOME_SECONDS, "seconds of silence after which an empty message is due (protocol F3)", option=False
    )
    first_request_timeout: float = _setting(
        10.0, SOME_SECONDS, "seconds that a new stream has to open or resume (protocol F1)", option=False
    )

    def __post_init__(self) -> None:
        """Check what a client relies on; raise ValueError."""
        for item in fields(self):
            kind, value = item.metadata["kind"], getattr(self, item.name)
            if not kind.allows(value):
                raise ValueError(kind.fault.format(name=item.name, value=value))
        self._check_security()

    def _check_security(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("a TLS certificate and its key need each other")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("certificates of clients need TLS: a certificate of the server, and its key")
        if self.token_file and self.jwt_keys:
            raise ValueError("either a token file or keys of JWTs: only one of them can authenticate")
        if not bool(self.jwt_keys) == bool(self.jwt_issuer) == bool(self.jwt_audience):
            raise ValueError("JWTs need their keys, their issuer and their audience")
