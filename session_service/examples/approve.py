"""Rolls a version out, shows how far it is, and waits for a person before it goes on: a job with two buttons."""

import asyncio
from typing import Any

from session_service import get_current_session

__all__ = ["approve"]

# Seconds that a tenth takes; what really deploys takes minutes.
TENTH = 0.1

# Seconds that a person has to decide.
PATIENCE = 3600.0


async def approve() -> None:
    """Deploy ``params["version"]`` to staging, ask, and go on to production or not.

    The client gets ``progress`` all the way, one ``ask`` with the ids of two callbacks, and ``result`` at the end.
    """
    version = get_current_session().params.get("version", "latest")
    await roll_out(version, "staging")
    answer, by = await ask(f"Staging runs {version}. Go on to production?")
    if answer == "go":
        await roll_out(version, "production")
    await send("result", {"version": version, "in production": answer == "go", "decision": answer, "by": by})


async def roll_out(version: str, stage: str) -> None:
    """Do the work."""
    for percent in range(0, 101, 10):
        await send("progress", {"version": version, "stage": stage, "percent": percent})
        await asyncio.sleep(TENTH)


async def ask(question: str) -> tuple[str, Any]:
    """Wait for a click; return ``go`` or ``cancel`` and the click's data, or ``nobody``."""
    session = get_current_session()
    clicked: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    go = session.register_callback(lambda by: clicked.put_nowait(("go", by)))
    cancel = session.register_callback(lambda by: clicked.put_nowait(("cancel", by)))
    await send("ask", {"question": question, "go": go, "cancel": cancel})
    try:
        return await asyncio.wait_for(clicked.get(), PATIENCE)
    except TimeoutError:
        return "nobody", None
    finally:
        session.unregister_callback(go)
        session.unregister_callback(cancel)


async def send(command: str, spec: Any) -> None:
    """Send a command, and wait while the client is far behind."""
    session = get_current_session()
    session.send_task_command({"command": command, "spec": spec})
    await session.drain()
