"""Who is at the other end: what a client's headers say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from user_agents.parsers import UserAgent

__all__ = ["SessionInfo", "get_session_info_from_headers"]

# A hostile user agent of 200 kB costs half a second of parsing; no honest one is near this.
MAX_USER_AGENT_CHARACTERS = 2048

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class SessionInfo:
    """What the headers of a client say, read once.

    Attributes:
        headers: the headers that it was read from, names in lower case.
        peer: where the stream comes from, as gRPC writes it (``ipv4:192.0.2.1:1234``); empty without a stream.
        user_agent_text: the User-Agent header, cut at 2,048 characters.
        user_language: the first language of Accept-Language, such as ``en-GB``.
        server_host: the Host header: what the client calls this server.
        origin: scheme, host and port of the page that the client runs in, only when that is not under ``server_host``.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    peer: str = ""
    user_agent_text: str = ""
    user_language: str = ""
    server_host: str = ""
    origin: str = ""

    @cached_property
    def user_agent(self) -> UserAgent:
        """The parsed user agent (`user_agents`), parsed when first read since that costs 0.6 ms."""
        import user_agents  # 60 ms to import, and few apps ask

        return user_agents.parse(self.user_agent_text)

    def updated(self, headers: Mapping[str, str], peer: str = "") -> SessionInfo:
        """Return the information after a new attach: what ``headers`` do not say stays as it was known."""
        return get_session_info_from_headers({**self.headers, **_lower(headers)}, peer or self.peer)


def get_session_info_from_headers(headers: Mapping[str, str], peer: str = "") -> SessionInfo:
    """Read a client's session information from HTTP headers.

    Args:
        headers: names are case-insensitive; whatever is absent gives an empty value, never an error.
        peer: where the client is, if known.
    """
    lower = _lower(headers)
    host = lower.get("host", "")
    return SessionInfo(
        headers=lower,
        peer=peer,
        user_agent_text=lower.get("user-agent", "")[:MAX_USER_AGENT_CHARACTERS],
        user_language=lower.get("accept-language", "").split(",", 1)[0].split(" ", 1)[0].split(";", 1)[0],
        server_host=host,
        origin=_foreign_origin(lower.get("origin", ""), host),
    )


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _foreign_origin(origin: str, server_host: str) -> str:
    if not origin:
        return ""
    try:
        page = urlsplit(origin)
        place = _place(page, page.scheme)
    except ValueError:  # a port that is no number, half an IPv6 address
        return ""
    if not page.scheme or not page.hostname:
        return ""
    try:
        if place == _place(urlsplit(f"//{server_host}"), page.scheme):
            return ""
    except ValueError:  # a host that makes no sense is not where the page is
        pass
    return f"{page.scheme}://{page.netloc.rpartition('@')[2]}"


def _place(url: SplitResult, scheme: str) -> tuple[str | None, int | None]:
    return url.hostname, _DEFAULT_PORTS.get(scheme) if url.port is None else url.port
