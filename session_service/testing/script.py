"""A client that is a list: hands its events to an app, each when its turn has come, and keeps the commands."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..payload import (
    Format,
    command_encoder,
    decode_command_spec,
    decode_event,
    decode_struct,
    encode_event,
    encode_struct,
)
from ..session import AbstractSession, CloseReason, get_session_info_from_headers
from ..session.app import check_app
from ..session.kinds import class_of
from ..v1 import session_pb2 as pb
from .clock import VirtualLoop
from .watched import Watch

__all__ = ["Close", "Event", "Pause", "Script", "ScriptError", "Step", "Transcript", "run"]

# What a server with its default settings takes and sends at most (protocol F7).
MAX_PAYLOAD = 4_000_000 - 1024

DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Event:
    """A step: the client sends an event.

    Attributes:
        event: its name; ``callback`` for a callback.
        data: a JSON value, ``bytes`` or a protobuf message.
        task_id: the task, or the callback, that it is for; empty for the main task.
    """

    event: str
    data: Any = None
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: the client lets so many seconds pass, and then takes its next step whatever the app is doing."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """A step: the client closes the session now, without waiting for its tasks (``close{now}``)."""


Step = Event | Pause | Close | Callable[[list[dict[str, Any]]], Event | Pause | Close | None]
Script = Iterable[Step]


@dataclass(frozen=True, slots=True)
class Transcript:
    """What came of it.

    Attributes:
        commands: all that the app has sent, as ``{"command", "task_id", "spec"}``, as a client gets them.
        reason: why the session ended.
        message: what the client was told about that.
        errors: the exceptions that left tasks, callbacks and deferred calls.
        seconds: the virtual time that it took.
    """

    commands: list[dict[str, Any]]
    reason: CloseReason
    message: str
    errors: list[BaseException]
    seconds: float


class ScriptError(AssertionError):
    """The app and the script do not fit together, or the app hangs; the text says where its tasks are."""


def run(
    app: Callable[[], Any],
    script: Script = (),
    *,
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    limit: float = DAY,
    patience: float = 10.0,
    check: bool = True,
) -> Transcript:
    """Run an app, of either kind, to its end, against a client that does what ``script`` says.

    The client takes a step when the app waits for it: nothing runs, and a task waits for an event, or a callback is
    registered, or nothing else could move the app. Where no step is left it has no more to say, as one that sends
    ``close``: waiting for another event raises `SessionClosedException` then.

    The event loop's time is virtual: it stands still while code runs, and where only timers are left it jumps to the
    next. So the waiting of a coroutine takes no time, nor does ``next_client_event(timeout=...)`` of a thread; what a
    thread does otherwise, `time.sleep` included, takes the time it takes, to the loop as well.

    Args:
        app: what a server would be given. Its `asyncio.to_thread`, executors and sockets are waited for; processes, and
            threads that it makes by `threading.Thread` itself, are not noticed.
        script: `Event`, `Pause`, `Close`, or a function that is called with the commands so far: to assert something,
            and to return the step to take, one that answers a command for example.
        params: what the client opens the session with.
        headers: those of the person's browser, for ``session.info``.
        limit: virtual seconds that it may take.
        patience: real seconds that it may take.
        check: raise the first exception that left a task, a callback or a deferred call.

    Raises:
        TypeError: it is no app; the text says why.
        ScriptError: the session has ended and steps are left, an event is for nobody, tasks have not unwound, or it
            takes too long.
        PayloadError: an event or a parameter cannot be carried exactly.
        BaseException: what a function of the script raised or, where ``check``, the app.
    """
    check_app(str(getattr(app, "__qualname__", app)), app)
    performance = _Performance(app, list(script), params or {}, headers or {}, limit)
    outcome: concurrent.futures.Future[Transcript] = concurrent.futures.Future()

    def perform() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: performance.loop) as runner:
                transcript = runner.run(performance.perform(check))
        except BaseException as error:  # the test's to raise
            outcome.set_exception(error)
        else:
            outcome.set_result(transcript)

    # In a thread of its own, so that the test goes on even where the app blocks the loop.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(perform,), name="session_service.testing", daemon=True)
    thread.start()
    try:
        done, _ = concurrent.futures.wait({outcome}, patience)
        if not done:
            raise ScriptError(f"{patience:g} real seconds are over:{performance.whereabouts(thread)}")
    finally:
        performance.give_up()
    return outcome.result()


class _Performance:
    """One run: the client's side, and how it went."""

    def __init__(
        self,
        app: Callable[[], Any],
        script: list[Step],
        params: Mapping[str, Any],
        headers: Mapping[str, str],
        limit: float,
    ) -> None:
        self._app = app
        self._script = script
        self._params = decode_struct(encode_struct(params, "params"), "params")
        self._info = get_session_info_from_headers(headers)
        self.loop = VirtualLoop(limit)
        self._watch = Watch(app)
        self._session: AbstractSession | None = None
        self._commands: list[dict[str, Any]] = []
        self._next = 0  # step
        self._turn: asyncio.Future[None] | None = None  # of the next step
        self._paused = False  # before it
        self._room = asyncio.Event()
        self._ended: asyncio.Future[None] = self.loop.create_future()
        self._stuck: asyncio.Future[str] = self.loop.create_future()

    async def perform(self, check: bool) -> Transcript:
        """Run the session to its end; called once, on the loop."""
        watch = self._watch
        self._session = session = class_of(self._app)(
            self._app,
            self._info,
            self._on_task_command,
            lambda _: self._ended.set_result(None),
            lambda _: self._room.set(),
            params=self._params,
            encode=command_encoder(Format.JSON, MAX_PAYLOAD),
            kind=watch.kind,
        )
        self.loop.threads = lambda: watch.threads(session) + len(self.loop.jobs)
        self.loop.on_idle = self._on_idle
        self.loop.on_stuck = self._stuck.set_result
        session.notify_attach(resumed=False)
        problem: BaseException | None = None
        try:
            await self._converse(session)
        except BaseException as error:  # an assertion of the script, most likely
            if not check or not watch.errors:  # what failed in the app before is the cause
                problem = error
        session.close(reason=CloseReason.CLIENT)
        await self._ended
        if check and problem is None and watch.errors:
            problem = watch.errors[0]
        elif check and problem is None and session.abandoned:
            problem = ScriptError(f"{session.abandoned} tasks did not end within the grace of a close, says the log")
        if problem is not None:
            raise problem
        assert session.close_reason is not None
        return Transcript(self._commands, session.close_reason, session.close_message, watch.errors, self.loop.time())

    def whereabouts(self, thread: threading.Thread) -> str:
        """Say what the loop runs in its ``thread``, and where each task is now; from any thread."""
        stack = traceback.extract_stack(sys._current_frames().get(thread.ident or 0))
        begins = [number for number, frame in enumerate(stack, 1) if frame.filename == asyncio.events.__file__]
        running = "".join(traceback.format_list(stack[begins[-1] :])) if begins else ""
        return (running and f"\nthe event loop is here:\n{running}") + (
            self._watch.whereabouts(self._session) if self._session is not None else ""
        )

    def give_up(self) -> None:
        """End what goes on without a test; from any thread."""
        if self._session is not None:
            self._session.close()

    async def _converse(self, session: AbstractSession) -> None:
        client = self.loop.create_task(self._play(session))
        over: set[asyncio.Future[Any]] = {self._ended, self._stuck}
        await asyncio.wait({client, *over}, return_when=asyncio.FIRST_COMPLETED)
        if client.done():
            client.result()
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        client.cancel()
        if self._stuck.done():
            raise ScriptError(f"{self._stuck.result()}:{self._watch.whereabouts(session)}")
        if self._next < len(self._script):
            left = f"step {self._next + 1} of {len(self._script)} was not taken: {self._script[self._next]}"
            raise ScriptError(f"the session is over, {session.close_reason}, and {left}")

    async def _play(self, session: AbstractSession) -> None:
        for step in self._script:
            if not isinstance(step, Pause):
                await self._wait_turn()
            self._next += 1
            taken = step(list(self._commands)) if callable(step) else step
            if taken is not None:
                await self._take(session, taken)
        await self._wait_turn()
        session.end_events()

    async def _wait_turn(self) -> None:
        self._turn = self.loop.create_future()
        await self._turn
        self._paused = False

    def _on_idle(self, no_timer: bool) -> bool:
        session, turn = self._session, self._turn
        if session is None or session.closed() or turn is None or turn.done():
            return False
        asks = self._watch.waits_for_client(session) or (no_timer and not self.loop.has_sockets)
        if self._paused or (asks and self.loop.threads() <= 0):
            turn.set_result(None)
            return True
        return False

    async def _take(self, session: AbstractSession, step: Event | Pause | Close) -> None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            self._paused = True
        elif isinstance(step, Close):
            session.close(reason=CloseReason.CLIENT)
        else:
            data, size = encode_event(step.event, step.task_id, step.data, MAX_PAYLOAD)
            event = decode_event(pb.AttachRequest.FromString(data).events[0])
            dropped = session.dropped
            while not session.send_client_event(event, size):
                self._room.clear()
                await self._room.wait()
            if session.dropped > dropped:
                raise ScriptError(f"{step} is for no task and no callback of this session")

    def _on_task_command(self, session: AbstractSession) -> None:
        for item in session.get_task_commands():
            (command,) = pb.AttachResponse.FromString(item.data).commands
            spec = decode_command_spec(command)
            self._commands.append({"command": command.command, "task_id": command.task_id, "spec": spec})
