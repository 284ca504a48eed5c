"""What an app is, and what becomes of code that user code returns instead of running it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from session_service import (
    AbstractSession,
    CloseReason,
    CoroutineSession,
    SessionClosedException,
    ThreadSession,
    get_current_session,
)
from session_service.host import SessionManager
from session_service.session.app import check_app, check_result, is_coroutine_function
from session_service.testing import run
from session_service.v1 import session_pb2
from tests.session.kinds import CoroutineKind, Kind, ThreadKind, eventually

# --- what is one ------------------------------------------------------------------------------------------------------


def say(text: str = "hello") -> None:
    get_current_session().send_task_command({"command": "say", "spec": text})


async def asay(text: str = "hello") -> None:
    say(text)


def generator() -> Iterator[None]:
    say()
    yield


async def async_generator() -> AsyncIterator[None]:
    say()
    yield


def needs(session: AbstractSession | None, *, text: str) -> None:
    say()


async def aneeds(session: AbstractSession | None) -> None:
    say()


def plain(func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate as one does who does not think of `async def`."""

    @functools.wraps(func)
    def decorated(*args: Any) -> Any:
        return func()

    return decorated


@functools.wraps(needs)
def given_the_session() -> None:
    needs(get_current_session(), text="hello")


class Object:
    """Something with apps."""

    def method(self) -> None:
        say()

    async def async_method(self) -> None:
        say()

    def generator(self) -> Iterator[None]:
        yield

    @classmethod
    async def class_method(cls) -> None:
        say()


class Called:
    """An object that is called."""

    async def __call__(self, *args: object, text: str = "hello") -> None:
        say(text)


class CalledGenerator:
    def __call__(self) -> Iterator[None]:
        yield


APPS: list[tuple[Callable[..., Any], type[AbstractSession]]] = [
    (say, ThreadSession),
    (asay, CoroutineSession),
    (lambda *args, **kwargs: say(), ThreadSession),
    (given_the_session, ThreadSession),
    (plain(say), ThreadSession),
    (Object().method, ThreadSession),
    (Object().async_method, CoroutineSession),
    (Object.class_method, CoroutineSession),
    (Called(), CoroutineSession),
    (functools.partial(needs, None, text=""), ThreadSession),
    (functools.partial(aneeds, None), CoroutineSession),
    (functools.partial(Called(), text="hello"), CoroutineSession),
]

NO_APPS: list[tuple[Any, str]] = [
    (generator, "is no app: it is a generator"),
    (async_generator, "is no app: it is an async generator"),
    (Object().generator, "is no app: it is a generator"),
    (CalledGenerator(), "is no app: it is a generator"),
    (functools.partial(async_generator), "is no app: it is an async generator"),
    (Object, "is no app: it is a class"),
    (functools.partial(Object), "is no app: it is a class"),
    (needs, "is no app: it needs session, text;"),
    (aneeds, "is no app: it needs session;"),
    (Object.method, "is no app: it needs self;"),
    (functools.partial(needs, text=""), "is no app: it needs session;"),
    (asay(), "is no function: it is of type coroutine"),
    ("asay", "is no function: it is of type str"),
]
NO_APPS[-2][0].close()


@pytest.mark.parametrize(("app", "kind"), APPS)
def test_what_is_an_app_runs(app: Callable[[], Any], kind: type[AbstractSession]) -> None:
    manager = SessionManager({"app": app})

    assert manager.apps == ["app"]
    assert (CoroutineSession if is_coroutine_function(app) else ThreadSession) is kind
    assert [command["spec"] for command in run(app).commands] == ["hello"]


@pytest.mark.parametrize(("app", "fault"), NO_APPS)
def test_what_is_no_app_is_refused_before_it_is_served(app: Any, fault: str) -> None:
    for refuse in (lambda: check_app("name", app), lambda: SessionManager({"name": app}), lambda: run(app)):
        with pytest.raises(TypeError) as error:
            refuse()
        assert fault in str(error.value)
        assert "an app is a function without arguments" in str(error.value)
        assert "get_current_session()" in str(error.value)


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="1 is no name of an app"):
        SessionManager({1: say})  # type: ignore[dict-item]  # as one does who does not check types


def test_a_claimed_signature_is_not_believed() -> None:
    def decorated() -> None: ...

    decorated.__signature__ = inspect.signature(needs)  # type: ignore[attr-defined]  # as libraries of decorators do
    check_app("name", decorated)


# --- what nobody awaits -----------------------------------------------------------------------------------------------


class Later:
    """Something to await."""

    def __await__(self) -> Generator[None, None, None]:
        yield


@contextlib.contextmanager
def manager() -> Iterator[None]:
    say()
    yield


@contextlib.asynccontextmanager
async def async_manager() -> AsyncIterator[None]:
    say()
    yield


UNRUN: list[Callable[..., Any]] = [
    plain(asay),
    plain(generator),
    plain(async_generator),
    lambda *args: Later(),
    lambda *args: functools.partial(say, "hello"),
    plain(manager),
    plain(async_manager),
    lambda *args: [asay(), asay()],
    lambda *args: (None, asay()),
    lambda *args: {"later": asay()},
    lambda *args: map(say, ["hello"]),
]
NAMES = [
    "coroutine",
    "generator",
    "async generator",
    "awaitable",
    "partial",
    "context manager",
    "async context manager",
    "list of coroutines",
    "tuple with a coroutine",
    "dict of coroutines",
    "map",
]

