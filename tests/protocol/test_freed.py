"""Of a session that has ended, and is forgotten, a server keeps nothing, though no collector ever comes."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from session_service import AbstractSession, CloseReason, get_current_session
from session_service.host import ManagedSession
from session_service.server.attachment import Attachment
from session_service.session.tasks import Task
from session_service.v1 import session_pb2 as pb

from .peer import PATIENCE, Peer, Serve, Service, event

OURS = (AbstractSession, ManagedSession, Attachment, Task)

PARAMS: Any = {"large": "x" * 100_000}

End = Callable[[Service, Peer], Awaitable[object]]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Free by reference counting alone; and log nothing, for pytest keeps the records with their tracebacks."""
    gc.collect()
    gc.disable()
    gc.freeze()  # what other tests have left
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    gc.unfreeze()
    gc.enable()


def kept(kinds: tuple[type, ...]) -> list[str]:
    """Name what there is; not the things themselves, which would keep them."""
    return [type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds)]


async def gone(*others: type) -> None:
    """Wait until nothing of ours is left; a call lingers until its client has gone, and a thread until it is over."""
    left: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while left := kept((*OURS, *others)):  # noqa: ASYNC110 - nothing sets an Event here
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(left) from None


# --- apps: coroutines and threads ---


async def coroutine() -> None:
    session = get_current_session()
    assert session.params["large"]
    session.on_attach(lambda *_: None)
    session.on_detach(lambda session: session.id)
    session.defer_call(lambda: session.id)
    callback = session.register_callback(lambda data: session.send_task_command({"command": "late", "spec": data}))
    while True:
        data = (await session.next_client_event())["data"]
        session.send_task_command({"command": "echo", "spec": data})
        if data == "return":
            session.unregister_callback(callback)
            return
        if data == "fail":
            raise ValueError(session.id)
        if data == "close":
            session.close()


def thread() -> None:
    session = get_current_session()
    assert session.params["large"]
    session.on_attach(lambda *_: None)
    session.on_detach(lambda session: session.id)
    session.defer_call(lambda: session.id)
    callback = session.register_callback(lambda data: session.send_task_command({"command": "late", "spec": data}))
    while True:
        data = session.next_client_event()["data"]
        session.send_task_command({"command": "echo", "spec": data})
        if data == "return":
            session.unregister_callback(callback)
            return
        if data == "fail":
            raise ValueError(session.id)
        if data == "close":
            session.close()


# --- ends ---


async def say(service: Service, peer: Peer, data: str) -> None:
    sequence = 1 if peer.opened.resume_token else 0
    await peer.send(events=[event("say", data)], first_sequence=sequence)
    await finish(peer)


async def finish(peer: Peer) -> None:
    """Read to the end, and acknowledge it."""
    while (response := await peer.receive()) is not None:
        if response.HasField("closed"):
            break
    if peer.opened.resume_token:
        await peer.send(ack=response.closed.sequence)
    await peer.half_close()
    await peer.status()


async def client_closes(service: Service, peer: Peer) -> None:
    await peer.send(close=pb.Close())
    await finish(peer)


async def client_closes_now(service: Service, peer: Peer) -> None:
    await peer.send(close=pb.Close(now=True))
    await finish(peer)


async def half_closes(service: Service, peer: Peer) -> None:
    await peer.half_close()
    if peer.opened.resume_token:  # that says nothing of a resumable session
        peer.cancel()
    await peer.status()


async def cancels(service: Service, peer: Peer) -> None:
    peer.cancel()


async def returns(service: Service, peer: Peer) -> None:
    await say(service, peer, "return")


async def fails(service: Service, peer: Peer) -> None:
    await say(service, peer, "fail")


async def app_closes(service: Service, peer: Peer) -> None:
    await say(service, peer, "close")


async def server_closes(service: Service, peer: Peer) -> None:
    for managed in service.server.manager:
        managed.session.close(reason=CloseReason.SERVER)
    await finish(peer)


async def ended_undelivered(service: Service, peer: Peer) -> None:
    await peer.send(close=pb.Close())
    while not (await peer.receive()).HasField("closed"):
        pass
    peer.cancel()


async def violates(service: Service, peer: Peer) -> None:
    await peer.send(open=pb.Open(app="coroutine"))
    await peer.status()


async def is_taken_over(service: Service, peer: Peer) -> None:
    if peer.opened.resume_token:
        again = await service.resume(peer)
        assert (await peer.status()).reason == "TAKEN_OVER"
        await client_closes(service, again)
    else:
        peer.cancel()


async def shuts_down(service: Service, peer: Peer) -> None:
    drain = asyncio.create_task(service.server.drain(0))
    await finish(peer)
    await drain


ENDS: list[End] = [
    *(client_closes, client_closes_now, half_closes, cancels, returns, fails, app_closes, server_closes),
    *(ended_undelivered, violates, is_taken_over, shuts_down),
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("resumable", [False, True], ids=["plain", "resumable"])
@pytest.mark.parametrize("app", ["coroutine", "thread"])
async def test_nothing_is_kept_of_a_session_that_is_forgotten(
    serve: Serve, app: str, resumable: bool, end: End
) -> None:
    service = await serve({"coroutine": coroutine, "thread": thread}, resume_window=0.2, idle_timeout=1000)
    peer = await service.open(app, resumable=resumable, params=PARAMS)
    await end(service, peer)
    await gone()
    assert not len(service.server.manager)


@pytest.mark.parametrize(
    ("app", "fields", "reason"),
    [
        ("nothing", {}, "APP_NOT_FOUND"),
        ("thread", {}, "SESSION_LIMIT"),  # there are no threads
        ("coroutine", {"request_id": "short", "resumable": True}, "PROTOCOL_VIOLATION"),
    ],
)
async def test_nothing_is_kept_of_an_open_that_is_refused(
    serve: Serve, app: str, fields: dict[str, Any], reason: str
) -> None:
    service = await serve({"coroutine": coroutine, "thread": thread}, max_threads=1)
    peer = service.attach()
    await peer.send(open=pb.Open(app=app, params=PARAMS, **fields))
    assert (await peer.status()).reason == reason
    await gone(pb.AttachRequest)


@pytest.mark.parametrize("app", ["coroutine", "thread"])
async def test_nothing_is_kept_of_200_sessions_that_metrics_are_kept_of(serve: Serve, app: str) -> None:
    service = await serve({"coroutine": coroutine, "thread": thread}, metrics_listen="127.0.0.1:0")
    for number in range(200):
        peer = await service.open(app, resumable=number % 2 == 0, params=PARAMS)
        await returns(service, peer)
    await gone()
