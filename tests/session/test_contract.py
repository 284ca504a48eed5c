"""The names that apps and backends build on."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import session_service
from session_service import AbstractSession, CloseReason, CoroutineSession, SessionOptions, ThreadSession, Window

CONTRACT = [
    "active_session_count",
    "close",
    "closed",
    "defer_call",
    "drain",
    "end_events",
    "get_current_session",
    "get_current_task_id",
    "get_task_commands",
    "next_client_event",
    "on_attach",
    "on_detach",
    "on_task_exception",
    "register_callback",
    "run_task",
    "send_client_event",
    "send_task_command",
    "unregister_callback",
]


def test_the_package_exports_these_names() -> None:
    assert session_service.__all__ == [
        "AbstractSession",
        "ClientEvent",
        "CloseReason",
        "CommandBufferFull",
        "CoroutineSession",
        "PayloadError",
        "Principal",
        "SessionClosedException",
        "SessionException",
        "SessionInfo",
        "SessionNotFoundException",
        "SessionOptions",
        "TaskHandle",
        "ThreadSession",
        "Window",
        "get_current_session",
        "get_current_task_id",
        "get_session_info_from_headers",
    ]
    assert all(hasattr(session_service, name) for name in session_service.__all__)


@pytest.mark.parametrize("kind", [AbstractSession, CoroutineSession, ThreadSession])
@pytest.mark.parametrize("name", CONTRACT)
def test_every_session_has_every_member_of_the_contract(kind: type[AbstractSession], name: str) -> None:
    assert callable(getattr(kind, name))
    assert inspect.getdoc(getattr(kind, name))


@pytest.mark.parametrize("kind", [CoroutineSession, ThreadSession])
def test_a_session_is_constructed_as_a_backend_does_it(kind: type[AbstractSession]) -> None:
    parameters = inspect.signature(kind).parameters.values()

    positional = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert positional == ["target", "session_info", "on_task_command", "on_session_close", "on_event_room"]
    assert [parameter.name for parameter in parameters if parameter.default is parameter.empty] == ["target"]


def test_the_current_session_and_task_can_be_asked_for_without_a_session_at_hand() -> None:
    for kind in (AbstractSession, CoroutineSession, ThreadSession):
        assert kind.get_current_session is session_service.get_current_session
        assert kind.get_current_task_id is session_service.get_current_task_id


def test_every_error_is_a_session_exception() -> None:
    for error in (
        session_service.CommandBufferFull,
        session_service.PayloadError,
        session_service.SessionClosedException,
        session_service.SessionNotFoundException,
    ):
        assert issubclass(error, session_service.SessionException)


def test_the_limits_are_frozen_and_keyword_only() -> None:
    options = SessionOptions()

    assert (options.command_window, options.event_window) == (Window(1024, 1 << 20), Window(1024, 1 << 20))
    assert (options.close_grace, options.deferred_timeout, options.callback_runs) == (5, 10, None)
    assert not options.debug
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.close_grace = 1  # type: ignore[misc]  # that is the point
    with pytest.raises(TypeError):
        SessionOptions(Window())  # type: ignore[call-arg]  # that is the point


def test_there_are_these_reasons_for_an_end() -> None:
    assert [reason.name for reason in CloseReason] == ["COMPLETED", "CLIENT", "SERVER", "EXPIRED", "FAILED", "SHUTDOWN"]