RUN: list[Any] = [
    None,
    0,
    1.5,
    "text",
    b"bytes",
    [1, 2],
    (None, say),
    {"a": {"b": [say]}},
    {1},
    session_pb2.Window(),
    Object(),
    range(3),
    ValueError("told"),
    threading.Lock(),
]

PLACES = ["main", "task", "callback", "hook", "deferred"]


async def failures(kind: Kind, func: Callable[..., Any], place: str) -> dict[str, int]:
    """Have ``func`` called somewhere by a session; return what failed, when that has ended."""

    async def body(session: AbstractSession) -> Any:
        if place == "main":
            result = func()
            return await result if inspect.iscoroutinefunction(func) else result
        if place == "task":
            session.run_task(func)
        elif place == "callback":
            registered.open(session.register_callback(func))
        elif place == "hook":
            session.on_attach(func)
        else:
            session.defer_call(func)
        with contextlib.suppress(SessionClosedException):
            await kind.next_event(session)
        return None

    registered = kind.gate()
    backend = kind.open(body)
    backend.session.notify_attach(resumed=False)
    if place == "callback":
        backend.click(await registered.opened())
    if place in ("task", "callback", "hook"):
        await eventually(lambda: backend.session.failures)
    backend.session.end_events()
    reason = await backend.ended()
    assert reason is (CloseReason.FAILED if place == "main" else CloseReason.COMPLETED)
    gc.collect()  # a coroutine that nobody has awaited is warned of at its end
    return dict(backend.session.failures)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("func", UNRUN, ids=NAMES)
async def test_what_a_thread_returns_and_nobody_awaits_is_its_failure(
    threads: ThreadKind, func: Callable[..., Any], place: str, errors: Callable[[], list[str]]
) -> None:
    assert await failures(threads, func, place) == {place: 1}
    assert ["and nobody awaits or iterates that" in log for log in errors()] == [True]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("func", UNRUN, ids=NAMES)
async def test_what_a_coroutine_returns_and_nobody_awaits_is_its_failure(
    coroutines: CoroutineKind, func: Callable[..., Any], place: str, errors: Callable[[], list[str]]
) -> None:
    async def returns(*args: object) -> Any:
        return func()

    assert await failures(coroutines, returns, place) == {place: 1}
    assert ["and nobody awaits or iterates that" in log for log in errors()] == [True]


@pytest.mark.parametrize("place", ["callback", "hook", "deferred"])
@pytest.mark.parametrize("func", UNRUN[1:3], ids=NAMES[1:3])
async def test_a_plain_function_of_a_coroutine_session_that_returns_a_generator_has_failed(
    coroutines: CoroutineKind, func: Callable[..., Any], place: str, errors: Callable[[], list[str]]
) -> None:
    assert await failures(coroutines, func, place) == {place: 1}
    assert ["and nobody awaits or iterates that" in log for log in errors()] == [True]


@pytest.mark.parametrize("result", RUN, ids=[type(result).__name__ for result in RUN])
def test_any_other_result_is_nobodys_failure(result: Any) -> None:
    check_result(result)


async def test_an_async_app_behind_a_plain_decorator_fails_and_says_so(
    threads: ThreadKind, errors: Callable[[], list[str]]
) -> None:
    async def careless(session: AbstractSession) -> Any:
        return plain(asay)()

    backend = threads.open(careless)

    assert await backend.ended() is CloseReason.FAILED
    assert "asay" in errors()[0]
    assert [command["command"] for command in backend.session.get_task_commands()] == ["task_exception"]


async def test_a_plain_function_of_a_coroutine_session_may_return_what_is_to_be_awaited(
    coroutines: CoroutineKind,
) -> None:
    async def app(session: AbstractSession) -> None:
        session.on_attach(lambda *args: asay("hook"))
        session.defer_call(lambda: deferred())
        clicks.open(session.register_callback(lambda data: asyncio.ensure_future(asay("callback"))))
        await session.next_client_event()

    async def deferred() -> None:
        ran.open()

    ran, clicks = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app)
    backend.click(await clicks.opened())
    backend.session.notify_attach(resumed=False)

    assert sorted(await backend.specs(2)) == ["callback", "hook"]
    await backend.close()
    assert ran.is_open()


async def test_an_asyncio_task_that_a_coroutine_returns_runs_by_itself(coroutines: CoroutineKind) -> None:
    async def clicked(data: object) -> object:
        return asyncio.create_task(asay("later"))

    async def app(session: AbstractSession) -> None:
        clicks.open(session.register_callback(clicked))

    clicks = coroutines.gate()
    backend = coroutines.open(app)
    backend.click(await clicks.opened())

    assert await backend.specs(1) == ["later"]
    assert not backend.session.failures


async def test_an_app_that_returns_a_function_has_not_run_it(kind: Kind, errors: Callable[[], list[str]]) -> None:
    assert await failures(kind, lambda: asay, "main") == {"main": 1}
    assert len(errors()) == 1


def test_what_is_called_besides_may_return_a_function_as_defer_call_does() -> None:
    check_result(asay)
