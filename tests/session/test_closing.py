"""`close`: who meets what, the grace period, and the reasons for an end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

import pytest

from session_service import (
    AbstractSession,
    CloseReason,
    SessionClosedException,
    SessionOptions,
    get_current_session,
)
from tests.session.kinds import Backend, CoroutineKind, Kind, ThreadKind, eventually

# Longer than any test may take: whoever is waited for in vain is noticed.
NO_END = SessionOptions(close_grace=60)
NO_GRACE = SessionOptions(close_grace=0)


async def waiting(backend: Backend) -> None:
    """Wait until the main task, or a child of it, waits for an event."""
    await eventually(lambda: backend.look().tasks[0].waiting)


# --- when it ends by itself -------------------------------------------------------------------------------------------


async def test_a_session_ends_when_its_main_task_returns(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        pass

    backend = kind.open(app)

    assert await backend.ended() is CloseReason.COMPLETED
    assert backend.session.closed()
    assert backend.session.ended
    await asyncio.sleep(0)
    assert backend.closings == 1


async def test_a_session_goes_on_when_its_main_task_returns_before_its_other_tasks(kind: Kind) -> None:
    async def other() -> None:
        session = get_current_session()
        session.send_task_command({"command": "got", "spec": await kind.event(session)})

    async def app(session: AbstractSession) -> None:
        handle.open(session.run_task(kind.function(other)))

    handle = kind.gate()
    backend = kind.open(app)
    task = await handle.opened()
    await eventually(lambda: backend.look().task_count == 1)
    backend.send("still here", task.id)

    assert await backend.ended() is CloseReason.COMPLETED
    assert await backend.specs(1) == ["still here"]


# --- close ------------------------------------------------------------------------------------------------------------


async def test_close_returns_at_once_and_happens_once(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.defer_call(lambda: deferred.append(1))
        await kind.next_event(session)

    deferred: list[int] = []
    backend = kind.open(app)
    await waiting(backend)
    backend.session.close()
    assert backend.session.closed()
    assert deferred == []
    backend.session.close()

    assert await backend.ended() is CloseReason.SERVER
    backend.session.close()
    await asyncio.sleep(0)
    assert (backend.closings, deferred) == (1, [1])


async def test_the_first_close_gives_the_reason(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.next_event(session)

    backend = kind.open(app)
    assert backend.session.close_reason is None
    backend.session.close(reason=CloseReason.EXPIRED, message="nobody came")
    backend.session.close(reason=CloseReason.SHUTDOWN, message="good night")

    assert await backend.ended() is CloseReason.EXPIRED
    assert backend.session.close_message == "nobody came"


async def test_a_task_that_waits_for_events_meets_session_closed_exception(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        try:
            await kind.next_event(session)
        except BaseException as error:
            met.open(type(error))
            raise

    met = kind.gate()
    backend = kind.open(app, limits=NO_END)
    await waiting(backend)
    backend.session.close()

    assert await met.opened() is SessionClosedException
    assert await backend.ended() is CloseReason.SERVER
    assert backend.session.get_task_commands() == [], "it is no failure"


async def test_every_task_is_told(kind: Kind) -> None:
    async def wait(data: object = None) -> None:
        try:
            await kind.next_event(get_current_session())
        finally:
            left.append(data)

    async def app(session: AbstractSession) -> None:
        for name in ("one", "two"):
            session.run_task(kind.function(wait), name)
        registered.open(session.register_callback(kind.function(wait)))
        await wait("main")

    left: list[object] = []
    registered = kind.gate()
    backend = kind.open(app, limits=NO_END)
    backend.click(await registered.opened(), "callback")
    await eventually(lambda: backend.look().task_count == 4)
    await eventually(lambda: all(task.waiting for task in backend.look().tasks))
    await backend.close()

    assert sorted(map(str, left)) == ["callback", "main", "one", "two"]


async def test_an_event_that_arrives_in_the_turn_of_the_close_is_dropped(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        try:
            met.open(await session.next_client_event())
        except SessionClosedException:
            met.open("closed")

    met = coroutines.gate()
    backend = coroutines.open(app, limits=NO_END)
    await waiting(backend)
    backend.send("too late")
    backend.session.close()

    assert await met.opened() == "closed"
    await backend.ended()
    assert backend.session.dropped == 1


async def test_any_other_coroutine_task_is_cancelled_once(coroutines: CoroutineKind) -> None:
    async def other() -> None:
        try:
            await coroutines.at(never)
        except asyncio.CancelledError:
            cancelled.append("other")
            raise

    async def app(session: AbstractSession) -> None:
        session.run_task(other)
        try:
            await coroutines.at(never)
        except asyncio.CancelledError:
            cancelled.append("main")
            await coroutines.at(unwinding)
            cancelled.append("unwound")
            raise

    cancelled: list[str] = []
    never, unwinding = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app, limits=NO_END)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    backend.session.close()
    await eventually(lambda: len(cancelled) == 2)
    backend.session.close()
    unwinding.open()

    assert await backend.ended() is CloseReason.SERVER
    assert sorted(cancelled) == ["main", "other", "unwound"]
    assert backend.session.get_task_commands() == [], "it is no failure"


async def test_async_finally_blocks_get_their_time(coroutines: CoroutineKind) -> None:
    async def app(session: AbstractSession) -> None:
        session.defer_call(lambda: steps.append("deferred"))
        try:
            await session.next_client_event()
        finally:
            steps.append("finally")
            await coroutines.at(gate)
            await asyncio.sleep(0)
            steps.append("done")

    steps: list[str] = []
    gate = coroutines.gate()
    backend = coroutines.open(app, limits=NO_END)
    await waiting(backend)
    backend.session.close()
    await eventually(lambda: steps)
    gate.open()
    await backend.ended()

    assert steps == ["finally", "done", "deferred"]
    assert backend.session.abandoned == 0


async def test_a_parent_of_which_only_a_child_waits_is_cancelled_and_one_that_moved_on_is_not(
    coroutines: CoroutineKind,
) -> None:
    async def child(session: AbstractSession) -> None:
        with contextlib.suppress(SessionClosedException):
            await session.next_client_event()

    async def asleep() -> None:
        waits = asyncio.create_task(child(get_current_session()))
        try:
            await coroutines.at(never)
        except asyncio.CancelledError:
            cancelled.open()  # so the 100 ms are over
            raise
        finally:
            await waits

    async def moves_on() -> None:
        await asyncio.gather(child(get_current_session()))
        moved.open()
        await coroutines.at(gate)
        finished.open()

    async def app(session: AbstractSession) -> None:
        handles.open([session.run_task(moves_on), session.run_task(asleep)])

    never, cancelled, moved, gate, finished, handles = (coroutines.gate() for _ in range(6))
    backend = coroutines.open(app, limits=NO_END)
    await handles.opened()
    await eventually(lambda: backend.look().task_count == 2)
    await eventually(lambda: all(task.waiting for task in backend.look().tasks))
    backend.session.close()
    await moved.opened()
    assert not cancelled.is_open(), "the child may bring its parent to an end"
    await cancelled.opened()
    gate.open()

    await finished.opened()
    await backend.ended()
    assert backend.session.abandoned == 0


@pytest.mark.parametrize("way", ["wait_for", "gather", "TaskGroup", "to_thread"])
async def test_a_parent_meets_what_its_child_meets(coroutines: CoroutineKind, way: str) -> None:
    async def app(session: AbstractSession) -> None:
        try:
            if way == "wait_for":
                await asyncio.wait_for(session.next_client_event(), 60)
            elif way == "gather":
                await asyncio.gather(session.next_client_event(), session.next_client_event())
            elif way == "to_thread":
                await asyncio.to_thread(session.next_client_event)
            else:
                async with asyncio.TaskGroup() as group:
                    group.create_task(session.next_client_event())
                    group.create_task(asyncio.sleep(60))
        except BaseException as error:
            met.open(error)
            raise

    met = coroutines.gate()
    backend = coroutines.open(app, limits=NO_END)
    await waiting(backend)
    backend.session.close()

    error = await met.opened()
    if way == "TaskGroup":
        [error] = error.exceptions
    assert isinstance(error, SessionClosedException)
    assert await backend.ended() is CloseReason.SERVER
    assert backend.session.get_task_commands() == [], "it is no failure"


async def test_threads_meet_the_close_at_their_next_call_of_the_session(threads: ThreadKind) -> None:
    calls: list[Callable[[AbstractSession], object]] = [
        lambda session: session.next_client_event(),
        lambda session: session.send_task_command({"command": "say"}),
        lambda session: session.drain(),
        lambda session: session.run_task(print),
        lambda session: session.register_callback(print),
    ]

    async def app(session: AbstractSession) -> None:
        await threads.at(gate)
        for call in calls:
            with pytest.raises(SessionClosedException):
                call(session)
            met.append(call)

    met: list[object] = []
    gate = threads.gate()
    backend = threads.open(app, limits=NO_END)
    backend.session.close()
    gate.open()
    await backend.ended()

    assert met == calls
    assert backend.session.abandoned == 0


async def test_what_leaves_a_task_of_a_closed_session_is_a_failure_unless_it_is_the_end(
    kind: Kind, errors: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        try:
            await kind.next_event(session)
        finally:
            raise ValueError("broken")

    backend = kind.open(app)
    await waiting(backend)

    assert await backend.close() is CloseReason.SERVER
    assert "ValueError: broken" in errors()[0]


async def test_a_group_of_nothing_but_the_close_is_no_failure(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        try:
            await kind.next_event(session)
        except SessionClosedException as error:
            raise BaseExceptionGroup("several", [error, asyncio.CancelledError()]) from None

    backend = kind.open(app)
    await waiting(backend)

    assert await backend.close() is CloseReason.SERVER


# --- from anywhere ----------------------------------------------------------------------------------------------------


async def test_a_task_may_close_its_own_session(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.close()
        assert session.closed()
        try:
            await kind.next_event(session)
        finally:
            left.open()

    left = kind.gate()
    backend = kind.open(app, limits=NO_END)

    assert await backend.ended() is CloseReason.SERVER
    assert left.is_open()
    assert backend.session.abandoned == 0


async def test_a_callback_may_close_the_session(kind: Kind) -> None:
    async def clicked(data: object) -> None:
        get_current_session().close()

    async def app(session: AbstractSession) -> None:
        registered.open(session.register_callback(kind.function(clicked)))
        await kind.next_event(session)

    registered = kind.gate()
    backend = kind.open(app, limits=NO_END)
    backend.click(await registered.opened())

    assert await backend.ended() is CloseReason.SERVER


async def test_a_deferred_function_may_close_the_session(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.defer_call(session.close)
        session.defer_call(lambda: ran.append("next"))

    ran: list[str] = []
    backend = kind.open(app)

    assert await backend.ended() is CloseReason.COMPLETED
    assert (backend.closings, ran) == (1, ["next"])


async def test_the_hooks_may_close_the_session(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.send_task_command({"command": "say"})
        await kind.next_event(session)

    def on_session_close(session: AbstractSession) -> None:
        session.close()
        closed.open()

    closed = kind.gate()
    session = kind.session_class(
        kind.app(app), on_task_command=lambda session: session.close(), on_session_close=on_session_close
    )

    await closed.opened()
    assert session.close_reason is CloseReason.SERVER


async def test_two_threads_may_close_at_once(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        session.defer_call(lambda: deferred.append(1))
        await kind.next_event(session)

    def close(reason: CloseReason) -> None:
        barrier.wait()
        backend.session.close(reason=reason)

    deferred: list[int] = []
    barrier = threading.Barrier(2)
    backend = kind.open(app, limits=NO_END)
    await asyncio.gather(
        asyncio.to_thread(close, CloseReason.SHUTDOWN),
        asyncio.to_thread(close, CloseReason.EXPIRED),
    )

    assert await backend.ended() in (CloseReason.SHUTDOWN, CloseReason.EXPIRED)
    await asyncio.sleep(0)
    assert (backend.closings, deferred) == (1, [1])


async def test_a_session_may_be_closed_before_its_main_task_began(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        await kind.next_event(session)

    deferred = kind.gate()
    backend = kind.open(app, limits=NO_END)
    backend.session.defer_call(deferred.open)
    backend.session.close()

    assert await backend.ended() is CloseReason.SERVER
    assert deferred.is_open()


# --- the grace period -------------------------------------------------------------------------------------------------


async def test_a_task_that_does_not_unwind_is_abandoned_with_its_stack_in_the_log(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    async def stubborn(session: AbstractSession) -> None:
        session.defer_call(lambda: steps.append("deferred"))
        try:
            await kind.next_event(session)
        except SessionClosedException:
            await hang_in_there()
        steps.append("unwound")

    async def hang_in_there() -> None:
        hangs.open()
        await kind.at(gate)

    steps: list[str] = []
    hangs, gate = kind.gate(), kind.gate()
    backend = kind.open(stubborn, limits=SessionOptions(close_grace=0.02))
    await waiting(backend)
    backend.session.close()
    await hangs.opened()

    assert await backend.ended() is CloseReason.SERVER
    assert backend.session.abandoned == 1
    assert steps == ["deferred"]
    [log] = [record.getMessage() for record in caplog.records if "has not unwound" in record.message]
    for part in (backend.session.id, "main-1", "hang_in_there"):
        assert part in log
    gate.open()
    await eventually(lambda: not backend.look().task_count)
    assert backend.closings == 1


async def test_without_grace_the_end_comes_at_once(kind: Kind) -> None:
    async def app(session: AbstractSession) -> None:
        started.open()
        while not gate.is_open():
            with contextlib.suppress(asyncio.CancelledError):
                await kind.at(gate)

    started, gate = kind.gate(), kind.gate()
    backend = kind.open(app, limits=NO_GRACE)
    await started.opened()
    await backend.close()

    assert backend.session.abandoned == 1


async def test_an_abandoned_task_that_fails_later_is_still_reported(
    kind: Kind, errors: Callable[[], list[str]]
) -> None:
    async def app(session: AbstractSession) -> None:
        started.open()
        while not gate.is_open():
            with contextlib.suppress(asyncio.CancelledError):
                await kind.at(gate)
        raise ValueError("late")

    started, gate = kind.gate(), kind.gate()
    backend = kind.open(app, limits=NO_GRACE)
    await started.opened()
    assert await backend.close() is CloseReason.SERVER
    gate.open()

    await eventually(errors)
    assert "ValueError: late" in errors()[0]
    assert backend.closings == 1


async def test_threads_of_sessions_never_keep_the_process_alive(threads: ThreadKind) -> None:
    async def app(session: AbstractSession) -> None:
        seen.open(threading.current_thread())
        session.next_client_event()

    seen = threads.gate()
    session = threads.open(app).session
    thread: threading.Thread = await seen.opened()

    assert thread.daemon
    assert session.id in thread.name


async def test_a_wait_that_timed_out_in_the_turn_of_the_close_is_cancelled_like_any_other_code(
    coroutines: CoroutineKind,
) -> None:
    async def app(session: AbstractSession) -> None:
        try:
            async with asyncio.timeout(None) as timeout:
                limit.open(timeout)
                await session.next_client_event()
        except TimeoutError:
            pass  # as if it went on with something else, which would then hold up the end
        await coroutines.at(never)

    limit, never = coroutines.gate(), coroutines.gate()
    backend = coroutines.open(app, limits=NO_END)
    timeout: asyncio.Timeout = await limit.opened()
    await waiting(backend)
    timeout.reschedule(0)
    asyncio.get_running_loop().call_soon(backend.session.close)

    assert await backend.ended() is CloseReason.SERVER
