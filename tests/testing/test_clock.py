"""The virtual clock: it jumps where only timers are left, and never while somebody outside is at work."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from session_service.testing.clock import VirtualLoop

HOUR = 3600.0


def run_on(loop: VirtualLoop, main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return run_on(VirtualLoop(1e12), main)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_it_jumps_to_the_next_timer_and_stands_still_while_code_runs() -> None:
    async def main() -> tuple[float, float]:
        before = now()
        time.sleep(0.01)  # noqa: ASYNC251 - code that runs
        await asyncio.sleep(0)
        still = now() - before
        await asyncio.sleep(HOUR)
        return still, now() - before

    assert run(main()) == (0.0, HOUR)


def test_timers_fire_in_order_at_their_times() -> None:
    async def main() -> list[tuple[str, float]]:
        fired: list[tuple[str, float]] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            fired.append((name, now()))

        async with asyncio.TaskGroup() as group:
            for name, seconds in [("day", 24 * HOUR), ("now", 0), ("hour", HOUR), ("second", 1.0), ("again", HOUR)]:
                group.create_task(sleeper(name, seconds))
        return fired

    assert run(main()) == [("now", 0.0), ("second", 1.0), ("hour", HOUR), ("again", HOUR), ("day", 24 * HOUR)]


@pytest.mark.parametrize("start", [0.0, 1e6, 1e8, 1e9])
def test_a_time_so_late_that_floats_are_coarse_does_not_stop_it(start: float) -> None:
    async def main() -> float:
        await asyncio.sleep(start)
        for _ in range(100):
            await asyncio.sleep(0.1)
        return now()

    assert run(main()) == pytest.approx(start + 10)


def test_a_timeout_that_is_cancelled_moves_nothing() -> None:
    async def main() -> float:
        async with asyncio.timeout(HOUR):
            await asyncio.sleep(1)
        return now()

    assert run(main()) == 1.0


def test_it_does_not_jump_while_a_thread_works() -> None:
    async def main() -> str:
        async with asyncio.timeout(60):  # a jump would let it pass at once
            return await asyncio.to_thread(work)

    def work() -> str:
        time.sleep(0.05)
        return "done"

    assert run(main()) == "done"


def test_time_goes_by_as_it_does_while_a_thread_works() -> None:
    gate = threading.Event()

    async def main() -> bool:
        work = asyncio.create_task(asyncio.to_thread(gate.wait))
        await asyncio.sleep(0.02)
        waited = not work.done()
        gate.set()
        await work
        return waited

    assert run(main())


def test_it_does_not_jump_while_a_thread_works_that_nobody_waits_for_any_more() -> None:
    async def main() -> bool:
        loop, told = asyncio.get_running_loop(), asyncio.Event()

        def work() -> None:
            gate.wait()
            time.sleep(0.02)
            loop.call_soon_threadsafe(told.set)

        gate = threading.Event()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(work), 0.01)
        gate.set()
        async with asyncio.timeout(60):  # a jump would let it pass at once
            return await told.wait()

    assert run(main())


def test_it_does_not_jump_while_an_executor_of_the_apps_own_works() -> None:
    async def main() -> str:
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            async with asyncio.timeout(60):
                return await asyncio.get_running_loop().run_in_executor(executor, work, "done")

    def work(result: str) -> str:
        time.sleep(0.05)
        return result

    assert run(main()) == "done"


def test_what_a_thread_raises_is_raised() -> None:
    async def main() -> None:
        await asyncio.to_thread(int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        run(main())


def test_it_jumps_again_when_the_thread_has_ended() -> None:
    async def main() -> float:
        for _ in range(100):
            await asyncio.to_thread(time.sleep, 0)
            await asyncio.sleep(HOUR)
        return now()

    assert run(main()) == pytest.approx(100 * HOUR, rel=0.01)


def test_it_does_not_jump_while_a_socket_is_open() -> None:
    ours, theirs = socket.socketpair()

    def answer() -> None:
        request = theirs.recv(4)
        time.sleep(0.05)
        theirs.send(request)
        theirs.close()

    async def main() -> bytes:
        reader, writer = await asyncio.open_connection(sock=ours)
        async with asyncio.timeout(60):  # a jump would let it pass at once
            writer.write(b"ping")
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    thread = threading.Thread(target=answer)
    thread.start()
    assert run(main()) == b"ping"
    thread.join()


def test_what_is_stuck_is_told_once_and_the_loop_goes_on() -> None:
    loop = VirtualLoop(HOUR)
    told: list[str] = []

    async def main() -> float:
        stuck = loop.create_future()

        def on_stuck(why: str) -> None:
            told.append(why)
            stuck.set_result(None)

        loop.on_stuck = on_stuck
        sleeper = asyncio.create_task(asyncio.sleep(2 * HOUR))
        await stuck
        at = now()
        await sleeper  # grace periods are still to come
        return at

    assert run_on(loop, main()) == 0.0
    assert told == ["3600 virtual seconds passed"]


def test_a_loop_that_waits_for_nothing_says_so_instead() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing can happen any more"):
        run(main())
