"""Where commands are shown and lines come from: a person's terminal, or pipes and files.

Commands and the prompt go to stdout, whatever is said about the session to stderr.
"""

from __future__ import annotations

import base64
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click
import orjson
from google.protobuf import any_pb2, json_format
from google.protobuf.message import Message
from session_client import Command

from .streams import say, say_line

__all__ = ["Pipes", "Terminal", "printable"]

PROMPT = "> "
# Back to the start of the line, and erase it: what the terminal holds of a half-typed line is still there.
ERASE = "\r\x1b[K"


class Pipes:
    """Commands as JSON, one a line; lines as they come."""

    interactive = False
    encoding = "utf-8"  # as JSON is

    def show(self, command: Command) -> None:
        """Write a command to stdout."""
        shown = {"command": command.command, "task_id": command.task_id, **_payload(command.spec)}
        sys.stdout.buffer.write(orjson.dumps(shown) + b"\n")
        sys.stdout.buffer.flush()

    def say(self, text: str) -> None:
        """Tell something about the session, on one line."""
        say(printable(text))

    def stop_prompting(self) -> None:
        """Nothing to do: there is no prompt."""

    def lines(self) -> Iterator[bytes]:
        """Read stdin, without the ends of lines; blocks.

        Raises:
            OSError: it cannot be read.
        """
        if sys.stdin is None:
            return
        # A file object of its own: a daemon thread that waits within sys.stdin is fatal when the interpreter ends.
        with open(sys.stdin.fileno(), "rb", closefd=False) as stdin:
            for line in stdin:
                yield line.rstrip(b"\r\n")


class Terminal(Pipes):
    """Commands in the form in which one would type them, above a prompt."""

    interactive = True

    def __init__(self) -> None:
        self.encoding = sys.stdin.encoding
        self._lock = threading.Lock()  # commands, lines and news of the connection come from three threads
        self._prompts = True
        self._is_prompting = False

    def show(self, command: Command) -> None:
        """Write a command above the prompt."""
        payload = _payload(command.spec)
        text = orjson.dumps(payload.get("spec", payload)).decode()
        task = "" if command.task_id.startswith("main-") else f"@{command.task_id} "
        self._write(f"{task}{command.command} {text}", err=False)

    def say(self, text: str) -> None:
        """Tell something about the session, above the prompt."""
        self._write(f"* {text}", err=True)

    def lines(self) -> Iterator[bytes]:
        """Prompt for lines; see `Pipes.lines`."""
        self._prompt()
        for line in super().lines():
            with self._lock:
                self._is_prompting = False  # by echoing Enter the terminal has begun a new line
            yield line
            self._prompt()
        with self._lock:
            if self._is_prompting:
                click.echo()
            self._is_prompting = False

    def stop_prompting(self) -> None:
        """Take the prompt away for good."""
        with self._lock:
            if self._is_prompting:
                click.echo(ERASE, nl=False)
            self._prompts = self._is_prompting = False

    def _prompt(self) -> None:
        with self._lock:
            if self._prompts:
                click.echo(PROMPT, nl=False)
            self._is_prompting = self._prompts

    def _write(self, text: str, *, err: bool) -> None:
        with self._lock:
            if self._is_prompting:
                click.echo(ERASE, nl=False)
            if err:
                say_line(printable(text))
            else:
                click.echo(printable(text))
            if self._is_prompting:
                click.echo(PROMPT, nl=False)


def _payload(spec: Any) -> dict[str, Any]:
    """Return the part of a command that depends on its payload, named like the fields on the wire."""
    if isinstance(spec, bytes):
        return {"blob": base64.b64encode(spec).decode()}
    if isinstance(spec, any_pb2.Any):  # a type that this process does not know
        return {"message": {"@type": spec.type_url, "value": base64.b64encode(spec.value).decode()}}
    if isinstance(spec, Message):
        packed = any_pb2.Any()
        packed.Pack(spec)  # so that the JSON says which type it is
        return {"message": json_format.MessageToDict(packed, preserving_proto_field_name=True)}
    return {"spec": spec}


def printable(text: str) -> str:
    """Keep what an app sends on its line, and from steering the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
