"""The same work on ``websockets``: a connection each and a handler, and no session behind it.

Nothing is resumable, acknowledged, bounded or has tasks: it is what one writes by hand, before a connection is lost.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, urlsplit

import orjson
import uvloop
from websockets.asyncio.server import ServerConnection, serve


def command(name: str, spec: object) -> str:
    """Return a command as it travels."""
    return orjson.dumps({"command": name, "spec": spec, "task_id": "main"}).decode()


async def converse(connection: ServerConnection) -> None:
    """Do what the app of that name in `bench.apps` does."""
    assert connection.request is not None
    [app] = parse_qs(urlsplit(connection.request.path).query)["app"]
    await connection.send(command("ready", None))
    await {"echo": echo, "push": push, "hello": hello}[app](connection)


async def echo(connection: ServerConnection) -> None:
    """Answer each event with a command of the same payload."""
    async for message in connection:
        await connection.send(command("echo", orjson.loads(message)["data"]))


async def push(connection: ServerConnection) -> None:
    """Send as many commands as each event asks for."""
    async for message in connection:
        for number in range(orjson.loads(message)["data"]):
            spec = {"id": number, "name": "row", "value": number * 0.5, "ok": True}
            await connection.send(command("row", spec))


async def hello(_: ServerConnection) -> None:
    """End."""


async def main() -> None:
    """Serve on a free port until killed."""
    async with serve(converse, "127.0.0.1", 0, compression=None) as server:
        host, port = next(iter(server.sockets)).getsockname()
        print(f"listening on {host}:{port}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
