"""Mistakes of the caller that gRPC reports as if the server were away, or not at all; and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Mapping

import grpc

__all__ = ["check_metadata", "check_target", "explain"]

# What gRPC resolves itself (grpc/doc/naming.md); xds and whatever comes after it have three slashes.
_RESOLVED = re.compile(r"(unix|unix-abstract|vsock):.+|(passthrough|xds|google-c2p)://.+")
_ADDRESSES = re.compile(r"(dns:(?://[^/]*)?/?|ipv[46]:)(.+)")
_PORT = re.compile(r"(?:\[[^]]*\]|[^]:[]*):([^]:[]+)")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/@\[\]]+):(\d{1,5})")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")

_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")


def check_target(target: str) -> None:
    """Refuse what can be no target.

    Raises:
        ValueError: it says what to write instead.
    """
    if not isinstance(target, str):
        raise ValueError(f"the target is no text but {target!r}: write HOST:PORT")
    if (unix := target.startswith("/")) or (target.startswith("unix://") and not target.startswith("unix:///")):
        path = target if unix else target.removeprefix("unix:/")
        raise ValueError(f"the target {target!r} is no HOST:PORT: for a Unix socket write unix:{path}")
    if _RESOLVED.fullmatch(target):
        return
    if match := _ADDRESSES.fullmatch(target):
        for address in match[2].split(","):
            if not (port := _PORT.fullmatch(address)):
                raise ValueError(f"the target {target!r} has no port: write {match[1]}HOST:PORT")
            if port[1].isdecimal() and not 0 < int(port[1]) < 65536:
                raise ValueError(f"the target {target!r} has no port of 1 to 65535")
        return
    if match := _HOST_AND_PORT.fullmatch(target):
        if not 0 < int(match[2]) < 65536:
            raise ValueError(f"the target {target!r} has no port of 1 to 65535")
        return
    if match := _SCHEME.fullmatch(target):
        rest = match[2].split("/")[0] or "HOST"
        tls = ", and pass channel_credentials for TLS" if match[1].lower() in ("https", "grpcs", "wss") else ""
        rest = rest if re.search(r":\d+$", rest) else f"{rest}:PORT"
        raise ValueError(f"the target {target!r} is a URL: write {rest} without {match[1]}://{tls}")
    if target.count(":") > 1 and "[" not in target and re.fullmatch(r"[0-9A-Fa-f:.]+", target):
        raise ValueError(f"the target {target!r} is an IPv6 address without a port: write [{target}]:PORT")
    if re.fullmatch(r"[^\s:/@]+|\[[0-9A-Fa-f:.]+\]", target):
        raise ValueError(f"the target {target!r} has no port: write {target}:PORT")
    raise ValueError(f"the target {target!r} cannot be right: write HOST:PORT or unix:PATH")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Refuse what cannot be sent with a call.

    Raises:
        TypeError: it is no mapping of texts.
        ValueError: it says what to write instead. It names the key, and never the value, which may be a secret.
    """
    if not isinstance(metadata, Mapping) or not all(
        isinstance(text, str) for item in metadata.items() for text in item
    ):
        raise TypeError("metadata is texts by their names")
    for key, value in metadata.items():
        if key != key.lower():
            raise ValueError(
                f"the key {key!r} has capital letters: keys of metadata are lower case, so write {key.lower()!r}"
            )
        if not _KEY.fullmatch(key):
            raise ValueError(f"the key {key!r} is none: a key of metadata has letters, digits, '-', '_' and '.' only")
        if key.startswith("grpc-"):
            raise ValueError(f"the key {key!r} begins with 'grpc-', which gRPC keeps for itself: take another")
        if key.endswith("-bin"):
            raise ValueError(f"the key {key!r} ends with '-bin', which gRPC keeps for bytes: take another for text")
        if "\n" in value or "\r" in value:
            raise ValueError(f"the value of {key!r} has a line break: strip() it where it is read from a file")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of {key!r} has characters beyond printable ASCII: encode it, as by base64")


# What gRPC says, and what it means. Where the wording of another version is not among these, the client tries on.
_MEANINGS = {
    "Invalid metadata": "gRPC takes no such metadata: look into its log, and at what `credentials` returns",
    "target uri is not valid|Misformatted domain name|Failed to parse port|host must not be empty": (
        "gRPC takes no such target: write HOST:PORT or unix:PATH"
    ),
    "WRONG_VERSION_NUMBER": "the port speaks no TLS: leave channel_credentials out, or name the port that speaks TLS",
    "CERTIFICATE|BAD_SIGNATURE|UNKNOWN_CA|Hostname Verification|not in peer certificate": (
        "the TLS handshake failed: do channel_credentials trust the authority of the server's certificate,"
        " and is that for this host?"
    ),
    "ALPN": "the port speaks TLS, but not HTTP/2: is it that of the session service?",
    "Expected SETTINGS frame as the first frame": (
        "the port speaks no HTTP/2 in plain text: name that of the session service, or pass channel_credentials for TLS"
    ),
}


def explain(code: grpc.StatusCode, message: str) -> str:
    """Return what to mend, where gRPC's own error shows that trying again will not help; else nothing."""
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        for pattern, meaning in _MEANINGS.items():
            if re.search(pattern, message):
                return meaning
    return ""
