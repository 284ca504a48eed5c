"""``make demo``: a conversation whose connection is cut twice, and that goes on as if nothing had happened.

The server is a process of its own with the example apps. Between it and the client stands a relay that cuts real TCP
connections. What is shown is what the client's application sees, in that order; at the end it is checked.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import click
from session_client import Attachment, AttachmentState, Command, SessionClient

PARAMS = {"version": "2.1"}

# Seconds that the connection stays cut: enough for the app to go on visibly, and for a reader to see it.
OUTAGE = 1.5

ASK = ("ask",)

COLORS = {"server": "blue", "relay": "red", "client": "green", "Ada": "magenta", "app": "yellow"}


class Narrator:
    """Tells who does what, a line each; progress goes on in its line while nobody else speaks."""

    def __init__(self) -> None:
        self._progress = ""

    def say(self, who: str, text: str) -> None:
        """Write a line."""
        self._begin(who)
        click.echo(text)

    def show_progress(self, stage: str, percent: int) -> None:
        """Go on with the line of this stage, or begin one."""
        if self._progress != stage:
            self._begin("app")
            click.echo(f"{stage:<10}", nl=False)
            self._progress = stage
        click.echo(f" {percent}", nl=False)
        sys.stdout.flush()

    def _begin(self, who: str) -> None:
        if self._progress:
            click.echo()
            self._progress = ""
        click.echo(click.style(f"  {who:<8}", fg=COLORS[who]), nl=False)


class Relay:
    """Hands bytes on between a client and a server, and can cut their connection."""

    def __init__(self, target: str, narrator: Narrator) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._narrator = narrator
        self._cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[str]:
        """Relay whoever connects; give the address."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
        server.close()
        self._reset()  # gRPC keeps a connection for some time after its channel is closed
        await asyncio.gather(*self._tasks)

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._tasks) // 2

    def cut(self) -> None:
        """Reset every connection, and each new one until the outage is over."""
        self._narrator.say("relay", click.style("✂ the connection is cut", fg="red", bold=True))
        self._cut = True
        self._reset()
        asyncio.get_running_loop().call_later(OUTAGE, self._mend)

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _mend(self) -> None:
        self._narrator.say("relay", "lets connections through again")
        self._cut = False

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        from_server, to_server = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, to_server}
        async with asyncio.TaskGroup() as group:
            self._tasks.append(group.create_task(self._pump(reader, to_server)))
            self._tasks.append(group.create_task(self._pump(from_server, writer)))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:  # it has been cut
            pass
        writer.close()
        self._writers.discard(writer)


@asynccontextmanager
async def serve() -> AsyncIterator[str]:
    """Run a server; give its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "session_service", "serve", "--listen=127.0.0.1:0", "session_service.examples:apps"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        said = (await process.stdout.readline()).decode().strip()
        if not said:
            sys.exit((await process.communicate())[1].decode())
        yield said.removeprefix("listening on ")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


class Conversation:
    """The client's application: shows what the app sends, and answers when it asks."""

    def __init__(self, narrator: Narrator, relay: Relay) -> None:
        self._narrator = narrator
        self._relay = relay
        self._is_lost = False
        self.seen: list[tuple[Any, ...]] = []

    def on_attachment(self, attachment: Attachment) -> None:
        """Tell what becomes of the connection."""
        if attachment.state is AttachmentState.RESUMED:
            self._narrator.say("client", "is back and resumes the session")
        elif attachment.state is AttachmentState.LOST and not self._is_lost:
            self._narrator.say("client", "has lost the connection, and tries until it is back")
            if ASK not in self.seen:
                self._narrator.say("app", "goes on meanwhile: what it sends waits at the server")
        self._is_lost = attachment.state is AttachmentState.LOST

    async def hold(self, address: str) -> str:
        """Hold it; return why it ended."""
        async with (
            SessionClient(address, on_attachment=self.on_attachment) as client,
            client.open("approve", params=PARAMS) as session,
        ):
            async for command in session:
                self._on_command(command)
                if command.command == "ask":
                    self._narrator.say("Ada", "clicks on “go”, though nothing is connected: the client keeps it")
                    await session.send_event("callback", "Ada", task_id=command.spec["go"])
        assert session.closed is not None
        return session.closed.reason.name

    def _on_command(self, command: Command) -> None:
        spec = command.spec
        if command.command == "progress":
            self.seen.append((spec["stage"], spec["percent"]))
            self._narrator.show_progress(spec["stage"], spec["percent"])
            if self.seen[-1] == ("staging", 40):
                self._relay.cut()
        elif command.command == "ask":
            self.seen.append(ASK)
            self._narrator.say("app", f"asks: {spec['question']}")
            self._relay.cut()
        else:
            self.seen.append((command.command, spec["decision"], spec["by"]))
            self._narrator.say("app", f"is done: {spec['version']} is in production, says {spec['by']}")


EXPECTED = [
    *(("staging", percent) for percent in range(0, 101, 10)),
    ASK,
    *(("production", percent) for percent in range(0, 101, 10)),
    ("result", "go", "Ada"),
]


async def main() -> None:
    """Run the demonstration; exit 1 where something is lost, repeated or out of order."""
    narrator = Narrator()
    click.echo("\nA deployment that asks a person, over a connection that does not hold\n")
    async with serve() as server:
        narrator.say("server", f"listens on {server}, a process of its own")
        relay = Relay(server, narrator)
        conversation = Conversation(narrator, relay)
        async with relay.listen() as address:
            narrator.say("client", f"opens “approve” with {PARAMS}, through a relay on {address}")
            reason = await conversation.hold(address)
    narrator.say("server", f"has closed the session: {reason}")
    if conversation.seen != EXPECTED:
        sys.exit(f"Something is lost, repeated or out of order: {conversation.seen}")
    summary = f"{len(EXPECTED)} commands and 1 event over {relay.connections} connections: nothing lost, nothing twice"
    click.echo(f"\n{click.style(summary, bold=True)}\n")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
