"""The same work on PyWebIO, over its own aiohttp server. Runs in an environment of its own.

Apps of one kind to a process: with both, PyWebIO looks at each call which kind the caller is.
"""

from __future__ import annotations

import socket
import sys

import uvloop
from pywebio.platform.aiohttp import start_server
from pywebio.session import get_current_session, get_current_task_id


def command(name: str, spec: object, task_id: str) -> dict[str, object]:
    """Return a command as `pywebio.io_ctrl.send_msg` makes it."""
    return {"command": name, "spec": spec, "task_id": task_id}


async def echo() -> None:
    """Answer each event with a command of the same payload."""
    session, task_id = get_current_session(), get_current_task_id()
    session.send_task_command(command("ready", None, task_id))
    while True:
        event = await session.next_client_event()
        session.send_task_command(command("echo", event["data"], task_id))


async def push() -> None:
    """Send as many commands as each event asks for."""
    session, task_id = get_current_session(), get_current_task_id()
    session.send_task_command(command("ready", None, task_id))
    while True:
        event = await session.next_client_event()
        for number in range(event["data"]):
            spec = {"id": number, "name": "row", "value": number * 0.5, "ok": True}
            session.send_task_command(command("row", spec, task_id))


async def hello() -> None:
    """Send a command and end."""
    get_current_session().send_task_command(command("ready", None, get_current_task_id()))


def thread_echo() -> None:
    """Do what `echo` does in a thread."""
    session, task_id = get_current_session(), get_current_task_id()
    session.send_task_command(command("ready", None, task_id))
    while True:
        event = session.next_client_event()
        session.send_task_command(command("echo", event["data"], task_id))


def thread_push() -> None:
    """Do what `push` does in a thread."""
    session, task_id = get_current_session(), get_current_task_id()
    session.send_task_command(command("ready", None, task_id))
    while True:
        event = session.next_client_event()
        for number in range(event["data"]):
            spec = {"id": number, "name": "row", "value": number * 0.5, "ok": True}
            session.send_task_command(command("row", spec, task_id))


def main(kind: str, loop: str = "") -> None:
    """Serve the apps of a kind, ``coroutine`` or ``thread``, until killed; ``loop`` may be ``uvloop``."""
    apps = [echo, push, hello] if kind == "coroutine" else [thread_echo, thread_push]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if loop == "uvloop":
        uvloop.install()
    start_server(apps, port=port, host="127.0.0.1", cdn=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
