"""Where a server listens, and a client connects to."""

from __future__ import annotations

import ipaddress
import re

__all__ = ["is_local"]

# What gRPC writes before a host and a port (grpc/doc/naming.md).
_RESOLVER = re.compile(r"dns:(?:/{0,2}[^/]*/)?|ipv[46]:")


def is_local(address: str) -> bool:
    """Tell whether an address is reached by this machine alone: a Unix socket, or one of the loopback interface."""
    if address.startswith("unix"):
        return True
    host = _RESOLVER.sub("", address, count=1).rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
