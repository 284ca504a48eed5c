"""What a name to listen on stands for: each address of this machine that it has, or none."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack

__all__ = ["addresses_of"]

# gRPC's clients take this name for these whatever the machine's file of hosts says, by RFC 6761 (6.3).
LOOPBACK = ("127.0.0.1", "::1")

# How often another port is tried where port 0 was asked for: it has to be free at every address.
TRIES = 100


def addresses_of(listen: str, *, dual_stack: bool = False) -> list[str]:
    """Return each ``HOST:PORT`` that a ``HOST:PORT`` stands for, all with one port; a moment ago all were free.

    gRPC, and not gRPC alone, takes a name for bound as soon as one of its addresses is: at the others clients would
    reach a stranger. Those of IPv6 are left out where the machine has none.

    Args:
        listen: by name or by number; port 0 for a free one.
        dual_stack: take 0.0.0.0 for IPv6, too.

    Raises:
        OSError: one of them cannot be had; the text says which, and why.
    """
    host, _, text = listen.rpartition(":")
    port = int(text)
    hosts = _resolve(host.strip("[]"))
    if dual_stack and _has_ipv6():
        # No default of ours: somebody has asked for all interfaces.
        hosts = ["::" if each in ("0.0.0.0", "::ffff:0.0.0.0") else each for each in hosts]  # nosec B104
    for left in reversed(range(TRIES if port == 0 else 1)):
        try:
            bound = _bind(hosts, port)
            return [_address(each, bound) for each in hosts]
        except OSError as error:
            if not left or error.errno != errno.EADDRINUSE:
                raise OSError(_reason(error, listen)) from error
    raise AssertionError("the last try returns or raises")


def _resolve(host: str) -> list[str]:
    if host.rstrip(".").lower() == "localhost":
        hosts = list(LOOPBACK)
    else:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise OSError(f"the name {host!r} has no address: {error}") from error
        # By getnameinfo, which keeps the interface of a link-local address.
        hosts = list(dict.fromkeys(socket.getnameinfo(each[4], socket.NI_NUMERICHOST)[0] for each in found))
    return hosts if _has_ipv6() else [each for each in hosts if ":" not in each] or hosts


def _has_ipv6() -> bool:
    """Tell what gRPC asks, too: an address of IPv6 may be known where it is turned off, as in most containers."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _bind(hosts: list[str], port: int) -> int:
    """Bind them all, and let go; return the port. An error has the address as its ``filename``."""
    with ExitStack() as stack:
        for host in hosts:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            try:
                probe = stack.enter_context(socket.socket(family, kind))
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # so that [::] is IPv4, too
                probe.bind(address)
            except OSError as error:
                error.filename = _address(host, port)
                raise
            port = probe.getsockname()[1]
    return port


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError, listen: str) -> str:
    which = "" if error.filename == listen else f"{error.filename} is "
    if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
        return f"{which}in use, or no address of this machine"
    if error.errno == errno.EACCES:
        return f"{which}not permitted: a port below 1024 needs a privilege, take one above"
    return f"{which}no good: {os.strerror(error.errno or 0)}"
