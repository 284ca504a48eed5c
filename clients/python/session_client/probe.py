"""What a port speaks that hangs up before it has said anything."""

from __future__ import annotations

import asyncio
import re
import ssl
from urllib.parse import unquote

__all__ = ["find_mistake"]

# Seconds for it. A port that does not answer is an outage.
PATIENCE = 2.0

# gRPC names the address that it had connected to. A handshake that did not succeed reads otherwise.
_HUNG_UP = re.compile(
    r"last error: UNAVAILABLE: (?:ipv[46]:(?P<host>\S+):(?P<port>\d+)|unix:(?P<path>.+)): (?:Socket closed|recvmsg:)"
)


async def find_mistake(message: str, secure: bool) -> str:
    """Return what to mend where gRPC's own error says that a port hung up, and a TLS handshake with it shows why.

    So do a TLS port that is spoken to in plain text, and one that has got no client's certificate; but so does a proxy
    that has no server.

    Args:
        message: the error.
        secure: whether the client speaks TLS.
    """
    peer = _HUNG_UP.search(message)
    if peer is None:
        return ""
    speaks_tls, refuses = await _shake_hands(peer, secure)
    if speaks_tls and not secure:
        return "the port speaks TLS: pass channel_credentials"
    if refuses and secure:
        return "the port asks for a client's certificate: pass one that it trusts with channel_credentials"
    return ""


async def _shake_hands(peer: re.Match[str], secure: bool) -> tuple[bool, bool]:
    """Return whether it answered in TLS, and whether it then ended the handshake, as it does without a certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is said to it, so it need not be trusted
    context.set_alpn_protocols(["h2"])
    if secure:
        # There the server judges a client's certificate within the handshake; in 1.3 it does so later.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        async with asyncio.timeout(PATIENCE):
            if peer["path"]:
                _, writer = await asyncio.open_unix_connection(peer["path"], ssl=context, server_hostname="")
            else:
                host = unquote(peer["host"]).strip("[]")
                _, writer = await asyncio.open_connection(host, int(peer["port"]), ssl=context)
    except ssl.SSLError as error:
        alert = "_ALERT_" in (error.reason or "")
        return alert, alert and "PROTOCOL_VERSION" not in error.reason
    except ConnectionResetError:
        return False, True
    except (OSError, TimeoutError):
        return False, False
    writer.transport.abort()
    return True, False
