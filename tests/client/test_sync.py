"""The client for code without asyncio: the same, from any thread, with nothing left behind."""

from __future__ import annotations

import asyncio
import inspect
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from session_client import (
    AttachmentState,
    ClientSession,
    CloseReason,
    SessionClient,
    SessionEnded,
    SessionRefused,
    SyncClientSession,
    SyncSessionClient,
)

from session_service import Window
from session_service.config import Config
from session_service.errors import PayloadError
from session_service.examples import apps as examples
from session_service.host import App, SessionManager
from session_service.server import Server
from tests.session.kinds import Gate

from .served import QUICK, echo

PATIENCE = 10.0


class Threaded:
    """A server on a loop in a thread of its own, since the client's calls block the test.

    Attributes:
        address: where it listens.
        manager: its sessions; to be asked through `call`.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def start(self, apps: dict[str, App], **settings: Any) -> str:
        """Serve these apps."""

        async def start() -> Server:
            server = Server(apps, Config(listen="127.0.0.1:0", **settings))
            await server.start()
            return server

        self.server = asyncio.run_coroutine_threadsafe(start(), self.loop).result(PATIENCE)
        return self.server.address

    @property
    def manager(self) -> SessionManager:
        return self.server.manager

    def eventually(self, condition: Callable[[], object]) -> None:
        """Wait on the server's loop for what nothing announces."""

        async def wait() -> None:
            while not condition():  # noqa: ASYNC110 - nothing sets an Event here
                await asyncio.sleep(0.001)

        asyncio.run_coroutine_threadsafe(wait(), self.loop).result(PATIENCE)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.drain(0), self.loop).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()


@pytest.fixture
def threaded() -> Iterator[Threaded]:
    """A server in a thread; a test starts it."""
    threaded = Threaded()
    yield threaded
    threaded.stop()


# --- the same ---------------------------------------------------------------------------------------------------------


def public(cls: type) -> dict[str, Any]:
    return {name: member for name, member in inspect.getmembers(cls) if not name.startswith("_")}


@pytest.mark.parametrize(("one", "two"), [(SessionClient, SyncSessionClient), (ClientSession, SyncClientSession)])
def test_both_forms_have_the_same_members(one: type, two: type) -> None:
    async_members, sync_members = public(one), public(two)
    assert async_members.keys() == sync_members.keys()
    for name, member in async_members.items():
        other = sync_members[name]
        assert isinstance(other, property) is isinstance(member, property), name
        assert other.__doc__, name
        assert not inspect.iscoroutinefunction(other), name
        if callable(member):
            mine, theirs = inspect.signature(member).parameters, inspect.signature(other).parameters
            assert [(p.name, p.kind, p.default) for p in mine.values()] == [
                (p.name, p.kind, p.default) for p in theirs.values()
            ], name


def test_the_protocols_of_the_language_are_the_blocking_ones() -> None:
    for cls in (SyncSessionClient, SyncClientSession):
        assert {"__enter__", "__exit__"} <= vars(cls).keys()
    assert {"__iter__", "__next__"} <= vars(SyncClientSession).keys()


@pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])
def test_the_example_of_the_documentation_works(threaded: Threaded, resumable: bool) -> None:
    address = threaded.start(dict(examples))
    commands = []
    with SyncSessionClient(address) as client:
        with client.open("greet", params={"name": "Ada"}, resumable=resumable) as session:
            for command in session:
                commands.append(command.command)
                if command.command == "ask":
                    session.send_event("answer", 36, task_id=command.task_id)
        assert session.closed is not None
        assert session.closed.reason is CloseReason.COMPLETED
    assert commands == ["ask", "greeting"]


def test_options_and_hooks_are_those_of_the_async_client(threaded: Threaded) -> None:
    address = threaded.start({"echo": echo})
    told: list[AttachmentState] = []
    asked: list[str] = []

    def credentials() -> dict[str, str]:
        asked.append(threading.current_thread().name)
        return {}

    window = Window(3, 1 << 20)
    with (
        SyncSessionClient(
            address,
            credentials=credentials,
            command_window=window,
            on_attachment=lambda change: told.append(change.state),
        ) as client,
        client.open("echo") as session,
    ):
        assert session.attached
        assert not session.draining
        assert session.id
        [managed] = threaded.manager
        assert managed.outbox.window == window
    assert told == [AttachmentState.ATTACHED]
    assert asked == ["session-client"]


def test_a_position_goes_from_one_client_to_another(threaded: Threaded) -> None:
    address = threaded.start({"echo": echo})
    with SyncSessionClient(address) as one, one.open("echo") as session:
        for number in range(3):
            session.send_event("say", number)
        assert next(session).spec == 0
        position = session.detach()
        assert session.position == position
    assert session.closed is None
    with SyncSessionClient(address) as two, two.resume(position) as session:
        assert session.taken_over == 3
        assert [next(session).spec for _ in range(2)] == [1, 2]
        closed = session.close("enough")
        assert closed is session.closed
        assert list(session) == []
        with pytest.raises(StopIteration):
            next(session)


