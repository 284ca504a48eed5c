"""Bad days, as docs/operations.md tells of them, each brought about for a real server in a process of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from session_service.v1 import session_pb2 as pb

from ..cli.program import PATIENCE, Program, Served
from ..protocol.peer import Peer, Service, event, value
from ..server.conftest import Connect

JSON = pb.PAYLOAD_FORMAT_JSON

ECHO = """
    from session_service import get_current_session

    async def echo():
        session = get_current_session()
        while True:
            event = await session.next_client_event()
            session.send_task_command({"command": "echo", "spec": event["data"]})
"""


async def opened(service: Service, app: str = "echo") -> Peer:
    return await service.open(app, command_format=JSON)


async def echoed(peer: Peer, data: object, sequence: int = 0) -> object:
    await peer.send(events=[event("say", data)], first_sequence=sequence)
    (command,) = await peer.receive_commands(1)
    return value(command)


async def until_logged(served: Served, text: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while text not in served.log():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)


@contextmanager
def limited(served: Served, what: int, limit: int) -> Iterator[None]:
    """Limit what a server may use, for the duration of the block."""
    before = resource.prlimit(served.process.pid, what)
    resource.prlimit(served.process.pid, what, (limit, before[1]))
    try:
        yield
    finally:
        if served.process.returncode is None:
            resource.prlimit(served.process.pid, what, before)


# --- the log ----------------------------------------------------------------------------------------------------------

LOG = (
    ECHO
    + """
    import logging

    async def log():
        session = get_current_session()
        while True:
            event = await session.next_client_event()
            for _ in range(100):
                logging.info("%s", 100 * "x")
            session.send_task_command({"command": "logged", "spec": event["data"]})
"""
)


async def test_where_the_disk_of_the_log_is_full_the_server_goes_on_and_drains(program: Program) -> None:
    (program.folder / "stderr.log").symlink_to("/dev/full")
    program.write(LOG)
    served = await program.serve("apps:log", "--shutdown-grace", "0")
    peer = await opened(served, "log")
    assert [await echoed(peer, number) for number in (1, 2)] == [1, 2]
    served.signal()
    assert await served.exit_code() == 0


async def test_where_nobody_reads_the_log_the_server_goes_on_and_says_later_what_is_lost(program: Program) -> None:
    program.write(LOG)
    path = program.folder / "stderr.log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        served = await program.serve("apps:log")
        peer = await opened(served, "log")
        assert [await echoed(peer, number) for number in (1, 2)] == [1, 2]  # some 20,000 bytes of log

        while os.read(reader, 65536):  # empty, all but for what has been said since
            if await echoed(peer, 3) == 3:
                break
        assert b"log records are lost: stderr did not take them" in os.read(reader, 65536)

        served.signal(signal.SIGKILL)
        await served.exit_code()
    finally:
        os.close(reader)


# --- the machine ------------------------------------------------------------------------------------------------------


def first_free_descriptor(served: Served) -> int:
    used = {int(name) for name in os.listdir(f"/proc/{served.process.pid}/fd")}
    return min(set(range(len(used) + 1)) - used)


async def test_without_a_free_file_descriptor_new_connections_wait_and_sessions_go_on(
    program: Program, connect: Connect
) -> None:
    program.write(ECHO)
    served = await program.serve("apps:echo")
    peer = await opened(served)
    with limited(served, resource.RLIMIT_NOFILE, first_free_descriptor(served)):
        await until_logged(served, "no file descriptor is free")
        waiting = asyncio.create_task(opened(connect(served.address)))
        for number in range(10):
            assert await echoed(peer, number) == number
        assert await echoed(await opened(served), "another session") == "another session"
        assert not waiting.done()
    assert await echoed(await waiting, "let in") == "let in"
    await until_logged(served, "file descriptors are free again")


async def test_without_a_thread_to_be_had_an_app_in_threads_is_refused_and_sessions_go_on(program: Program) -> None:
    program.write(
        ECHO
        + """
    import threading

    threading.stack_size(1 << 30)  # so that memory is short for threads, and for nothing else

    def in_thread():
        session = get_current_session()
        session.send_task_command({"command": "echo", "spec": session.next_client_event()["data"]})
    """
    )
    served = await program.serve("apps:echo", "apps:in_thread")
    peer = await opened(served)
    with limited(served, resource.RLIMIT_AS, size_of(served) + (256 << 20)):
        refused = served.attach()
        await refused.send(open=pb.Open(app="in_thread"))
        status = await refused.status()
        assert (status.code, status.reason, status.retry) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "SESSION_LIMIT",
            "REOPEN",
        )
        assert "no thread for the session: can't start new thread" in status.message
        assert await echoed(peer, "still here") == "still here"
        assert await echoed(await opened(served), "a coroutine") == "a coroutine"
    assert await echoed(await opened(served, "in_thread"), "a thread") == "a thread"


def size_of(served: Served) -> int:
    with open(f"/proc/{served.process.pid}/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


@pytest.mark.parametrize("years", [10, -10])
async def test_where_the_clock_is_set_sessions_neither_expire_nor_are_taken_for_silent(
    program: Program, years: int
) -> None:
    program.write(
        """
    import time

    real, ahead = time.time, 0
    time.time = lambda: real() + ahead
    """
        + ECHO
        + """
    async def jump():
        global ahead
        session = get_current_session()
        ahead = (await session.next_client_event())["data"]
        session.send_task_command({"command": "echo", "spec": int(time.time() - real())})
    """
    )
    served = await program.serve(
        *("--resume-window", "60", "--session-lifetime", "600", "--idle-timeout", "600"), "apps:echo", "apps:jump"
    )
    attached = await served.open("echo", resumable=True, command_format=JSON)
    detached = await served.open("echo", resumable=True, command_format=JSON)
    detached.cancel()

    seconds = years * 365 * 24 * 3600
    assert await echoed(await opened(served, "jump"), seconds) == pytest.approx(seconds, abs=1)

    assert await echoed(attached, "attached", sequence=1) == "attached"
    detached = await served.resume(detached)
    assert await echoed(detached, "detached", sequence=1) == "detached"


# --- apps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_an_app_that_blocks_the_event_loop_is_named_with_its_stack(program: Program, loop: str) -> None:
    os.mkfifo(program.folder / "gate")
    program.write(
        ("import sys; sys.modules['uvloop'] = None\n" if loop == "asyncio" else "")
        + """
