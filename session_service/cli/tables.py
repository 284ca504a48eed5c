"""Sessions as people read them, in tables, and as programs do, in JSON; colours only on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

from google.protobuf import json_format, timestamp_pb2
from google.protobuf.message import Message
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..v1 import admin_pb2 as pb
from ..v1 import session_pb2
from .terminal import printable

__all__ = ["Output"]

# Lines of a terminal that the live table leaves to its head and to the count below it.
AROUND_LIVE = 4

# Columns where nothing is cut, since it is no terminal.
WIDE = 10_000

STYLES = {"attached": "green", "detached": "yellow", "ended": "dim"}


class Output:
    """Writes to stdout.

    Attributes:
        live: a table can be shown that changes.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        terminal = sys.stdout.isatty()
        self._console = Console(highlight=False, width=None if terminal else WIDE)
        self.live = terminal and not as_json

    def list(self, sessions: Iterable[pb.SessionSummary]) -> None:
        """Write a list of sessions."""
        if self._as_json:
            for session in sessions:
                self._write_json(session)
        else:
            self._write(_table(sessions))

    def show(self, session: pb.GetSessionResponse) -> None:
        """Write all of a session."""
        if self._as_json:
            self._write_json(session)
        else:
            for part in _parts(session):
                self._write(part)

    def watch(self, changes: Iterable[pb.WatchSessionsResponse]) -> None:
        """Write changes as they come, a line each."""
        for change in changes:
            if self._as_json:
                self._write_json(change)
            else:
                self._write(_line(change))

    def watch_live(
        self, changes: Iterable[pb.WatchSessionsResponse], ask: Callable[[], Iterable[pb.SessionSummary]]
    ) -> None:
        """Show what sessions there are, until the changes end; ``ask`` returns those that there are now."""
        known = {session.session_id: session for session in ask()}
        with Live(get_renderable=lambda: self._overview(known), console=self._console, refresh_per_second=4):
            for change in changes:
                session = change.session
                if change.missed:
                    known = {session.session_id: session for session in ask()}
                elif change.change == pb.SESSION_CHANGE_ENDED:
                    known.pop(session.session_id, None)
                elif session.state != pb.SESSION_STATE_ENDED:
                    known[session.session_id] = session

    def _overview(self, known: dict[str, pb.SessionSummary]) -> RenderableType:
        sessions = list(known.values())
        rows = max(1, self._console.height - AROUND_LIVE)
        attached = sum(session.state == pb.SESSION_STATE_ATTACHED for session in sessions)
        shown = f", the latest {rows} of them shown" * (len(sessions) > rows)
        count = Text(f"{len(sessions)} sessions, {attached} attached{shown}; Ctrl-C ends", style="dim")
        return Group(_table(sessions[-rows:]), count)

    def _write(self, part: RenderableType) -> None:
        if self._console.is_terminal:
            self._console.print(part)
        else:
            with self._console.capture() as capture:
                self._console.print(part)
            for line in capture.get().splitlines():
                sys.stdout.write(f"{line.rstrip()}\n")
            sys.stdout.flush()

    def _write_json(self, message: Message) -> None:
        text = json_format.MessageToJson(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
        )
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _table(sessions: Iterable[pb.SessionSummary]) -> Table:
    table = _columns("SESSION", "APP", "PRINCIPAL", "STATE", "STREAMS", "AGE", "LAG", "PEER")
    for session in sessions:
        table.add_row(
            session.session_id,
            _text(session.app),
            _text(session.principal or "-"),
            _state(session),
            str(session.generation),
            _age(session.open_time),
            str(session.lag),
            _text(session.peer),
        )
    return table


