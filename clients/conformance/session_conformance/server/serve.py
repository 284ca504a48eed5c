"""The server that ``--serve`` starts: ours, with the app ``conformance`` and the settings that some cases need.

``python -m session_conformance.server.serve SETTINGS``, where SETTINGS is a JSON object of fields of
`session_service.config.Config`, with ``authenticate`` beside them: then each call names its principal as
``authorization: Bearer NAME``. It says ``listening on HOST:PORT`` on stdout, and drains at SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Mapping
from typing import Any

from session_service import Principal
from session_service.config import Config
from session_service.server import Peer, Server
from session_service.server.auth import bearer_token

from .app import apps

__all__ = ["main", "serve"]


async def serve(settings: Mapping[str, Any]) -> None:
    """Serve until SIGTERM, and drain."""
    config = Config(listen="127.0.0.1:0", **{name: value for name, value in settings.items() if name != "authenticate"})
    server = Server(apps, config, bearer if settings.get("authenticate") else None)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"listening on {await server.start()}", flush=True)  # noqa: T201
    await stop.wait()
    await server.drain()


def bearer(metadata: Mapping[str, str], peer: Peer) -> Principal:
    """Take whoever says a name for the principal of that name."""
    return Principal(bearer_token(metadata))


def main() -> None:
    """Serve with the settings of the command line."""
    logging.basicConfig(level=logging.CRITICAL)  # the cases provoke what a log is for
    asyncio.run(serve(json.loads(sys.argv[-1])))


if __name__ == "__main__":
    main()
