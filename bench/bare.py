"""The same work on bare ``grpc.aio``: the same messages over the same kind of call, and no session behind it.

Nothing is resumable, acknowledged, bounded or decoded for an app: this is the floor.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import orjson
import uvloop

from session_service.v1 import session_pb2 as pb

# Commands in one message of the push. More gains nothing any more.
BATCH = 256

Context = grpc.aio.ServicerContext[pb.AttachRequest, pb.AttachResponse]


async def attach(_: AsyncIterator[pb.AttachRequest], context: Context) -> None:
    """Do what the app of that name in `bench.apps` does."""
    request = await context.read()
    await context.write(pb.AttachResponse(commands=[pb.Command(command="ready")]))
    handlers = {"echo": echo, "push": push, "flood": flood, "hello": hello}
    await handlers[request.open.app](context)


async def echo(context: Context) -> None:
    """Answer each event with a command of the same payload."""
    while isinstance(request := await context.read(), pb.AttachRequest):
        response = pb.AttachResponse()
        for event in request.events:
            command = response.commands.add()
            command.command = "echo"
            if event.WhichOneof("payload") == "json":
                command.json = event.json
            else:
                command.spec.CopyFrom(event.data)
        await context.write(response)


async def push(context: Context) -> None:
    """Send as many commands as each event asks for, batched by hand."""
    while isinstance(request := await context.read(), pb.AttachRequest):
        count = int(request.events[0].json)
        for first in range(0, count, BATCH):
            response = pb.AttachResponse()
            for number in range(first, min(first + BATCH, count)):
                command = response.commands.add()
                command.command = "row"
                spec = {"id": number, "name": "row", "value": number * 0.5, "ok": True}
                command.json = orjson.dumps(spec).decode()
            await context.write(response)


async def flood(context: Context) -> None:
    """Take as many events as the first one says, then send a command."""
    left = None
    while left != 0:
        for event in (await context.read()).events:
            data = orjson.loads(event.json)
            left = data if left is None else left - 1
    await context.write(pb.AttachResponse(commands=[pb.Command(command="done")]))


async def hello(_: Context) -> None:
    """End."""


async def main() -> None:
    """Serve on a free port until killed."""
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        attach, pb.AttachRequest.FromString, pb.AttachResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("session_service.v1.SessionService", {"Attach": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
