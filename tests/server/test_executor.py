"""Threads for `asyncio.to_thread`: as many as wait, within the limit of the process, and no more than are needed."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from session_service import get_current_session
from session_service.server import executor
from session_service.server.executor import GrowingExecutor
from session_service.testing import Event, run
from session_service.v1 import session_pb2 as pb

from ..cli.program import Program
from ..protocol.peer import PATIENCE, Peer, Serve, Service, event, value

JSON = pb.PAYLOAD_FORMAT_JSON

# More than asyncio's own executor would have had on any machine that runs this.
MANY = min(32, (os.cpu_count() or 1) + 4) + 10


async def in_thread() -> None:
    session = get_current_session()
    event = await asyncio.to_thread(session.next_client_event)
    session.send_task_command({"command": "echo", "spec": event["data"]})


async def echoed(peer: Peer, data: object) -> object:
    await peer.send(events=[event("say", data)])
    async with asyncio.timeout(PATIENCE):
        (command,) = await peer.receive_commands(1)
    return value(command)


async def check_many(service: Service) -> None:
    """Open sessions that wait for their clients in threads, and see that the last one is served before the first."""
    peers = [await service.open("in_thread", command_format=JSON) for _ in range(MANY)]
    for number in reversed(range(MANY)):
        assert await echoed(peers[number], number) == number


# --- in a server ------------------------------------------------------------------------------------------------------

APPS = """
    import asyncio, threading
    from session_service import get_current_session

    async def in_thread():
        session = get_current_session()
        event = await asyncio.to_thread(session.next_client_event)
        session.send_task_command({"command": "echo", "spec": event["data"]})

    async def threads():
        session = get_current_session()
        session.send_task_command({"command": "threads", "spec": threading.active_count()})

    async def hangs():
        asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_each_session_that_waits_in_a_thread_has_one(program: Program, loop: str) -> None:
    program.write(APPS)
    await check_many(await program.serve("--loop", loop, "apps:in_thread"))


async def test_each_session_has_its_thread_in_a_loop_of_somebody_elses(serve: Serve) -> None:
    await check_many(await serve({"in_thread": in_thread}))


async def test_an_executor_that_somebody_has_set_stays(serve: Serve) -> None:
    mine = ThreadPoolExecutor(1, "mine")
    asyncio.get_running_loop().set_default_executor(mine)
    await serve({"in_thread": in_thread})
    assert (await asyncio.to_thread(threading.current_thread)).name == "mine_0"


async def test_threads_of_to_thread_count_and_where_there_are_no_more_calls_wait_and_the_log_says_so(
    program: Program,
) -> None:
    program.write(APPS)
    served = await program.serve("apps:in_thread", "apps:threads")
    (command,) = await (await served.open("threads", command_format=JSON)).receive_commands(1)
    most = int(str(value(command))) + 3
    served.signal()
    await served.exit_code()

    served = await program.serve("--max-threads", str(most), "apps:in_thread", "apps:threads")
    peers = [await served.open("in_thread", command_format=JSON) for _ in range(MANY)]
    (command,) = await (await served.open("threads", command_format=JSON)).receive_commands(1)
    assert int(str(value(command))) <= most
    assert served.log().count("no thread is free for asyncio.to_thread") == 1
    assert f"the process has its {most} threads (--max-threads)" in served.log()
    assert [await echoed(peer, number) for number, peer in enumerate(peers)] == list(range(MANY))


async def test_a_thread_that_hangs_does_not_hold_the_exit(program: Program) -> None:
    program.write(APPS)
    served = await program.serve("--shutdown-grace", "0", "apps:hangs")
    await (await served.open("hangs")).receive_all()
    served.signal()
    assert await served.exit_code() == 0


def test_in_a_test_of_an_app_as_many_wait_in_threads_as_want_to() -> None:
    async def app() -> None:
        session = get_current_session()
        waits = [asyncio.to_thread(session.next_client_event) for _ in range(MANY)]
        events = await asyncio.gather(*waits)
        session.send_task_command({"command": "all", "spec": sorted(event["data"] for event in events)})

    transcript = run(app, [Event("say", number) for number in range(MANY)])
    assert transcript.commands[0]["spec"] == list(range(MANY))