def test_errors_are_raised_where_the_call_is(threaded: Threaded) -> None:
    address = threaded.start({"echo": echo})
    with SyncSessionClient(address) as client:
        with pytest.raises(SessionRefused, match="APP_NOT_FOUND"):
            client.open("nope").__enter__()
        with pytest.raises(PayloadError):
            client.open("echo", params={"n": float("nan")})
        with client.open("echo") as session:
            with pytest.raises(PayloadError):
                session.send_event("say", {1, 2})
            session.send_event("say", 1)
            assert next(session).spec == 1


def test_leaving_with_an_exception_closes_now(threaded: Threaded) -> None:
    fate = Gate()

    async def app() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            fate.open("cancelled")
            raise

    address = threaded.start({"app": app})
    with SyncSessionClient(address) as client:
        with pytest.raises(ZeroDivisionError), client.open("app") as session:
            raise ZeroDivisionError
        assert fate.block() == "cancelled"
        assert session.closed is not None


# --- threads ----------------------------------------------------------------------------------------------------------


def test_several_threads_send_while_one_reads(threaded: Threaded) -> None:
    address = threaded.start({"echo": echo}, event_window=Window(16, 1 << 16))
    with (
        SyncSessionClient(address) as client,
        client.open("echo") as session,
        ThreadPoolExecutor(4) as pool,
    ):

        def send(thread: int) -> None:
            for number in range(100):
                session.send_event("say", [thread, number])

        sending = [pool.submit(send, thread) for thread in range(4)]
        heard = [next(session).spec for _ in range(400)]
        for future in sending:
            future.result(PATIENCE)
    for thread in range(4):
        assert [number for who, number in heard if who == thread] == list(range(100))


def test_sessions_of_several_threads_share_one_client(threaded: Threaded) -> None:
    address = threaded.start({"echo": echo})
    with SyncSessionClient(address) as client, ThreadPoolExecutor(8) as pool:

        def talk(thread: int) -> list[Any]:
            with client.open("echo", resumable=bool(thread % 2)) as session:
                session.send_event("say", thread)
                return [next(session).spec]

        assert list(pool.map(talk, range(16))) == [[thread] for thread in range(16)]


def test_a_thread_that_waits_hears_of_the_close_of_another(threaded: Threaded) -> None:
    address = threaded.start({"echo": echo})
    with SyncSessionClient(address) as client, client.open("echo") as session, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, session)
        threaded.eventually(lambda: session._session._waiters)
        session.close()
        assert reading.result(PATIENCE) == []


def test_only_one_thread_can_wait_for_commands(threaded: Threaded) -> None:
    address = threaded.start({"echo": echo})
    with SyncSessionClient(address) as client, client.open("echo") as session, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(next, session)
        threaded.eventually(lambda: session._session._waiters)
        with pytest.raises(RuntimeError, match="only one"):
            next(session)
        session.send_event("say", 1)
        assert reading.result(PATIENCE).spec == 1


def test_a_call_from_a_hook_is_an_error_and_no_deadlock(threaded: Threaded) -> None:
    address = threaded.start({"echo": echo})
    raised: list[BaseException] = []

    def hook(_: object) -> None:
        try:
            session.send_event("say", 1)
        except BaseException as error:
            raised.append(error)

    with SyncSessionClient(address, on_attachment=hook) as client:
        session = client.open("echo")
        with session:
            pass
    assert [type(error) for error in raised] == [RuntimeError]


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


class Interrupt(BaseException):
    """What a signal handler raises: as KeyboardInterrupt, and pytest lives on."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Interrupts what the main thread waits for, as Ctrl-C does."""

    def raise_(*_: object) -> None:
        raise Interrupt

    old = signal.signal(signal.SIGUSR1, raise_)
    yield lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, old)


def test_ctrl_c_in_a_wait_leaves_the_session_usable(threaded: Threaded, interrupt: Callable[[], None]) -> None:
    address = threaded.start({"echo": echo})
    with SyncSessionClient(address) as client, client.open("echo") as session:
        for number in range(5):
            loop = session._loop._loop
            assert loop is not None
            when_waiting(loop, session, interrupt)
            with pytest.raises(Interrupt):
                next(session)
            session.send_event("say", number)
            assert next(session).spec == number
    assert session.closed is not None


def when_waiting(loop: asyncio.AbstractEventLoop, session: SyncClientSession, func: Callable[[], None]) -> None:
    """Call a function on the client's loop as soon as something waits there."""

    def look() -> None:
        if session._session._waiters:
            func()
        else:
            loop.call_later(0.001, look)

    loop.call_soon_threadsafe(look)


