"""What an app brings: where it lives, what runs it, what is added to it."""

from __future__ import annotations

import asyncio

import pytest

from session_service import AbstractSession, CoroutineSession, ThreadSession
from session_service.session.home import here
from session_service.session.kinds import COROUTINES, THREADS, Kind, class_of, kind_of
from session_service.session.tasks import TaskKind


async def coroutine() -> None: ...


def function() -> None: ...


def test_an_app_runs_as_what_it_is() -> None:
    assert kind_of(coroutine) is CoroutineSession.kind is COROUTINES
    assert kind_of(function) is ThreadSession.kind is THREADS
    assert (class_of(coroutine), class_of(function)) == (CoroutineSession, ThreadSession)


def test_there_are_these_kinds_of_tasks_and_clients_see_them() -> None:
    assert [kind.value for kind in TaskKind] == ["main", "task", "callback", "hook"]


async def test_a_session_runs_as_the_kind_that_it_is_given_and_an_extension_hears_what_fails(
    caplog: pytest.LogCaptureFixture, errors: object
) -> None:
    class Extension:
        def failed(self, session: AbstractSession, error: BaseException) -> None:
            heard.append((session, error))

    def fails() -> None:
        raise ValueError("broken")

    heard: list[tuple[AbstractSession, BaseException]] = []
    ended = asyncio.Event()
    kind = Kind(here, THREADS.runner, Extension)
    session = CoroutineSession(fails, on_session_close=lambda _: ended.set(), kind=kind)
    await asyncio.wait_for(ended.wait(), 5)

    [(told, error)] = heard
    assert told is session
    assert isinstance(error, ValueError)
    assert dict(session.failures) == {"main": 1}