# --- by itself --------------------------------------------------------------------------------------------------------

Make = Callable[..., GrowingExecutor]


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setattr(executor, "RETRY", 0.001)
    made: list[GrowingExecutor] = []

    def make(max_threads: int = 0, idle: float = 1000.0) -> GrowingExecutor:
        made.append(GrowingExecutor(asyncio.get_running_loop(), max_threads, idle=idle))
        return made[-1]

    yield make
    for each in made:
        each.shutdown(wait=False)


async def result(call: object) -> object:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.wrap_future(call)  # type: ignore[arg-type] # a concurrent.futures.Future


async def test_a_thread_that_is_free_is_used_again(make: Make) -> None:
    pool = make()
    first = await result(pool.submit(threading.current_thread))
    async with asyncio.timeout(PATIENCE):
        while not pool._resting:  # noqa: ASYNC110 - nothing tells that a thread rests
            await asyncio.sleep(0)
    assert await result(pool.submit(threading.current_thread)) is first


async def test_threads_that_have_nothing_to_do_end(make: Make) -> None:
    pool = make(idle=0.01)
    gate = threading.Barrier(5)

    def meet() -> threading.Thread:
        gate.wait(PATIENCE)
        return threading.current_thread()

    threads = [await result(call) for call in [pool.submit(meet) for _ in range(5)]]
    assert len(set(threads)) == 5
    for thread in threads:
        assert isinstance(thread, threading.Thread)
        await asyncio.get_running_loop().run_in_executor(None, thread.join, PATIENCE)
        assert not thread.is_alive()
    assert await result(pool.submit(lambda: "again")) == "again"


async def test_threads_that_have_nothing_to_do_leave_half_of_the_limit_to_others(make: Make) -> None:
    most = 2 * threading.active_count() + 8
    pool = make(most)
    gate = threading.Barrier(most // 2)
    for call in [pool.submit(gate.wait, PATIENCE) for _ in range(most // 2)]:
        await result(call)
    async with asyncio.timeout(PATIENCE):
        while threading.active_count() > most // 2:  # noqa: ASYNC110 - nothing tells that a thread has ended
            await asyncio.sleep(0.01)


async def test_calls_that_wait_go_on_when_other_threads_have_ended(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    stop, gate = threading.Event(), threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    most = threading.active_count() + 1
    pool = make(most)
    held = pool.submit(gate.wait)
    waiting = [pool.submit(abs, number) for number in range(3)]
    waiting[1].cancel()
    assert [record.getMessage() for record in caplog.records] == [
        f"no thread is free for asyncio.to_thread, and 1 calls wait: the process has its {most} threads (--max-threads)"
    ]
    assert not any(call.running() or call.done() for call in (waiting[0], waiting[2]))
    stop.set()
    other.join()
    assert [await result(waiting[0]), await result(waiting[2])] == [0, 2]
    assert not held.done()
    gate.set()
    assert await result(held) is True


async def test_where_the_system_has_no_more_threads_calls_wait(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        call = pool.submit(lambda: "at last")
        assert not call.done()
    assert await result(call) == "at last"


async def test_what_leaves_a_call_is_its_result_and_nothing_of_it_is_kept(make: Make) -> None:
    class Thing: ...

    def fail() -> None:
        raise SystemExit("of a call")

    pool = make()
    assert str(pool.submit(fail).exception(PATIENCE)) == "of a call"
    thing = Thing()
    gone = weakref.ref(thing)
    await result(pool.submit(id, thing))
    del thing
    async with asyncio.timeout(PATIENCE):
        while gone() is not None:  # noqa: ASYNC110 - nor that it has let go
            await asyncio.sleep(0)


async def test_shut_down_it_makes_the_calls_that_there_are_by_one_thread_at_least(
    make: Make,
) -> None:
    pool = make(1)
    gate = threading.Event()
    held, waiting = pool.submit(gate.wait), pool.submit(abs, -1)
    gate.set()
    pool.shutdown()
    assert (held.result(0), waiting.result(0)) == (True, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(print)
