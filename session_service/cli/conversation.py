"""What ``attach`` does once its arguments are known; only ``attach`` imports this, and the client with it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

import click
import grpc
from session_client import (
    Attachment,
    AttachmentState,
    CloseReason,
    RetryPolicy,
    SessionClientError,
    SyncClientSession,
    SyncSessionClient,
)

from ..errors import PayloadError
from .line import parse_line
from .terminal import Pipes, Terminal

__all__ = ["converse"]

# How many seconds a single try, and the pause before the next one, may take: people wait for it.
LONGEST_TRY = 10.0
LONGEST_PAUSE = 2.0


def converse(
    address: str,
    app: str,
    params: Mapping[str, Any],
    timeout: float,
    token: str | None = None,
    channel_credentials: grpc.ChannelCredentials | None = None,
) -> int:
    """Hold a session of ``app`` to its end; return the exit code."""
    _end_by_signals()
    is_person = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    screen = Terminal() if is_person else Pipes()
    conversation = _Conversation(screen)
    retry = RetryPolicy(total=timeout, attach_timeout=min(timeout, LONGEST_TRY), maximum=min(timeout, LONGEST_PAUSE))
    try:
        with SyncSessionClient(
            address,
            credentials=None if token is None else lambda: {"authorization": f"Bearer {token}"},
            channel_credentials=channel_credentials,
            retry=retry,
            on_attachment=conversation.on_attachment,
        ) as client:
            try:
                session = client.open(app, params=params)
            except PayloadError as error:
                raise click.BadParameter(f"{error}.", param_hint="'--param'") from None
            conversation.hold(session)
    except SessionClientError as error:
        screen.say(str(error))
        return 1
    closed = session.closed
    assert closed is not None  # since it was left without an exception
    screen.say(f"closed: {closed.reason.name}" + (f": {closed.message}" if closed.message else ""))
    is_good = closed.reason in (CloseReason.COMPLETED, CloseReason.CLIENT)
    return 0 if is_good and not conversation.failed else 1


def _end_by_signals() -> None:
    """Have what would end the process end its session first, as Ctrl-C does: nobody else can resume it."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, signal.default_int_handler)


class _Conversation:
    """One session: this thread shows its commands, another one sends lines, and the client's loop runs in a third.

    So neither a pipe that nobody empties nor a person who types nothing holds up heartbeats and acknowledgements.

    Attributes:
        failed: a script held what could not be sent.
    """

    def __init__(self, screen: Pipes) -> None:
        self.failed = False
        self._screen = screen
        self._is_lost = False

    def on_attachment(self, attachment: Attachment) -> None:
        """Say when the connection is lost, and when it is back; not each try."""
        was_lost, self._is_lost = self._is_lost, attachment.state is AttachmentState.LOST
        if self._is_lost and not was_lost and attachment.retry_in is not None:  # else an exception says why
            self._screen.say(f"no connection ({attachment.error}): trying again")
        elif was_lost and not self._is_lost:
            self._screen.say("connected")

    def hold(self, session: SyncClientSession) -> None:
        """Open it, hold it to its end or until Ctrl-C, and close it."""
        try:
            with session:
                if self._screen.interactive:
                    self._screen.say(f"session {session.id}: Ctrl-D ends the events, Ctrl-C the session")
                threading.Thread(target=self._send_lines, args=(session,), name="stdin", daemon=True).start()
                try:
                    self._show_commands(session)
                except KeyboardInterrupt:
                    self._screen.stop_prompting()
                    self._screen.say("closing: Ctrl-C once more does not wait for it")
                    session.close("Ctrl-C", now=True)
                    self._show_commands(session)
        finally:
            self._screen.stop_prompting()

    def _show_commands(self, session: SyncClientSession) -> None:
        for command in session:
            self._screen.show(command)

    def _send_lines(self, session: SyncClientSession) -> None:
        try:
            for number, line in enumerate(self._screen.lines(), 1):
                try:
                    self._send(session, line)
                except (ValueError, PayloadError) as error:
                    if self._screen.interactive:
                        self._screen.say(f"not sent: {error}")
                    else:  # what follows was written for an app that has had this line
                        self._fail(session, f"line {number}: {error}")
                        return
            session.close()
        except SessionClientError:
            pass  # the thread that shows the commands has met it, too
        except OSError as error:
            self._fail(session, f"cannot read stdin: {error}")

    def _send(self, session: SyncClientSession, line: bytes) -> None:
        if (event := parse_line(line.decode(self._screen.encoding))) is not None:
            session.send_event(event.event, event.data, task_id=event.task_id)

    def _fail(self, session: SyncClientSession, problem: str) -> None:
        self.failed = True
        self._screen.say(problem)
        try:
            session.close("bad input", now=True)
        except SessionClientError:
            pass