def _parts(response: pb.GetSessionResponse) -> Iterable[RenderableType]:
    session, events, commands = response.session, response.events, response.commands
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("session", session.session_id),
        ("app", session.app),
        ("principal", session.principal or "-"),
        ("state", _state(session)),
        ("opened", _time(session.open_time)),
        ("resumable", f"for {_seconds(response)} s" if session.resumable else "no"),
    ):
        facts.add_row(Text(name, style="bold"), value if isinstance(value, Text) else _text(value))
    yield facts
    yield ""
    flow = _columns("", "ACKED", "LAST", "UNACKED", "BYTES", "PENDING", "BYTES", "WINDOW", "STALLS", "AGAIN")
    flow.add_row(
        "events",
        *_numbers(events.taken, events.received, events.received - events.taken, events.received_bytes),
        *_numbers(events.pending, events.pending_bytes),
        _window(events.window),
        *_numbers(events.stalls, events.duplicates),
    )
    flow.add_row(
        "commands",
        *_numbers(commands.acked, commands.last, commands.last - commands.acked, commands.unacked_bytes),
        *_numbers(commands.pending, commands.pending_bytes),
        _window(commands.window),
        *_numbers(commands.stalls, commands.replayed),
    )
    yield flow
    yield ""
    attachments = _columns("STREAM", "FROM", "UNTIL", "ENDED BY", "PEER", "USER AGENT")
    for attachment in response.attachments:
        attachments.add_row(
            str(attachment.generation),
            _time(attachment.attach_time),
            _time(attachment.detach_time) if attachment.HasField("detach_time") else "now",
            attachment.detach_reason or "-",
            _text(attachment.peer),
            _text(attachment.user_agent or "-"),
        )
    yield attachments
    yield ""
    tasks = _columns("TASK", "FUNCTION", "WAITS", "EVENTS")
    for task in response.tasks:
        tasks.add_row(task.task_id, _text(task.name), "for an event" if task.waiting else "-", str(task.pending))
    yield tasks
    yield from _more(response.task_count - len(response.tasks), "tasks")
    if response.callbacks:
        yield ""
        callbacks = _columns("CALLBACK", "FUNCTION", "RUNS", "RUNNING", "WAITING")
        for callback in response.callbacks:
            callbacks.add_row(
                callback.callback_id,
                _text(callback.name),
                *_numbers(callback.runs, callback.running, callback.waiting),
            )
        yield callbacks
        yield from _more(response.callback_count - len(response.callbacks), "callbacks")
    for task in response.tasks:
        if task.stack:
            yield ""
            yield Text(f"{task.task_id} is at", style="bold")
            yield Text("\n".join(printable(line) for line in task.stack.splitlines()))


def _line(change: pb.WatchSessionsResponse) -> Text:
    if change.missed:
        return Text(f"{_time(change.time)}  {change.missed} changes were missed", style="red")
    session = change.session
    what = pb.SessionChange.Name(change.change).removeprefix("SESSION_CHANGE_").lower()
    by = change.detach_reason
    if change.change == pb.SESSION_CHANGE_ENDED:
        by = _reason(session)
    words = (session.session_id, f"{what:8}", session.app, session.principal or "-", session.peer, by)
    return Text("  ".join([_time(change.time), *map(printable, filter(None, words))]))


def _columns(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _more(count: int, what: str) -> Iterable[RenderableType]:
    return [Text(f"and {count} {what} more", style="dim")] if count > 0 else []


def _text(text: str) -> Text:
    """Return text that is no markup, and cannot steer the terminal."""
    return Text(printable(text))


def _state(session: pb.SessionSummary) -> Text:
    state = pb.SessionState.Name(session.state).removeprefix("SESSION_STATE_").lower()
    reason = f", {_reason(session)}" if session.close_reason else ""
    return Text(state + reason, style=STYLES.get(state, ""))


def _reason(session: pb.SessionSummary) -> str:
    return session_pb2.CloseReason.Name(session.close_reason).removeprefix("CLOSE_REASON_").lower()


def _numbers(*numbers: int) -> Iterable[str]:
    return map(str, numbers)


def _window(window: session_pb2.Window) -> str:
    return f"{window.messages},{window.bytes}"


def _seconds(response: pb.GetSessionResponse) -> str:
    return f"{response.resume_window.seconds + response.resume_window.nanos / 1e9:g}"


def _time(timestamp: timestamp_pb2.Timestamp) -> str:
    return f"{timestamp.ToDatetime():%Y-%m-%dT%H:%M:%SZ}"


def _age(timestamp: timestamp_pb2.Timestamp) -> str:
    seconds = max(0, int(time.time() - timestamp.seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
