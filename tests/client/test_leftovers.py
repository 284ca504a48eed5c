"""After a client has been left nothing of gRPC is alive, without any help of the garbage collector: forks are safe."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Iterator

import grpc
import pytest
from session_client import RetryPolicy, SessionClient, SessionClientError, SyncSessionClient

from tests.session.kinds import eventually

from .relay import Relay
from .served import QUICK, RelayTo, Serve, echo

SOON = RetryPolicy(initial=0.01, maximum=0.02, total=0.1)


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """Switch the garbage collector off, after its last run."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> list[str]:
    """Return what there is of gRPC's client."""
    kinds = (grpc.aio.Channel, grpc.aio.Call)
    return [type(thing).__qualname__ for thing in gc.get_objects() if isinstance(thing, kinds)]


async def say(client: SessionClient, *, resumable: bool = True) -> None:
    async with client.open("echo", resumable=resumable) as session:
        await session.send_event("say", 1)
        assert (await anext(session)).spec == 1


async def closed(client: SessionClient, _: Relay) -> None:
    await say(client)


async def plain(client: SessionClient, _: Relay) -> None:
    await say(client, resumable=False)


async def detached(client: SessionClient, _: Relay) -> None:
    async with client.open("echo") as session:
        await session.detach()


async def left(client: SessionClient, _: Relay) -> None:
    await client.open("echo").__aenter__()


async def with_an_exception(client: SessionClient, _: Relay) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.open("echo"):
            raise ZeroDivisionError


async def refused(client: SessionClient, _: Relay) -> None:
    with pytest.raises(SessionClientError):
        await client.open("nope").__aenter__()


async def cut(client: SessionClient, relay: Relay) -> None:
    async with client.open("echo") as session:
        for number in range(3):
            relay.cut()
            await session.send_event("say", number)
            assert (await anext(session)).spec == number


async def lost(client: SessionClient, relay: Relay) -> None:
    async with client.open("echo") as session:
        await relay.refuse()
        await session.send_event("say", 1)
        with pytest.raises(SessionClientError):
            await anext(session)


async def given_up(client: SessionClient, _: Relay) -> None:
    for turns in range(20):
        entering = asyncio.ensure_future(client.open("echo").__aenter__())
        for _turn in range(turns):
            await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait({entering})


Use = Callable[[SessionClient, Relay], Awaitable[None]]


@pytest.mark.parametrize(
    "use",
    [closed, plain, detached, left, with_an_exception, refused, cut, lost, given_up],
    ids=lambda use: use.__name__,
)
async def test_nothing_of_grpc_is_alive(serve: Serve, relay_to: RelayTo, use: Use) -> None:
    served = await serve({"echo": echo})
    relay = await relay_to(served.address)

    async def run() -> None:
        async with SessionClient(relay.address, retry=SOON if use is lost else QUICK) as client:
            await use(client, relay)

    await run()
    await eventually(lambda: not alive())


async def test_nothing_of_grpc_is_alive_after_the_sync_client(serve: Serve) -> None:
    served = await serve({"echo": echo})

    def talk() -> None:
        with SyncSessionClient(served.address) as client, client.open("echo") as session:
            session.send_event("say", 1)
            assert next(session).spec == 1

    await asyncio.to_thread(talk)
    await eventually(lambda: not alive())


FORK = """
import asyncio, gc, os, sys
from session_client import SessionClient, SyncSessionClient

gc.disable()
address, kind = sys.argv[1:]

async def talk():
    async with SessionClient(address) as client, client.open("echo") as session:
        await session.send_event("say", 1)
        return (await anext(session)).spec

def talk_sync():
    with SyncSessionClient(address) as client, client.open("echo") as session:
        session.send_event("say", 1)
        return next(session).spec

use = talk_sync if kind == "sync" else lambda: asyncio.run(talk())
use()
child = os.fork()
if not child:
    print("child", use(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", use(), flush=True)
"""


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_process_may_fork_after_the_client_and_both_sides_may_have_another(serve: Serve, kind: str) -> None:
    served = await serve({"echo": echo})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORK, served.address, kind),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (stdout.decode().split("\n"), stderr.decode()) == (["child 1", "parent 1", ""], "")
