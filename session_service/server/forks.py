"""What a forked child of the process has of the server's sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

__all__ = ["let_go"]

# Of Linux, macOS and the BSDs.
DESCRIPTORS = "/dev/fd"


def let_go(addresses: Iterable[str]) -> None:
    """Let go of every socket that is bound to one of these addresses; called in a child, which serves nobody.

    A child that outlived the server would keep the port, where connections then wait for nobody to accept them, and it
    would keep the connections of clients, who would not notice that the server is gone.

    Args:
        addresses: ``HOST:PORT`` or ``unix:PATH``; connections that were accepted there are bound to the same port.
    """
    bound: set[object] = set()
    for address in filter(None, addresses):
        unix = address.startswith("unix:")
        bound.add(address.removeprefix("unix:") if unix else int(address.rpartition(":")[2]))
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir(DESCRIPTORS):
        if _place(int(name)) in bound:
            # Not closed: whatever believes to own the number may close it later, when it would be another file's.
            os.dup2(nothing, int(name), inheritable=False)
    os.close(nothing)


def _place(descriptor: int) -> object:
    """Return the port or the path that a socket is bound to; None where it is no socket."""
    try:
        place = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        name = place.getsockname()
    except OSError:
        return None
    finally:
        place.detach()
    return name[1] if isinstance(name, tuple) else name
