"""Where sessions live."""

from __future__ import annotations

import asyncio
import threading
import weakref

import pytest

from session_service.session.home import Home, here


async def test_all_sessions_of_a_loop_share_its_home() -> None:
    home = here()
    assert here() is home
    assert home.loop is asyncio.get_running_loop()


async def test_a_call_is_made_now_where_the_loop_is_and_in_a_turn_to_come_from_elsewhere() -> None:
    home, calls, done = here(), list[int](), asyncio.Event()

    def call(number: int) -> None:
        assert home.inside
        calls.append(number)

    home.call(call, 1)
    assert calls == [1]
    home.call_soon(call, 2)
    assert calls == [1]

    def elsewhere() -> None:
        assert not home.inside
        home.call(call, 3)
        home.call(done.set)

    await asyncio.to_thread(elsewhere)
    await asyncio.wait_for(done.wait(), 5)
    assert calls == [1, 2, 3]


def test_there_is_none_without_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        here()


def test_a_call_to_a_loop_that_is_gone_is_lost() -> None:
    async def live() -> Home:
        return here()

    home = asyncio.run(live())
    assert home.thread == threading.get_ident()
    home.call_soon(print, "never")


def test_a_home_lives_no_longer_than_its_sessions() -> None:
    async def live() -> weakref.ref[Home]:
        return weakref.ref(here())

    assert asyncio.run(live())() is None