def test_ctrl_c_at_the_moment_when_a_command_comes_loses_none(threaded: Threaded, monkeypatch: Any) -> None:
    address = threaded.start({"echo": echo})
    with SyncSessionClient(address) as client, client.open("echo") as session:
        run = session._loop.run

        def interrupted(coroutine: Any) -> Any:
            run(coroutine)  # the command has come, and nobody gets it
            raise Interrupt

        for number in range(3):
            session.send_event("say", number)
        assert next(session).spec == 0
        monkeypatch.setattr(session._loop, "run", interrupted)
        with pytest.raises(Interrupt):
            next(session)
        with pytest.raises(Interrupt):
            next(session)
        monkeypatch.setattr(session._loop, "run", run)
        assert session.position.received == 1
        assert [next(session).spec for _ in range(2)] == [1, 2]


def test_a_command_that_ctrl_c_lost_is_not_done_at_a_detach(threaded: Threaded, monkeypatch: Any) -> None:
    address = threaded.start({"echo": echo})
    with SyncSessionClient(address) as client:
        with client.open("echo") as session, monkeypatch.context() as patch:
            run = session._loop.run

            def interrupted(coroutine: Any) -> Any:
                run(coroutine)
                raise Interrupt

            session.send_event("say", 1)
            patch.setattr(session._loop, "run", interrupted)
            with pytest.raises(Interrupt):
                next(session)
            patch.undo()
            position = session.detach()
        assert position.received == 0
        with client.resume(position) as session:
            assert next(session).spec == 1


@pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])
def test_ctrl_c_while_a_session_is_opened_leaves_no_app(
    threaded: Threaded, interrupt: Callable[[], None], resumable: bool
) -> None:
    address, chance, sessions = threaded.start({"echo": echo}), random.Random(7), []
    with SyncSessionClient(address) as client:
        for _ in range(40):
            session = client.open("echo", resumable=resumable)
            sessions.append(session._session)
            timer = threading.Timer(chance.random() * 0.01, interrupt)
            with pytest.raises(Interrupt):  # noqa: PT012 - it may come at any place
                timer.start()
                session.__enter__()
                timer.join()
                pytest.fail("not interrupted")
            timer.join()

        def left() -> set[str]:
            known = {session.id for session in sessions if session._entered}  # the interrupt came after the open
            return {managed.session.id for managed in threaded.manager if not managed.session.ended} - known

        threaded.eventually(lambda: not left())


def test_ctrl_c_when_a_session_has_just_been_opened_leaves_no_app(threaded: Threaded, monkeypatch: Any) -> None:
    address = threaded.start({"echo": echo})
    with SyncSessionClient(address) as client:
        for resumable in (True, False):
            session = client.open("echo", resumable=resumable)
            run = session._loop.run

            def interrupted(coroutine: Any, run: Any = run) -> Any:
                run(coroutine)  # it is open, and nobody has it
                raise Interrupt

            with monkeypatch.context() as patch:
                patch.setattr(session._loop, "run", interrupted)
                with pytest.raises(Interrupt):
                    session.__enter__()
        threaded.eventually(lambda: all(managed.session.ended for managed in threaded.manager))


def test_ctrl_c_in_the_block_leaves_no_thread(threaded: Threaded, interrupt: Callable[[], None]) -> None:
    address = threaded.start({"echo": echo})
    with (  # noqa: PT012 - it leaves the session
        pytest.raises(Interrupt),
        SyncSessionClient(address, retry=QUICK) as client,
        client.open("echo") as session,
    ):
        loop = session._loop._loop
        assert loop is not None
        when_waiting(loop, session, interrupt)
        for _ in session:
            pass
    assert session.closed is not None
    assert session.closed.reason is CloseReason.CLIENT
    assert not running()


# --- what is left -----------------------------------------------------------------------------------------------------


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "session-client"]


def test_no_thread_is_left_after_close(threaded: Threaded) -> None:
    address = threaded.start({"echo": echo})
    before = threading.active_count()
    client = SyncSessionClient(address)
    with client.open("echo") as session:
        session.send_event("say", 1)
        assert next(session).spec == 1
    client.close()
    client.close()
    assert not running()
    assert threading.active_count() <= before + 1  # gRPC's own, which it keeps
    with pytest.raises(SessionEnded):
        session.send_event("say", 2)
    with pytest.raises(SessionEnded):
        client.open("echo").__enter__()
    assert not running()


def test_closing_the_client_with_a_session_that_is_attached_leaves_nothing(
    threaded: Threaded, caplog: pytest.LogCaptureFixture
) -> None:
    address = threaded.start({"echo": echo})
    client = SyncSessionClient(address, retry=QUICK)
    session = client.open("echo")
    session.__enter__()
    loop = client._loop._loop
    assert loop is not None
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(next, session)
        threaded.eventually(lambda: session._session._waiters)
        client.close()
        with pytest.raises(SessionEnded):
            reading.result(PATIENCE)
    assert not running()
    assert asyncio.all_tasks(loop) == set()
    assert caplog.text == ""


def test_a_client_that_was_never_used_leaves_nothing() -> None:
    with SyncSessionClient("127.0.0.1:1") as client:
        client.open("echo")
    assert not running()
