"""Apps that catch each exception and ask again, served by a real server: nobody else is held up, nor is its end."""

from __future__ import annotations

import pytest

from session_service.v1 import session_pb2 as pb

from ..cli.program import Program
from .test_bad_days import ECHO, echoed, opened, until_logged

CARELESS = """
    import asyncio
    from session_service import get_current_session

    async def waits():
        session = get_current_session()
        while True:
            try:
                await session.next_client_event()
            except Exception:
                pass

    async def insists():
        session = get_current_session()
        while True:
            try:
                await session.next_client_event()
            except:
                pass

    async def drains():
        session = get_current_session()
        while True:
            try:
                session.send_task_command({"command": "tick"})
                await session.drain()
            except Exception:
                pass

    def waits_in_thread():
        session = get_current_session()
        while True:
            try:
                session.next_client_event()
            except Exception:
                pass

    def insists_in_thread():
        session = get_current_session()
        while True:
            try:
                session.next_client_event()
            except:
                pass
"""

SWALLOWS = """
    import asyncio
    from session_service import get_current_session

    async def other():
        pass

    async def sends():
        session = get_current_session()
        while True:
            try:
                session.send_task_command({"command": "tick"})
                await asyncio.sleep(0.01)
            except:
                pass

    async def spawns():
        session = get_current_session()
        while True:
            try:
                session.run_task(other)
                await asyncio.sleep(0.01)
            except:
                pass

    async def registers():
        session = get_current_session()
        while True:
            try:
                session.register_callback(print)
                await asyncio.sleep(0.01)
            except:
                pass

    async def defers():
        session = get_current_session()

        async def child():
            while True:
                try:
                    session.defer_call(print)
                    await asyncio.sleep(0.01)
                except:
                    pass

        task = asyncio.create_task(child())
        await asyncio.sleep(0.01)
        await session.next_client_event()

    async def mistakes():
        session = get_current_session()
        while True:
            try:
                await session.next_client_event(timeout="5")
            except Exception:
                pass

    async def stray():
        import contextvars
        session = get_current_session()

        async def child():
            while True:
                try:
                    await session.next_client_event()
                except Exception:
                    pass

        task = asyncio.create_task(child(), context=contextvars.Context())
        await session.next_client_event()
"""


@pytest.mark.parametrize("app", ["sends", "spawns", "registers", "defers", "mistakes", "stray"])
async def test_an_app_that_swallows_everything_holds_nobody_up(program: Program, app: str) -> None:
    program.write(SWALLOWS)
    program.write(ECHO, "echo.py")
    served = await program.serve("--shutdown-grace", "0.5", "echo:echo", f"apps:{app}")
    other = await opened(served)
    lost = await opened(served, app)
    assert await echoed(other, "both") == "both"
    lost.cancel()
    for text in ("one", "two"):
        assert await served.health() == "SERVING"
        assert await echoed(other, text) == text
    served.signal()
    assert await served.exit_code() == 0


APPS = ["waits", "insists", "waits_in_thread", "insists_in_thread"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_careless_app_ends_with_its_events_and_holds_nobody_up(program: Program, loop: str) -> None:
    program.write(CARELESS)
    program.write(ECHO, "echo.py")
    served = await program.serve("--loop", loop, "echo:echo", "apps:drains", *(f"apps:{app}" for app in APPS))
    other = await opened(served)
    for app in APPS:
        peer = await opened(served, app)
        await peer.half_close()
        closed = [response.closed for response in await peer.receive_all() if response.HasField("closed")]
        assert [each.reason for each in closed] == [pb.CLOSE_REASON_CLIENT]
        assert await served.health() == "SERVING"
        assert await echoed(other, app) == app
    assert served.log().count("goes on asking") == len(APPS)
    assert served.log().count("in insists_in_thread\n") > 0

    lost = await opened(served, "drains")
    assert (await lost.receive()).commands
    lost.cancel()
    await until_logged(served, "in drains\n")
    assert await echoed(other, "still here") == "still here"
    served.signal()
    assert (await other.receive()).draining.grace.ToTimedelta()
    assert await served.health() == "NOT_SERVING"
    await other.half_close()
    assert await served.exit_code() == 0


@pytest.mark.parametrize("app", APPS)
async def test_a_shutdown_ends_while_an_app_goes_on_asking(program: Program, app: str) -> None:
    program.write(CARELESS)
    program.write(ECHO, "echo.py")
    served = await program.serve("--shutdown-grace", "600", "echo:echo", f"apps:{app}")
    other = await opened(served)
    await (await opened(served, app)).half_close()
    served.signal()
    assert (await other.receive()).draining.grace.ToTimedelta()
    assert await served.health() == "NOT_SERVING"
    assert await echoed(other, "still here") == "still here"
    await other.half_close()
    assert await served.exit_code() == 0, "long before the grace is over"
