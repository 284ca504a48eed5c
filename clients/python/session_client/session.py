"""A session as an application sees it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import grpc

from . import mistakes
from .attachment import Attachment, AttachmentState
from .connections import Connection
from .conversation import Closed, Command, Conversation, Position
from .errors import PoisonedEvent, SessionClientError, SessionEnded, SessionLost, SessionRefused, TakenOver
from .patience import Patience
from .probe import find_mistake
from .retry import RetryPolicy
from .stream import Call, Stream, StreamEnd

__all__ = ["ClientSession", "Credentials"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

Credentials = Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]
"""Asked at each attach for the metadata that says who is calling."""

# Without an ErrorInfo these are for good (protocol D7).
_FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
}

# A client repeats an open for so many seconds, then the outcome is unknown (protocol A6).
REPEAT_OPEN = 60.0

# Seconds that leaving a session with an exception, or without having opened it, waits for the server's answer.
LEAVE_TIME = 5.0

# What closes in the background what was opened for nobody (protocol A6).
_closings: set[asyncio.Task[None]] = set()


def _lets_others_run(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Suspend once before a call raises: else a loop that goes on asking after the end would freeze the event loop."""

    @functools.wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except Exception:
            await asyncio.sleep(0)
            raise

    return call


class ClientSession:
    """One session; made by `SessionClient.open` and `SessionClient.resume`, entered with ``async with``.

    Iterate over it for the commands. A command is acknowledged when the next one is asked for, or the session is left:
    what an application had not taken before it died is sent again to whoever resumes. Every call may be cancelled; the
    session is then as usable as before.

    Leaving it without an exception closes it and waits for the end; with one it is closed ``now``; after `detach`
    nothing happens.
    """

    def __init__(
        self,
        conversation: Conversation,
        enter: Callable[[ClientSession], None],
        connect: Callable[[Mapping[str, str]], tuple[Call, Connection]],
        secure: bool,
        credentials: Credentials | None,
        policy: RetryPolicy,
        on_attachment: Callable[[Attachment], None] | None,
    ) -> None:
        self._conversation = conversation
        self._enter = enter
        self._connect = connect
        self._secure = secure
        self._credentials = credentials
        self._policy = policy
        self._on_attachment = on_attachment
        self._stream: Stream | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._error: SessionClientError | None = None
        self._told = False  # a call has raised the error
        self._entered = False
        self._detached = False
        self._attachments = 0
        self._answered = False  # the stream has been counted
        self._left = asyncio.Event()  # nobody waits for the open any more
        self._reading = False
        self._waiters: set[asyncio.Future[None]] = set()

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The session's id: public, in the server's logs."""
        return self._conversation.id

    @property
    def closed(self) -> Closed | None:
        """How the session ended, known before the commands that came before have been taken; None until then."""
        return None if self._conversation.given_up else self._conversation.closed

    @property
    def draining(self) -> bool:
        """Whether the server has said that it shuts down."""
        return self._conversation.draining

    @property
    def attached(self) -> bool:
        """Whether a stream carries it just now."""
        return self._conversation.attached

    @property
    def taken_over(self) -> int:
        """The last event that the session is known to have taken over; after a `resume`, where to send from.

        Of a plain session nothing is known: 0.
        """
        return self._conversation.taken_over

    @property
    def position(self) -> Position:
        """Where this client is: save it, and `SessionClient.resume` goes on from there in another process."""
        return self._conversation.position

    # --- what to do ---------------------------------------------------------------------------------------------------

    @_lets_others_run
    async def send_event(self, event: str, data: Any = None, *, task_id: str = "") -> None:
        """Send an event; wait while the window is full. It survives any number of lost connections.

        Args:
            event: its name.
            data: a JSON value, ``bytes`` or a protobuf message, taken as it stands when there is room.
            task_id: the task, or the callback, that it is for; empty for the main task.

        Raises:
            PayloadError: ``data`` cannot be carried exactly.
            SessionEnded: the session is over, or closed or detached by this client.
            SessionClientError: it was lost or refused.
        """
        while True:
            if self.closed is not None or self._detached or self._conversation.closing:
                raise SessionEnded("the session has ended: nothing can be sent any more")
            self._check()
            if self._conversation.send(event, data, task_id):
                break
            await self._change()
        self._wake()

    def __aiter__(self) -> AsyncIterator[Command]:
        return self

    @_lets_others_run
    async def __anext__(self) -> Command:
        """Return the next command, which acknowledges the one before; stop when the session has ended."""
        if self._reading:
            raise RuntimeError("another task is waiting for this session's next command: only one can")
        self._reading = True
        try:
            while True:
                item = None if self._detached or self._conversation.given_up else self._conversation.take()
                self._wake()
                if isinstance(item, Command):
                    return item
                if self._detached or self.closed is not None:
                    raise StopAsyncIteration
                self._check()
                await self._change()
        finally:
            self._reading = False

    @_lets_others_run
    async def close(self, reason: str = "", *, now: bool = False) -> Closed:
        """End the session and wait for its end; events sent before are still taken, deferred calls run.

        Commands that come meanwhile can be iterated over afterwards.

        Args:
            reason: for the server's log.
            now: cancel the app's tasks instead of letting them finish.

        Raises:
            SessionEnded: it has been detached.
            SessionClientError: it was lost or refused.
        """
        if self._detached:
            raise SessionEnded("the session is detached: resume it to close it")
        self._conversation.close(reason, now)
        self._wake()
        while (closed := self.closed) is None:
            self._check()
            await self._change()
        await self._finish()
        return closed

    @_lets_others_run
    async def detach(self) -> Position:
        """Leave the session running without this client, once it has taken over all events; return where to go on.

        The command that was taken last counts as done.

        Raises:
            SessionEnded: it is plain, so it ends with its stream.
            SessionClientError: it was lost or refused.
        """
        if self._detached:
            await asyncio.sleep(0)  # as where it raises
            return self.position
        if self.closed is None:
            self._check()
        if not self._conversation.resumable:
            raise SessionEnded("a plain session cannot be detached: open it with resumable=True")
        while not self._conversation.outbox.empty and self.closed is None:
            self._check()
            await self._change()
        self._detached = True
        self._conversation.release()
        await self._abandon()
        return self.position

    @_lets_others_run
    async def __aenter__(self) -> ClientSession:
        """Open or resume it, and wait until that has succeeded.

        Raises:
            SessionClientError: it was refused, or could not be reached in time.
        """
        if self._supervisor is not None:
            raise RuntimeError("a session can be entered once: `resume` its position in another one")
        self._enter(self)
        if self._error is not None:
            raise self._error
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise())
        try:
            while not self._attachments or self._conversation.given_up:
                self._check()
                await self._change()
        except BaseException:
            if not self._give_up():
                await self._abandon()
            raise
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it, unless that has been done."""
        try:
            if self._detached or self.closed is not None or self._error is not None:
                await self._finish()
            elif error is None:
                await self.close()
            else:
                async with asyncio.timeout(LEAVE_TIME):
                    await self.close(now=True)
        except (SessionClientError, TimeoutError) as problem:
            if error is None:
                raise
            logger.info("session %s: could not be closed: %s", self.id, problem)
        finally:
            await self._abandon()

    # --- how ----------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._supervisor is None:
            raise RuntimeError("enter the session first: `async with client.open(...) as session`")
        if self._error is not None:
            self._told = True
            raise self._error

    async def _supervise(self) -> None:
        """Attach, again and again, until the session has ended or there is no hope."""
        loop, conversation = asyncio.get_running_loop(), self._conversation
        patience, fresh, defect_at = Patience(self._policy, loop.time()), False, None
        try:
            while True:
                call, connection = self._connect(await self._metadata())
                last = conversation.given_up
                self._stream = Stream(call, connection, conversation, patience, self._on_response)
                self._answered = False
                end = await self._stream.run(self._policy.attach_timeout)
                if end is None or last or (conversation.given_up and conversation.closed is not None):
                    return
                if end.crowded:
                    continue  # on another connection
                if self._answered:
                    fresh = False
                if end.retry not in ("", "RESUME"):
                    conversation.may_run = False
                patience.broke(loop.time(), conversation.outbox.acked + 1, ours=bool(end.retry))
                unauthenticated = end.code is grpc.StatusCode.UNAUTHENTICATED
                repeated = end.defect_at is not None and end.defect_at == defect_at
                exhausted = repeated or (fresh and unauthenticated)
                fresh, defect_at = fresh or unauthenticated, end.defect_at
                delay = 0.0 if unauthenticated else max(patience.next_delay(), end.retry_delay)
                problem = await self._verdict(end, exhausted, patience.spent(loop.time()) + delay)
                if problem is None and patience.poisoned and (head := conversation.outbox.head) is not None:
                    why = f"{end.code.name}: {end.message}"
                    problem = PoisonedEvent(conversation.outbox.acked + 1, head[1], why, conversation.taken_over)
                if problem is not None and conversation.closed is not None:
                    return  # with `closed` in hand it is no loss: the server only has not heard the last ack
                error = f"{end.reason or end.code.name}: {end.message}"
                self._tell(AttachmentState.LOST, error, None if problem is not None else delay)
                if problem is not None:
                    self._error = self._error or problem
                    if isinstance(problem, SessionRefused) or not self._give_up():
                        return
                await self._pause(delay)
        except SessionClientError as problem:
            self._error = problem
        except asyncio.CancelledError:
            pass  # by this session alone. A task that ends with it keeps its frames, and with them the call, in a cycle
        except Exception as defect:
            logger.exception("session %s: a defect of the client", self.id)
            self._error = SessionLost(f"a defect of the client: {defect!r}", self.taken_over)
        finally:
            if self._error is None and conversation.closed is None:
                self._error = SessionEnded("this client has left the session")
            self._stream = None
            self._fire()

    async def _verdict(self, end: StreamEnd, exhausted: bool, seconds: float) -> SessionClientError | None:
        """Return what ends the session for this client; None to try again (D7).

        Args:
            end: how the stream ended.
            exhausted: what could be tried has been tried.
            seconds: without progress, until the next try.
        """
        conversation = self._conversation
        taken_over = max(conversation.taken_over, end.received)
        refusal = TakenOver if end.reason == "TAKEN_OVER" else SessionRefused
        problem = refusal(end.message, end.code, end.reason, end.details, taken_over)
        if exhausted or end.retry not in ("", "RESUME", "REOPEN"):
            return problem
        is_first = not conversation.opened and end.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        if not end.retry and (end.code in _FINAL or is_first):
            return problem
        if not end.retry and not self._attachments:
            meaning = mistakes.explain(end.code, end.message) or await find_mistake(end.message, self._secure)
            if meaning:
                return SessionLost(f"{meaning} ({end.code.name}: {end.message})", taken_over)
        refused = end.retry == "REOPEN" or (end.retry and end.code is grpc.StatusCode.UNAUTHENTICATED)
        if not conversation.resumable and (self._attachments or not refused):
            # Whether an open without a request id has run the app is not known (A6).
            return SessionLost(f"the stream of a plain session broke: {end.code.name} {end.message}", taken_over)
        if end.retry == "REOPEN" and (conversation.opened or end.reason == "SESSION_NOT_FOUND"):
            return SessionLost(f"{end.reason}: {end.message}", taken_over)
        limit = self._policy.total if conversation.opened else min(self._policy.total, REPEAT_OPEN)
        if seconds > limit:
            what = "not reached" if conversation.opened else "not opened, as far as is known,"
            text = f"the session was {what} within {limit:g} s: {end.code.name} {end.message}"
            return SessionLost(text, taken_over)
        return None

    async def _abandon(self) -> None:
        """Leave the session as it is, without a word to the server; calls that wait raise `SessionEnded`.

        But one that is being opened is closed, for nobody could resume it.
        """
        if self._supervisor is not None:
            self._leave()
            await asyncio.gather(self._supervisor, return_exceptions=True)

    def _give_up(self) -> bool:
        """Have what is being opened closed in the background; return False where there is nothing to close (A6).

        A plain session needs no word: it ends with its stream.
        """
        conversation, supervisor = self._conversation, self._supervisor
        if self._entered or supervisor is None or supervisor.done():
            return False
        if not conversation.given_up:
            if not conversation.may_run or not conversation.resumable:
                return False
            logger.info("session %s: the open is given up, so it is closed", self.id)
            self._error = self._error or SessionEnded("this client has given the open up")
            conversation.give_up()
            timer = asyncio.get_running_loop().call_later(LEAVE_TIME, supervisor.cancel)
            _closings.add(supervisor)
            supervisor.add_done_callback(_closings.discard)
            supervisor.add_done_callback(lambda _: timer.cancel())
            self._left.set()
            self._wake()
            self._fire()
        return True

    def _renounce(self) -> None:
        """Leave a session that is being entered, or has been, without the caller's knowing it: nobody will use it."""
        self._error = self._error or SessionEnded("this client has given the open up")
        self._entered = False
        self._leave()

    def _leave(self) -> None:
        if not self._give_up() and self._supervisor is not None:
            if self._stream is not None:
                self._stream.cut()  # at once: it might begin to write the open before the supervisor's turn comes
            self._supervisor.cancel()

    async def _pause(self, seconds: float) -> None:
        """Wait before the next try, unless nobody waits for that any more."""
        try:
            async with asyncio.timeout(seconds):
                await self._left.wait()
        except TimeoutError:
            pass

    def _give_back(self, command: Command) -> None:
        """Undo the last `__anext__`, whose command nobody got: the next one returns it again."""
        self._conversation.give_back(command)

    async def _metadata(self) -> Mapping[str, str]:
        if self._credentials is None:
            return {}
        try:
            async with asyncio.timeout(self._policy.attach_timeout):
                metadata = self._credentials()
                if inspect.isawaitable(metadata):
                    metadata = await metadata
            mistakes.check_metadata(metadata)
            return metadata
        except (Exception, asyncio.CancelledError) as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            what = (
                "the credentials cannot be sent" if isinstance(error, ValueError) else "asking for credentials failed"
            )
            raise SessionLost(f"{what}: {error!r}", self.taken_over) from error

    def _on_response(self) -> None:
        if self._conversation.attached and not self._answered and not self._conversation.given_up:
            self._answered = True
            self._attachments += 1
            self._tell(AttachmentState.ATTACHED if self._attachments == 1 else AttachmentState.RESUMED)
        self._fire()

    def _tell(self, state: AttachmentState, error: str = "", retry_in: float | None = None) -> None:
        if self._conversation.given_up:
            return  # nobody cares
        logger.info("session %s: %s %s", self.id, state.value, error)
        if self._on_attachment is not None:
            try:
                self._on_attachment(Attachment(self, state, error, retry_in))
            except Exception:
                logger.exception("session %s: on_attachment failed", self.id)

    def _wake(self) -> None:
        if self._stream is not None:
            self._stream.wake()

    async def _change(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(future)
        try:
            await future
        finally:
            self._waiters.discard(future)

    def _fire(self) -> None:
        for future in self._waiters:
            if not future.done():
                future.set_result(None)

    async def _finish(self) -> None:
        """Wait until the last acknowledgement is out."""
        if self._detached or self._supervisor is None:
            return
        if self._error is not None:
            if not self._told:  # else the application knows, and may leave quietly
                raise self._error
            return
        self._conversation.take_all()
        self._wake()
        await asyncio.wait({self._supervisor}, timeout=LEAVE_TIME)
