"""The same client for code without asyncio: each call blocks, and one loop in the background does the work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from .client import SessionClient
from .conversation import Closed, Command, Position
from .errors import SessionEnded
from .session import ClientSession

__all__ = ["SyncClientSession", "SyncSessionClient"]

T = TypeVar("T")

# What is still under way when a client is closed gets so long to end.
LAST_SECONDS = 1.0


class SyncClientSession:
    """A `ClientSession` whose calls block; enter it with ``with``, iterate over it with ``for``.

    Several threads may use it: one that takes commands, others that send.
    """

    def __init__(self, session: ClientSession, loop: _BackgroundLoop) -> None:
        self._session = session
        self._loop = loop
        self._given: Command | None = None

    @property
    def id(self) -> str:
        """See `ClientSession.id`."""
        return self._session.id

    @property
    def closed(self) -> Closed | None:
        """See `ClientSession.closed`."""
        return self._session.closed

    @property
    def draining(self) -> bool:
        """See `ClientSession.draining`."""
        return self._session.draining

    @property
    def attached(self) -> bool:
        """See `ClientSession.attached`."""
        return self._session.attached

    @property
    def taken_over(self) -> int:
        """See `ClientSession.taken_over`."""
        return self._session.taken_over

    @property
    def position(self) -> Position:
        """See `ClientSession.position`."""
        position = self._session.position
        # A command that Ctrl-C kept from the caller is in nobody's hand.
        return position if self._given is None else replace(position, received=position.received - 1)

    def send_event(self, event: str, data: Any = None, *, task_id: str = "") -> None:
        """See `ClientSession.send_event`."""
        self._loop.run(self._session.send_event(event, data, task_id=task_id))

    def close(self, reason: str = "", *, now: bool = False) -> Closed:
        """See `ClientSession.close`."""
        return self._loop.run(self._session.close(reason, now=now))

    def detach(self) -> Position:
        """See `ClientSession.detach`."""
        return self._loop.run(self._detach())

    def __iter__(self) -> Iterator[Command]:
        return self

    def __next__(self) -> Command:
        """Return the next command; see `ClientSession.__anext__`."""
        command = self._loop.run(self._next())
        self._given = None
        if command is None:  # a StopAsyncIteration cannot pass through a future
            raise StopIteration
        return command

    async def _detach(self) -> Position:
        self._take_back()
        return await self._session.detach()

    def _take_back(self) -> None:
        """Have a command that Ctrl-C kept from the caller come again: nobody has it, so it is not acknowledged."""
        if self._given is not None:
            self._session._give_back(self._given)
            self._given = None

    async def _next(self) -> Command | None:
        self._take_back()
        self._given = await anext(self._session, None)
        return self._given

    def __enter__(self) -> SyncClientSession:
        """Open or resume it; see `ClientSession.__aenter__`."""
        try:
            self._loop.run(self._session.__aenter__())
        except BaseException:
            self._loop.post(self._session._renounce)  # Ctrl-C may have come when it was open already
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it, unless that has been done."""
        self._loop.run(self._session.__aexit__(kind, error, traceback))


class SyncSessionClient:
    """A `SessionClient` whose sessions block; enter it with ``with``.

    ::

        with SyncSessionClient("localhost:50051") as client:
            with client.open("greet", params={"name": "Ada"}) as session:
                for command in session:
                    session.send_event("answer", 36, task_id=command.task_id)
    """

    def __init__(self, target: str, **options: Any) -> None:
        """Take what `SessionClient` takes; credentials and hooks are called on the background loop's thread."""
        self._client = SessionClient(target, **options)
        self._loop = _BackgroundLoop()

    def open(
        self,
        app: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        resumable: bool = True,
        resume_window: float | None = None,
        request_id: str | None = None,
    ) -> SyncClientSession:
        """See `SessionClient.open`."""
        session = self._client.open(
            app,
            params=params,
            headers=headers,
            resumable=resumable,
            resume_window=resume_window,
            request_id=request_id,
        )
        return SyncClientSession(session, self._loop)

    def resume(self, position: Position) -> SyncClientSession:
        """See `SessionClient.resume`."""
        return SyncClientSession(self._client.resume(position), self._loop)

    def close(self) -> None:
        """See `SessionClient.close`."""
        try:
            self._loop.run(self._client.close())
        except SessionEnded:
            return  # it is closed already
        self._loop.stop()

    def __enter__(self) -> SyncSessionClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _BackgroundLoop:
    """An event loop in a thread of its own, until it is stopped."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, args=(self._loop,), name="session-client", daemon=True)
        self._thread.start()

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        loop.run_until_complete(_end_tasks())
        loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a hook runs on the client's own thread, where nothing may block")
        with self._lock:
            if self._loop is None:
                coroutine.close()
                raise SessionEnded("the client is closed: make a new one")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C here cancels the call there
            raise

    def post(self, func: Callable[[], object]) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(func)

    def stop(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()


async def _end_tasks() -> None:
    """Let what other threads wait for, and what gRPC has begun, come to its end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=LAST_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
