"""The apps that are measured, as a user would write them. Each begins with a command ``ready``."""

from __future__ import annotations

from typing import Any

from session_service import get_current_session

__all__ = ["apps"]


async def echo() -> None:
    """Answer each event with a command of the same payload."""
    session = get_current_session()
    session.send_task_command({"command": "ready"})
    while True:
        event = await session.next_client_event()
        session.send_task_command({"command": "echo", "spec": event["data"]})


def thread_echo() -> None:
    """Do what `echo` does in a thread."""
    session = get_current_session()
    session.send_task_command({"command": "ready"})
    while True:
        event = session.next_client_event()
        session.send_task_command({"command": "echo", "spec": event["data"]})


async def click() -> None:
    """Answer each click on a callback, whose id ``ready`` tells, with a command of the same payload."""
    session = get_current_session()

    async def clicked(data: Any) -> None:
        session.send_task_command({"command": "echo", "spec": data})

    session.send_task_command({"command": "ready", "spec": session.register_callback(clicked)})


async def push() -> None:
    """Send as many commands as each event asks for."""
    session = get_current_session()
    session.send_task_command({"command": "ready"})
    while True:
        event = await session.next_client_event()
        for number in range(event["data"]):
            spec = {"id": number, "name": "row", "value": number * 0.5, "ok": True}
            session.send_task_command({"command": "row", "spec": spec})
            await session.drain()


def thread_push() -> None:
    """Do what `push` does in a thread."""
    session = get_current_session()
    session.send_task_command({"command": "ready"})
    while True:
        event = session.next_client_event()
        for number in range(event["data"]):
            spec = {"id": number, "name": "row", "value": number * 0.5, "ok": True}
            session.send_task_command({"command": "row", "spec": spec})


async def flood() -> None:
    """Take as many events as the first one says, then send a command."""
    session = get_current_session()
    session.send_task_command({"command": "ready"})
    event = await session.next_client_event()
    for _ in range(event["data"]):
        await session.next_client_event()
    session.send_task_command({"command": "done"})


async def hello() -> None:
    """Send a command and end."""
    get_current_session().send_task_command({"command": "ready"})


apps = {app.__name__: app for app in (echo, thread_echo, click, push, thread_push, flood, hello)}
