"""A client to be killed: it talks to an echo, and saves where it is after each command that it has done with."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from dataclasses import asdict

from session_client import SessionClient


async def _main(address: str, app: str, record: str) -> None:
    async with SessionClient(address) as client, client.open(app, params={"record": record}) as session:
        for value in itertools.count(1):
            await session.send_event("say", value)
            command = await anext(session)
            # The command in hand counts as done, before the next one is asked for: that acknowledges it.
            print(json.dumps([command.spec, asdict(session.position)]), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
