"""Who is at the other end: what a client's headers say."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from user_agents.parsers import UserAgent

__all__ = ["SessionInfo", "get_session_info_from_headers"]

# In characters. The longest of 30,910 real user agents has 492. No header may be larger than a session that it is kept
# for: all that is kept takes less than 16 KiB, in UTF-8 and at worst.
LONGEST_USER_AGENT = 512
LONGEST_ACCEPT_LANGUAGE = 2000
LONGEST_ORIGIN = 1000
LONGEST_HOST = 253  # of a name (RFC 1035)

# Where the host is looked for, in this order, and what else is read.
_HOSTS = ("x-forwarded-host", "forwarded", "host", ":authority")
_NAMES = frozenset((*_HOSTS, "user-agent", "x-user-agent", "accept-language", "origin"))

# The schemes of web pages, and of what they connect to, with their default ports.
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# What libraries call themselves: gRPC's in `user-agent`, those for browsers in `x-user-agent`.
_LIBRARY = re.compile(r"@?(?:grpc|connect(?:rpc)?[-/]|protobuf-ts|tonic/|dart-grpc)", re.IGNORECASE)
_BROWSER = ("Mozilla/", "Opera/")

# A language range of RFC 4647, 2.1, but for `*`; eleven subtags are more than any language has.
_LANGUAGE_TAG = re.compile(r"[a-z]{1,8}(?:-[a-z0-9]{1,8}){0,10}", re.IGNORECASE | re.ASCII)
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)", re.IGNORECASE | re.ASCII)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\x00-,/:-@\[-^`{-\x7f]+)(?::([0-9]*))?", re.IGNORECASE | re.ASCII)
_FORWARDED = re.compile(r'[\s;,]*([\w.-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*(?=[;,]|$)', re.ASCII)


@dataclass(frozen=True)
class SessionInfo:
    """What the headers of a client say, read once. It is what a client says of itself, and proves nothing.

    Attributes:
        headers: what was read, and no other header: ``user-agent``, ``accept-language``, ``host`` and ``origin``, as
            far as they were there and make sense.
        peer: where the stream comes from, as gRPC writes it (``ipv4:192.0.2.1:1234``); empty without a stream.
        user_agent_text: the user agent, cut at 512 characters.
        user_language: the language that the client prefers, such as ``en-GB``.
        server_host: what the client calls this server.
        origin: scheme, host and port of the page that the client runs in, only when that is not under ``server_host``;
            ``null`` for a page that tells nobody where it is from.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    peer: str = ""
    user_agent_text: str = ""
    user_language: str = ""
    server_host: str = ""
    origin: str = ""

    @cached_property
    def user_agent(self) -> UserAgent:
        """The parsed user agent (`user_agents`); of one that cannot be parsed nothing but the text is known."""
        from .agent import parse_user_agent  # a client need not load the rules

        return parse_user_agent(self.user_agent_text)

    def updated(self, headers: Mapping[str, str], peer: str = "") -> SessionInfo:
        """Return the information after a new attach: what ``headers`` do not say stays as it was known."""
        new = _counted(headers)
        if _is_library(new.get("user-agent", "")) and "user-agent" in self.headers:
            del new["user-agent"]  # it never hides the browser
        return _read({**self.headers, **new}, peer or self.peer)


def get_session_info_from_headers(headers: Mapping[str, str], peer: str = "") -> SessionInfo:
    """Read a client's session information from HTTP headers, or the metadata of a call.

    Args:
        headers: names are case-insensitive; what is absent, or makes no sense, gives an empty value, never an error.
        peer: where the client is, if known.
    """
    return _read(_counted(headers), peer)


def _read(headers: Mapping[str, str], peer: str) -> SessionInfo:
    host = headers.get("host", "")
    return SessionInfo(
        headers=headers,
        peer=peer,
        user_agent_text=headers.get("user-agent", ""),
        user_language=_language(headers.get("accept-language", "")),
        server_host=host,
        origin=_foreign_origin(headers.get("origin", ""), host),
    )