import asyncio
from session_service import get_current_session

async def culprit():
    session = get_current_session()
    session.send_task_command({"command": "says", "spec": session.id})
    await session.next_client_event()
    await asyncio.create_task(deeper())

async def deeper():
    open("gate").read()

async def echo():
    session = get_current_session()
    while True:
        event = await session.next_client_event()
        session.send_task_command({"command": "echo", "spec": event["data"]})
"""
    )
    served = await program.serve("--block-warning", "0.3", "apps:culprit", "apps:echo")
    bystander, culprit = await opened(served), await opened(served, "culprit")
    session_id = value((await culprit.receive_commands(1))[0])
    await culprit.send(events=[event("go")])

    await until_logged(served, f"WARNING session_service.server.watch.watchdog: session {session_id}: has blocked")
    await bystander.send(events=[event("say", "patience")])
    (program.folder / "gate").write_text("")
    (command,) = await bystander.receive_commands(1)
    assert value(command) == "patience"
    await until_logged(served, "the event loop goes on, after ")
    log = served.log()
    assert "in task main-1" in log
    assert 'in deeper\n    open("gate").read()' in log
    assert log.count("has blocked the event loop") == 1


async def test_a_process_that_was_stopped_blames_nobody(program: Program) -> None:
    program.write(ECHO)
    served = await program.serve("--block-warning", "1", "apps:echo")
    peer = await opened(served)
    served.signal(signal.SIGSTOP)
    await asyncio.sleep(1.5)  # longer than the warning takes
    served.signal(signal.SIGCONT)
    assert await echoed(peer, "awake") == "awake"
    served.signal()
    peer.cancel()
    assert await served.exit_code() == 0
    assert "blocked" not in served.log()


async def test_SIGTERM_while_an_app_is_imported_ends_the_process(program: Program) -> None:
    program.write("""
        import time
        print("importing", flush=True)
        time.sleep(3600)
    """)
    process = await program.start("serve", "apps:app")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGTERM)
        # Not by the signal itself, which the first process of a container would not even get.
        assert await process.wait() == 0
