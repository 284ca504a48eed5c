"""The testing kit runs an app to its end against a script, whatever the app does, and never waits for time."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from session_service import (
    AbstractSession,
    CloseReason,
    CoroutineSession,
    PayloadError,
    SessionClosedException,
    ThreadSession,
    get_current_session,
    get_current_task_id,
)
from session_service.testing import Close, Event, Pause, ScriptError, Transcript, run

HOUR = 3600.0

Commands = list[dict[str, Any]]


def send(command: str, spec: Any = None) -> None:
    get_current_session().send_task_command({"command": command, "spec": spec})


def said(transcript: Transcript) -> list[Any]:
    """Return each command as (name, spec)."""
    return [(command["command"], command["spec"]) for command in transcript.commands]


def names(transcript: Transcript) -> list[str]:
    return names_of(transcript.commands)


def names_of(commands: Commands) -> list[str]:
    return [command["command"] for command in commands]


# --- apps that both kinds have ----------------------------------------------------------------------------------------


async def echo() -> None:
    session = get_current_session()
    while True:
        event = await session.next_client_event()
        send(event["event"], event["data"])


def echo_in_thread() -> None:
    session = get_current_session()
    while True:
        event = session.next_client_event()
        send(event["event"], event["data"])


async def two() -> None:
    for number in range(2):
        send("ask", number)
        send("got", (await get_current_session().next_client_event())["data"])


def two_in_thread() -> None:
    for number in range(2):
        send("ask", number)
        send("got", get_current_session().next_client_event()["data"])


async def clicks() -> None:
    session = get_current_session()

    def clicked(data: Any) -> None:
        send("clicked", data)
        if data == "enough":
            session.unregister_callback(button)

    button = session.register_callback(clicked)
    send("button", button)


def clicks_in_thread() -> None:
    session = get_current_session()

    def clicked(data: Any) -> None:
        send("clicked", data)
        if data == "enough":
            session.unregister_callback(button)

    button = session.register_callback(clicked)
    send("button", button)


async def failing() -> None:
    send("before")
    raise ZeroDivisionError("oops")


def failing_in_thread() -> None:
    send("before")
    raise ZeroDivisionError("oops")


App = Callable[[], Any]


def both(coroutine: App, thread: App) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("app", [coroutine, thread], ids=["coroutine", "thread"])


# --- the client's side ------------------------------------------------------------------------------------------------


@both(two, two_in_thread)
def test_each_step_is_taken_when_the_app_waits(app: App) -> None:
    seen: list[Any] = []

    def answer(commands: Commands) -> Event:
        seen.append([command["command"] for command in commands])
        return Event("answer", f"to {commands[-1]['spec']}")

    transcript = run(app, [answer, answer])
    assert seen == [["ask"], ["ask", "got", "ask"]]
    assert said(transcript) == [("ask", 0), ("got", "to 0"), ("ask", 1), ("got", "to 1")]
    assert (transcript.reason, transcript.message, transcript.errors) == (CloseReason.COMPLETED, "", [])


@both(echo, echo_in_thread)
def test_a_client_that_has_no_more_to_say_ends_the_session(app: App) -> None:
    transcript = run(app, [Event("a", 1), Event("b", 2)])
    assert said(transcript) == [("a", 1), ("b", 2)]
    assert transcript.reason is CloseReason.CLIENT


@both(echo, echo_in_thread)
def test_what_is_sent_comes_out_as_it_does_over_the_wire(app: App) -> None:
    payloads = [None, 1, 1.0, 2**63, "text", [1, {"a": [True]}], b"\0\xff", Duration(seconds=3)]
    transcript = run(app, [Event("say", data) for data in [*payloads, (1, 2)]])
    assert [spec for _, spec in said(transcript)] == [*payloads, [1, 2]]


@both(echo, echo_in_thread)
def test_an_event_that_no_client_could_send_is_refused(app: App) -> None:
    with pytest.raises(PayloadError, match="object is no JSON value"):
        run(app, [Event("say", object())])


@both(echo, echo_in_thread)
def test_a_later_change_of_what_was_sent_reaches_nobody(app: App) -> None:
    data = [1]
    transcript = run(app, [Event("a", data), lambda commands: data.append(2), Event("b", data)])
    assert said(transcript) == [("a", [1]), ("b", [1, 2])]


def test_parameters_arrive_as_a_client_would_send_them() -> None:
    async def app() -> None:
        send("params", dict(get_current_session().params))

    assert said(run(app, params={"n": 1, "who": ("Ada",)})) == [("params", {"n": 1, "who": ["Ada"]})]
    with pytest.raises(PayloadError, match=r"params\.n: an integer beyond 2\^53"):
        run(app, params={"n": 2**60})


def test_headers_say_who_the_client_is() -> None:
    async def app() -> None:
        send("language", get_current_session().info.user_language)

    assert said(run(app, headers={"Accept-Language": "de-CH,de"})) == [("language", "de-CH")]


@both(clicks, clicks_in_thread)
def test_a_function_answers_a_callback_that_a_command_carried(app: App) -> None:
    def click(data: Any) -> Callable[[Commands], Event]:
        return lambda commands: Event("callback", data, task_id=commands[0]["spec"])

    transcript = run(app, [click(1), click(2), click("enough")])
    assert said(transcript)[1:] == [("clicked", 1), ("clicked", 2), ("clicked", "enough")]
    assert transcript.reason is CloseReason.COMPLETED


def test_a_click_is_sent_before_a_timeout_passes() -> None:
    async def app() -> None:
        clicked = asyncio.Event()
        send("button", get_current_session().register_callback(lambda _: clicked.set()))
        async with asyncio.timeout(HOUR):
            await clicked.wait()

    assert run(app, [lambda commands: Event("callback", task_id=commands[0]["spec"])]).seconds == 0


@both(clicks, clicks_in_thread)
def test_a_registered_callback_does_not_keep_the_session_open_when_the_script_has_ended(app: App) -> None:
    assert names(run(app)) == ["button"]


@both(echo, echo_in_thread)
def test_a_function_that_only_asserts_takes_no_step(app: App) -> None:
    seen: list[int] = []
    transcript = run(app, [Event("a"), lambda commands: seen.append(len(commands)), Event("b")])
    assert (seen, names(transcript)) == ([1], ["a", "b"])


@both(echo, echo_in_thread)
def test_an_assertion_that_fails_in_the_middle_is_raised_and_the_session_ended(app: App) -> None:
    def check(commands: Commands) -> None:
        assert names_of(commands) == ["nothing of the kind"]

    with pytest.raises(AssertionError, match="nothing of the kind"):
        run(app, [Event("a"), check, Event("b")])
    assert AbstractSession.active_session_count() == 0


@both(echo, echo_in_thread)
def test_what_pytest_itself_raises_in_a_function_is_raised(app: App) -> None:
    with pytest.raises(pytest.fail.Exception, match="enough"):
        run(app, [lambda commands: pytest.fail("enough")])


@both(echo, echo_in_thread)
def test_an_event_for_nobody_is_a_mistake_of_the_script(app: App) -> None:
    with pytest.raises(ScriptError, match=r"task_id='callback-9'\) is for no task and no callback"):
        run(app, [Event("callback", task_id="callback-9")])


@both(two, two_in_thread)
def test_a_step_that_comes_too_late_is_a_mistake_of_the_script(app: App) -> None:
    with pytest.raises(ScriptError, match=r"COMPLETED.*step 3 of 4 was not taken: Event\(event='c'"):
        run(app, [Event("a"), Event("b"), Event("c"), Event("d")])


@both(two, two_in_thread)
def test_a_pause_may_be_longer_than_the_session(app: App) -> None:
    assert run(app, [Event("a"), Event("b"), Pause(HOUR)]).reason is CloseReason.COMPLETED


def test_more_events_than_the_window_holds_wait_for_room() -> None:
    async def app() -> None:
        session = get_current_session()
        session.register_callback(print)  # so a client may send all the time
        await asyncio.sleep(HOUR)
        for _ in range(3000):
            send("got", (await session.next_client_event())["data"])

    transcript = run(app, [Event("n", number) for number in range(3000)])
    assert [spec for _, spec in said(transcript)] == list(range(3000))


def test_the_client_is_attached() -> None:
    async def app() -> None:
        get_current_session().on_attach(lambda session, resumed: send("attached", resumed))

    assert said(run(app)) == [("attached", False)]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_close_cancels_a_coroutine_where_it_is() -> None:
    async def app() -> None:
        try:
            await asyncio.sleep(HOUR)
        finally:
            get_current_session().defer_call(lambda: ended.append("cancelled"))

    ended: list[str] = []
    transcript = run(app, [Pause(60), Close()])
    assert (transcript.reason, transcript.seconds, ended) == (CloseReason.CLIENT, 60, ["cancelled"])


@both(echo, echo_in_thread)
def test_close_wakes_what_waits_for_an_event(app: App) -> None:
    assert run(app, [Event("a"), Close()]).reason is CloseReason.CLIENT


def test_close_meets_a_thread_at_its_next_call() -> None:
    def app() -> None:
        session = get_current_session()
        assert isinstance(session, ThreadSession)
        try:
            session.next_client_event()
        except SessionClosedException:
            met.append("closed")
            raise

    met: list[str] = []
    assert run(app, [Close()]).reason is CloseReason.CLIENT
    assert met == ["closed"]


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@both(two, two_in_thread)
def test_deferred_calls_have_run(app: App, is_async: bool) -> None:
    ran: list[str] = []

    async def clean_up() -> None:
        await asyncio.sleep(9)
        ran.append(get_current_task_id())

    def clean_up_now() -> None:
        time.sleep(0.01)
        ran.append(get_current_task_id())

    def defer(session: AbstractSession, resumed: bool) -> None:
        session.defer_call(clean_up if is_async else clean_up_now)

    async def deferring() -> None:
        get_current_session().on_attach(defer)
        await two()

    def deferring_in_thread() -> None:
        get_current_session().on_attach(defer)
        two_in_thread()

    run(deferring if app is two else deferring_in_thread, [Event("a"), Event("b")])
    assert ran == ["main-1"]


def test_a_deferred_call_in_a_thread_is_not_timed_out_by_a_jump() -> None:
    def app() -> None:
        get_current_session().defer_call(lambda: time.sleep(0.05))

    assert run(app).errors == []


# --- what goes wrong in the app ---------------------------------------------------------------------------------------


@both(failing, failing_in_thread)
def test_a_failed_app_is_raised(app: App) -> None:
    with pytest.raises(ZeroDivisionError, match="oops"):
        run(app)


@both(failing, failing_in_thread)
def test_a_failed_app_is_raised_rather_than_the_steps_that_it_left(app: App) -> None:
    with pytest.raises(ZeroDivisionError):
        run(app, [Event("a")])


@both(failing, failing_in_thread)
def test_a_failed_app_can_be_read_in_the_transcript(app: App) -> None:
    transcript = run(app, check=False)
    assert names(transcript) == ["before", "task_exception"]
    assert transcript.reason is CloseReason.FAILED
    assert "the app failed, error " in transcript.message
    (error,) = transcript.errors
    assert isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("where", ["callback", "deferred", "task"])
def test_whatever_fails_is_raised(where: str) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError(where)

    async def fail_later() -> None:
        fail()

    async def app() -> None:
        session = get_current_session()
        if where == "callback":
            send("button", session.register_callback(fail))
        elif where == "deferred":
            session.defer_call(fail)
        else:
            session.run_task(fail_later)

    script = [lambda commands: Event("callback", task_id=commands[0]["spec"])] if where == "callback" else []
    with pytest.raises(ZeroDivisionError, match=where):
        run(app, script)
    assert [str(error) for error in run(app, script, check=False).errors] == [where]


def test_what_is_no_app_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="runs plain functions"):
        run(3)  # type: ignore[arg-type]  # the mistake


def test_system_exit_of_an_app_is_its_failure() -> None:
    async def app() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        run(app)


# --- time -------------------------------------------------------------------------------------------------------------


def test_an_app_that_sleeps_has_slept_at_once() -> None:
    async def app() -> None:
        await asyncio.sleep(10 * HOUR)

    assert run(app).seconds == 10 * HOUR


def test_a_timeout_of_a_coroutine_passes_only_in_a_pause() -> None:
    async def app() -> None:
        try:
            async with asyncio.timeout(HOUR):
                send("got", (await get_current_session().next_client_event())["data"])
        except TimeoutError:
            send("late")

    assert names(run(app, [Event("a")])) == ["got"]
    assert names(run(app, [Pause(HOUR + 1)])) == ["late"]
    assert names(run(app, [Pause(HOUR - 1), Event("a")])) == ["got"]


def test_a_timeout_of_a_thread_passes_only_in_a_pause() -> None:
    def app() -> None:
        session = get_current_session()
        assert isinstance(session, ThreadSession)
        try:
            send("got", session.next_client_event(timeout=HOUR)["data"])
        except TimeoutError:
            send("late")

    assert names(run(app, [Event("a")])) == ["got"]
    assert names(run(app, [Pause(HOUR + 1)])) == ["late"]
    assert names(run(app, [Pause(HOUR - 60), Event("a")])) == ["got"]


def test_a_step_waits_while_a_coroutine_sleeps_and_is_not_asking() -> None:
    async def app() -> None:
        for percent in (0, 50, 100):
            send("progress", percent)
            await asyncio.sleep(HOUR)
        await two()

    asked: list[Any] = []
    transcript = run(app, [lambda commands: asked.append(commands[-1]["command"]), Event("a"), Event("b")])
    assert asked == ["ask"]
    assert transcript.seconds == 3 * HOUR


def test_after_a_pause_the_client_acts_whatever_the_app_is_doing() -> None:
    async def app() -> None:
        for percent in range(0, 100, 10):
            send("progress", percent)
            await asyncio.sleep(10)

    transcript = run(app, [Pause(25), Close()])
    assert [spec for _, spec in said(transcript)] == [0, 10, 20]


def test_after_a_pause_only_one_step_is_taken_unasked() -> None:
    async def app() -> None:
        await asyncio.sleep(10)
        send("begin")
        await asyncio.sleep(10)
        await two()

    def note(commands: Commands) -> None:
        seen.append(names_of(commands))

    seen: list[list[str]] = []
    run(app, [Pause(5), note, note, Event("a"), Event("b")])
    assert seen == [[], ["begin", "ask"]]


def test_what_is_due_at_the_end_of_a_pause_has_happened() -> None:
    async def app() -> None:
        for percent in range(0, 100, 10):
            send("progress", percent)
            await asyncio.sleep(10)

    assert len(run(app, [Pause(20), Close()]).commands) == 3


def test_a_step_waits_while_a_thread_works() -> None:
    def app() -> None:
        for percent in (0, 50, 100):
            send("progress", percent)
            time.sleep(0.01)
        two_in_thread()

    asked: list[Any] = []
    run(app, [lambda commands: asked.append(commands[-1]["command"]), Event("a"), Event("b")])
    assert asked == ["ask"]


def test_a_step_waits_while_a_coroutine_has_work_in_a_thread() -> None:
    async def app() -> None:
        async with asyncio.timeout(HOUR):
            send("result", await asyncio.to_thread(work))
        await two()

    def work() -> str:
        time.sleep(0.02)
        return get_current_task_id()

    transcript = run(app, [Event("a"), Event("b")])
    assert said(transcript)[0] == ("result", "main-1")


def test_a_step_is_taken_when_a_coroutine_waits_for_it_in_a_thread() -> None:
    async def app() -> None:
        await asyncio.to_thread(two_in_thread)

    assert names(run(app, [Event("a"), Event("b")])) == ["ask", "got", "ask", "got"]


def test_a_cancelled_task_of_a_thread_session_leaves_its_wait() -> None:
    def app() -> None:
        session = get_current_session()
        handle = session.run_task(waiting)
        two_in_thread()
        handle.cancel()

    def waiting() -> None:
        try:
            get_current_session().next_client_event()
        except asyncio.CancelledError:
            left.append("cancelled")
            raise

    left: list[str] = []
    assert run(app, [Event("a"), Event("b")]).reason is CloseReason.COMPLETED
    assert left == ["cancelled"]


def test_tasks_in_many_threads_take_turns_with_the_script() -> None:
    def app() -> None:
        session = get_current_session()
        for _ in range(5):
            session.run_task(asker)

    def asker() -> None:
        send("ask", get_current_task_id())
        send("got", get_current_session().next_client_event()["data"])

    def answer_all(count: int) -> list[Any]:
        return [lambda commands, n=n: Event("answer", n, task_id=ids(commands)[n]) for n in range(count)]

    def ids(commands: Commands) -> list[str]:
        asked = [command["spec"] for command in commands if command["command"] == "ask"]
        assert len(asked) == 5  # all, before the first answer
        return asked

    transcript = run(app, answer_all(5))
    assert sorted(command["spec"] for command in transcript.commands if command["command"] == "got") == [0, 1, 2, 3, 4]


def test_a_step_waits_while_a_coroutine_waits_for_a_socket() -> None:
    ours, theirs = socket.socketpair()

    def answer() -> None:
        time.sleep(0.02)
        theirs.send(b"ready")
        theirs.close()

    async def app() -> None:
        reader, writer = await asyncio.open_connection(sock=ours)
        send("heard", (await reader.read()).decode())
        writer.close()
        await two()

    thread = threading.Thread(target=answer)
    thread.start()
    asked: list[list[str]] = []
    run(app, [lambda commands: asked.append(names_of(commands)), Event("a"), Event("b")])
    thread.join()
    assert asked == [["heard", "ask"]]


def test_an_idle_connection_of_the_apps_own_does_not_hold_the_script_up() -> None:
    async def app() -> None:
        async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0):
            await two()

    assert names(run(app, [Event("a"), Event("b")])) == ["ask", "got", "ask", "got"]


# --- never hangs ------------------------------------------------------------------------------------------------------


def test_an_app_that_waits_for_what_never_comes_is_told_where() -> None:
    async def app() -> None:
        await asyncio.Event().wait()

    with pytest.raises(ScriptError, match=r"(?s)nothing can happen any more:\nmain-1 is here:.*asyncio\.Event\(\)"):
        run(app)
    assert AbstractSession.active_session_count() == 0


def test_an_app_that_goes_on_for_ever_is_told_where() -> None:
    async def app() -> None:
        while True:  # noqa: ASYNC110 - what is tested
            await asyncio.sleep(60)

    with pytest.raises(ScriptError, match=r"(?s)7200 virtual seconds passed:\nmain-1 is here:.*asyncio\.sleep\(60\)"):
        run(app, limit=7200)
    assert AbstractSession.active_session_count() == 0


def test_an_app_that_never_lets_time_pass_is_told_where() -> None:
    async def app() -> None:
        while True:  # noqa: ASYNC110 - what is tested
            await asyncio.sleep(0)

    with pytest.raises(ScriptError, match=r"(?s)0\.1 real seconds are over:.*main-1 is here:.*asyncio\.sleep\(0\)"):
        run(app, patience=0.1)


def test_an_app_that_blocks_the_loop_is_told_where() -> None:
    async def app() -> None:
        gate.wait()

    gate = threading.Event()
    try:
        with pytest.raises(ScriptError, match=r"(?s)the event loop is here:.*gate\.wait\(\)"):
            run(app, patience=0.1)
    finally:
        gate.set()


def test_a_thread_that_hangs_is_told_where() -> None:
    def app() -> None:
        gate.wait()

    gate = threading.Event()
    try:
        with pytest.raises(ScriptError, match=r"(?s)main-1 is here:.*gate\.wait\(\)"):
            run(app, patience=0.1)
    finally:
        gate.set()


def test_a_coroutine_that_ignores_its_end_is_a_mistake(caplog: pytest.LogCaptureFixture) -> None:
    async def app() -> None:
        try:
            await asyncio.sleep(HOUR)
        finally:
            await asyncio.sleep(HOUR)

    with pytest.raises(ScriptError, match="1 tasks did not end within the grace"):
        run(app, [Pause(1), Close()])
    assert "task main-1 has not unwound" in caplog.text


def test_a_thread_that_works_does_not_use_up_the_virtual_limit() -> None:
    def app() -> None:
        time.sleep(0.05)

    assert run(app, limit=0.01).reason is CloseReason.COMPLETED


# --- around it --------------------------------------------------------------------------------------------------------

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
def test_the_app_sees_the_context_variables_of_the_test(kind: str) -> None:
    async def app() -> None:
        send("variable", variable.get())

    def app_in_thread() -> None:
        send("variable", variable.get())

    token = variable.set("from the test")
    try:
        assert said(run(app if kind == "coroutine" else app_in_thread)) == [("variable", "from the test")]
    finally:
        variable.reset(token)


async def test_it_runs_in_a_test_that_has_a_loop_of_its_own() -> None:
    assert names(run(two, [Event("a"), Event("b")])) == ["ask", "got", "ask", "got"]


def test_the_app_finds_a_session_of_its_kind() -> None:
    async def app() -> None:
        send("kind", isinstance(get_current_session(), CoroutineSession))

    def app_in_thread() -> None:
        send("kind", isinstance(get_current_session(), ThreadSession))

    assert said(run(app)) == said(run(app_in_thread)) == [("kind", True)]


def test_nothing_is_left_of_many_runs(caplog: pytest.LogCaptureFixture) -> None:
    before = threading.active_count()
    for app in [two, two_in_thread] * 50:
        run(app, [Event("a"), Event("b")])
    # A thread has told its end before it has ended.
    for thread in threading.enumerate():
        if thread.name.startswith("session_service.testing"):
            thread.join(10)
    assert threading.active_count() <= before + 1
    assert AbstractSession.active_session_count() == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
