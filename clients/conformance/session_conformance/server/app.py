"""The app ``conformance``, which a server under test serves: its cases say what it does by events.

``session-service serve session_conformance.server.app:apps`` serves it here. What it answers to which event is written
down in suites/server/README.md, for servers in other languages; this is the reference.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

from session_service import PayloadError, SessionClosedException, get_current_session

__all__ = ["apps", "conformance"]

# Gates that sessions of this process wait at until a session opens them; one is gone with the last that waits.
_gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


async def conformance() -> None:
    """Do what the events say, one after the other."""
    await Conversation().run()


class Conversation:
    """One session of the app.

    Attributes:
        notes: the numbers that ``note`` events brought.
        lingers: the app has something to say when it learns that there will be no more events.
    """

    def __init__(self) -> None:
        self.session = get_current_session()
        self.notes: list[Any] = []
        self.lingers = False

    async def run(self) -> None:
        """Take events, until one of them or their end is the end of the app."""
        do: dict[str, Callable[[Any], Coroutine[Any, Any, None]]] = {
            "echo": self.on_echo,
            "size": self.on_size,
            "params": self.on_params,
            "note": self.on_note,
            "notes": self.on_notes,
            "emit": self.on_emit,
            "pause": self.on_pause,
            "release": self.on_release,
            "spawn": self.on_spawn,
            "register": self.on_register,
            "unregister": self.on_unregister,
            "integer": self.on_integer,
            "nest": self.on_nest,
            "blob": self.on_blob,
            "defer": self.on_defer,
            "linger": self.on_linger,
            "leave": self.on_leave,
            "fail": self.on_fail,
        }
        while True:
            try:
                event = await self.session.next_client_event()
            except SessionClosedException:
                if not self.lingers:
                    raise
                return await self.send("lingered", len(self.notes))
            if event["event"] == "finish":
                return None
            await do[event["event"]](event["data"])

    async def send(self, command: str, spec: Any = None) -> None:
        """Send a command, and wait while the client is behind."""
        self.session.send_task_command({"command": command, "spec": spec})
        await self.session.drain()

    async def try_to_send(self, command: str, spec: Any) -> None:
        """Send a command, or ``refused`` where it cannot be carried."""
        try:
            await self.send(command, spec)
        except PayloadError:
            await self.send("refused")

    async def on_echo(self, data: Any) -> None:
        """Say it back."""
        await self.send("echo", data)

    async def on_size(self, data: Any) -> None:
        """Tell how many bytes came."""
        await self.send("size", len(data))

    async def on_params(self, _: Any) -> None:
        """Tell the parameters of the session."""
        await self.send("params", dict(self.session.params))

    async def on_note(self, data: Any) -> None:
        """Remember a number, and say nothing."""
        self.notes.append(data["n"])

    async def on_notes(self, _: Any) -> None:
        """Tell all numbers."""
        await self.send("notes", self.notes)

    async def on_emit(self, data: Any) -> None:
        """Send many commands."""
        for number in range(1, int(data["count"]) + 1):
            await self.send("item", {"n": number, "filler": "x" * int(data.get("size", 0))})

    async def on_pause(self, data: Any) -> None:
        """Take no events until the gate is open."""
        await self.send("paused")
        await _wait_at(data["gate"])

    async def on_release(self, data: Any) -> None:
        """Open a gate."""
        _gates[data["gate"]].set()
        await self.send("released")

    async def on_spawn(self, _: Any) -> None:
        """Start a task that says its events back, from which on its commands tell its id."""
        self.session.run_task(self.child)

    async def child(self) -> None:
        """Be that task."""
        await self.send("spawned")
        while (event := await self.session.next_client_event())["event"] != "finish":
            await self.send("echo", event["data"])

    async def on_register(self, _: Any) -> None:
        """Register a callback, and tell its id."""
        await self.send("registered", self.session.register_callback(self.called))

    async def called(self, data: Any) -> None:
        """Be that callback."""
        await self.send("called", data)

    async def on_unregister(self, data: Any) -> None:
        """Forget a callback."""
        self.session.unregister_callback(data)
        await self.send("unregistered")

    async def on_integer(self, data: Any) -> None:
        """Send a number that was given as text, so that nothing but the command's own format can change it."""
        await self.try_to_send("integer", int(data))

    async def on_nest(self, data: Any) -> None:
        """Send arrays within arrays."""
        nested: Any = []
        for _ in range(int(data) - 1):
            nested = [nested]
        await self.try_to_send("nest", nested)

    async def on_blob(self, data: Any) -> None:
        """Send so many bytes."""
        await self.try_to_send("blob", bytes(int(data)))

    async def on_defer(self, data: Any) -> None:
        """When the session ends, open a gate, or wait at one before it has ended."""

        @self.session.defer_call
        async def deferred() -> None:
            if "opens" in data:
                _gates[data["opens"]].set()
            else:
                await _wait_at(data["waits"])

        await self.send("deferred")

    async def on_linger(self, _: Any) -> None:
        """Do not let the end of the events pass."""
        self.lingers = True
        await self.send("lingering")

    async def on_leave(self, _: Any) -> None:
        """Close the session from within."""
        self.session.close()

    async def on_fail(self, data: Any) -> None:
        """Fail."""
        raise RuntimeError(data)


async def _wait_at(gate: str) -> None:
    try:
        await _gates[gate].wait()
    finally:
        _gates.pop(gate, None)


apps = {"conformance": conformance}