def _counted(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that count, each by the name that it counts for, and none that is too long."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        if (name := name.lower()) in _NAMES and value:
            found[name] = value
    counted: dict[str, str] = {}
    if agent := _agent(found):
        counted["user-agent"] = agent[:LONGEST_USER_AGENT]
    if languages := found.get("accept-language"):
        if len(languages) > LONGEST_ACCEPT_LANGUAGE:
            languages = languages[:LONGEST_ACCEPT_LANGUAGE].rpartition(",")[0]
        counted["accept-language"] = languages
    if host := _host(found):
        counted["host"] = host
    if (origin := found.get("origin")) and len(origin) <= LONGEST_ORIGIN:
        counted["origin"] = origin
    return counted


# --- the user agent ---------------------------------------------------------------------------------------------------


def _agent(headers: Mapping[str, str]) -> str:
    """Return what says most of the two that there may be; a client of gRPC can only set the other one."""
    agent = headers.get("user-agent", "")
    if "x-user-agent" in headers and _telling(other := headers["x-user-agent"]) >= _telling(agent):
        return other
    return agent


def _telling(agent: str) -> int:
    return 3 if agent.startswith(_BROWSER) else 0 if not agent else 1 if _is_library(agent) else 2


def _is_library(agent: str) -> bool:
    return _LIBRARY.match(agent) is not None


# --- the language -----------------------------------------------------------------------------------------------------


def _language(header: str) -> str:
    """Return the language tag of the highest weight, of equals the first (RFC 9110, 12.5.4)."""
    best, most = "", 0.0
    for element in header.split(",") if header else ():
        tag, *parameters = (part.strip() for part in element.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                weight = float(value) if _QUALITY.fullmatch(value := value.strip()) else 0.0
        if weight > most and _LANGUAGE_TAG.fullmatch(tag):
            best, most = tag, weight
    return best


# --- where the page is, and where the server --------------------------------------------------------------------------


def _host(headers: Mapping[str, str]) -> str:
    """Return the host, and port, that the client calls this server by, as the outermost proxy has seen it."""
    for name in _HOSTS:
        if name in headers:
            value = headers[name] if name != "forwarded" else _forwarded_host(headers[name])
            if _place(host := value.partition(",")[0].strip()) is not None:
                return host
    return ""


def _forwarded_host(header: str) -> str:
    """Return the first host of `Forwarded` (RFC 7239)."""
    place = 0
    while (pair := _FORWARDED.match(header, place)) is not None:
        name, quoted, token = pair.groups()
        if name.lower() == "host":
            return token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        place = pair.end()
    return ""


def _foreign_origin(header: str, server_host: str) -> str:
    """Return the first of the origins that is not under ``server_host``; there are several where values were joined."""
    if not header:
        return ""
    server = _place(server_host)
    for origin in re.split(r"[\s,]+", header):
        if origin.lower() == "null":
            return "null"
        if (parts := _ORIGIN.match(origin)) is None:
            continue
        scheme, authority = parts[1].lower(), parts[2].rpartition("@")[2]
        page, port = _place(authority), DEFAULT_PORTS.get(scheme)
        if port is None and (page is not None or not authority):
            return f"{scheme}://{authority}"  # no page of a web server, whatever its host is called
        if page is not None and (server is None or (page[0], page[1] or port) != (server[0], server[1] or port)):
            return f"{scheme}://{authority}"
    return ""


def _place(authority: str) -> tuple[str, int | None] | None:
    """Return a host, in the form in which equal ones are equal, and its port; None if it is no host."""
    if len(authority) > LONGEST_HOST + len(":65535") or not (parts := _AUTHORITY.fullmatch(authority)):
        return None
    host, port = parts[1].lower(), int(parts[2]) if parts[2] else None
    if port is not None and not 0 < port < 65536:
        return None
    try:
        if host.startswith("["):
            return f"[{ipaddress.IPv6Address(host[1:-1])}]", port
        host = host.removesuffix(".").encode("idna").decode()
    except ValueError:
        return None
    return (host, port) if _AUTHORITY.fullmatch(host) else None
