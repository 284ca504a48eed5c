"""Processes that apps make: they are ended as any others are, and have nothing of the server's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import pytest

from session_service.v1 import session_pb2 as pb

from ..protocol.peer import Peer, value
from .program import PATIENCE, Program, Served

JSON = pb.PAYLOAD_FORMAT_JSON

APPS = """
    import asyncio, multiprocessing, os, signal, socket, time
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from session_service import SessionClosedException, SessionNotFoundException, get_current_session

    fork = multiprocessing.get_context("fork")

    def square(number):
        return number * number

    def sleep(*_):
        time.sleep(3600)

    def say(spec):
        get_current_session().send_task_command({"command": "say", "spec": spec})

    async def terminates():
        for _ in range(20):  # the signal comes before the child has begun, or after
            child = fork.Process(target=sleep)
            child.start()
            child.terminate()
            await asyncio.to_thread(child.join)
            say(child.exitcode)

    def terminates_in_thread():
        child = fork.Process(target=sleep)
        child.start()
        child.terminate()
        child.join()
        say(child.exitcode)

    def busy_pool():
        with fork.Pool(2) as pool:
            pool.map_async(sleep, range(4))
        pool.join()
        say("joined")

    async def broken_executor():
        with ProcessPoolExecutor(2, mp_context=fork) as pool:
            loop = asyncio.get_running_loop()
            calls = [loop.run_in_executor(pool, work) for work in (sleep, sleep, os.getpid)]
            await asyncio.sleep(0)
            next(iter(pool._processes.values())).kill()
            say([type(error).__name__ for error in await asyncio.gather(*calls, return_exceptions=True)])

    async def computes():
        for kind in ("fork", "forkserver", "spawn"):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(kind)) as pool:
                say(await asyncio.get_running_loop().run_in_executor(pool, square, 7))

    def look(pipe, session):
        found = {"policy": os.sched_getscheduler(0)}
        found["SIGTERM"] = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        found["SIGINT"] = signal.getsignal(signal.SIGINT) == signal.default_int_handler
        found["mask"] = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        found["wakeup"] = signal.set_wakeup_fd(-1)
        try:
            get_current_session()
        except SessionNotFoundException as error:
            found["session"] = type(error).__name__
        try:
            session.send_task_command({"command": "lost", "spec": None})
        except SessionClosedException as error:
            found["sends"] = str(error)
        pipe.send(found)

    def looks():
        ours, theirs = fork.Pipe()
        child = fork.Process(target=look, args=(theirs, get_current_session()))
        child.start()
        theirs.close()
        say(ours.recv())
        child.join()

    async def looks_from_the_loop():
        looks()

    def insist(pipe):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pipe.send("deaf")
        sleep()

    async def leaves():
        ours, theirs = fork.Pipe()
        children = [
            fork.Process(target=target, args=(theirs,), daemon=daemon)
            for target in (sleep, insist)
            for daemon in (True, False)
        ]
        for child in children:
            child.start()
        ours.recv(), ours.recv()
        say([child.pid for child in children])
        event = await get_current_session().next_client_event()
        if event["event"] == "block":
            say("blocks")
            time.sleep(3600)

    async def forks():
        if (child := os.fork()) == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # who waits for the server's end reads it to its end
            time.sleep(3600)
            os._exit(0)
        say(child)
        await get_current_session().next_client_event()
"""


async def said(served: Served, app: str, number: int = 1) -> list[object]:
    """Open an app, and return what it says."""
    peer = await served.open(app, command_format=JSON)
    async with asyncio.timeout(PATIENCE):
        return [value(command) for command in await peer.receive_commands(number)]


async def has_ended(pid: int) -> None:
    """Wait until a process has ended, whoever is its parent by now."""
    async with asyncio.timeout(PATIENCE):
        while is_alive(pid):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- what apps may do -------------------------------------------------------------------------------------------------


async def test_a_child_is_ended_by_terminate(program: Program) -> None:
    program.write(APPS)
    served = await program.serve("apps:terminates", "apps:terminates_in_thread")
    assert await said(served, "terminates", 20) == 20 * [-signal.SIGTERM]
    assert await said(served, "terminates_in_thread") == [-signal.SIGTERM]


async def test_a_child_that_is_made_while_an_app_is_imported_is_ended_by_terminate(program: Program) -> None:
    program.write(
        APPS
        + """
    child = fork.Process(target=sleep)
    child.start()

    def app():
        child.terminate()
        child.join()
        say(child.exitcode)
    """
    )
    served = await program.serve("apps:app")
    assert await said(served, "app") == [-signal.SIGTERM]


async def test_a_busy_pool_ends_and_so_does_an_executor_one_of_whose_processes_was_killed(program: Program) -> None:
    program.write(APPS)
    served = await program.serve("apps:busy_pool", "apps:broken_executor")
    assert await said(served, "busy_pool") == ["joined"]
    assert await said(served, "broken_executor") == [3 * ["BrokenProcessPool"]]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_each_way_to_start_processes_serves_to_compute(program: Program, loop: str) -> None:
    program.write(APPS)
    served = await program.serve("--loop", loop, "apps:computes")
    assert await said(served, "computes", 3) == [49, 49, 49]
    served.signal()
    assert await served.exit_code() == 0


@pytest.mark.parametrize("app", ["looks", "looks_from_the_loop"])
async def test_a_forked_child_has_nothing_of_what_the_server_has_set(program: Program, app: str) -> None:
    program.write(APPS)
    served = await program.serve(f"apps:{app}")
    (found,) = await said(served, app)
    assert found == {
        "policy": os.SCHED_OTHER,
        "SIGTERM": True,
        "SIGINT": True,
        "mask": [],
        "wakeup": -1,
        "session": "SessionNotFoundException",
        "sends": "the session is closed",
    }
    assert await said(served, app) == [found]  # the server goes on


# --- how they end -----------------------------------------------------------------------------------------------------


async def leaving(program: Program, *options: str) -> tuple[Served, Peer, list[int]]:
    program.write(APPS)
    served = await program.serve(*options, "apps:leaves")
    peer = await served.open("leaves", command_format=JSON)
    (command,) = await peer.receive_commands(1)
    pids = value(command)
    assert isinstance(pids, list)
    assert all(is_alive(pid) for pid in pids)
    return served, peer, pids


async def check_ended(pids: list[int]) -> None:
    try:
        for pid in pids:
            await has_ended(pid)
    finally:
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)


async def test_children_of_multiprocessing_end_with_the_server(program: Program) -> None:
    served, _, pids = await leaving(program, "--shutdown-grace", "0")
    served.signal()
    code = await served.exit_code()
    await check_ended(pids)
    assert code == 0


async def test_children_of_multiprocessing_end_at_a_second_signal(program: Program) -> None:
    served, peer, pids = await leaving(program, "--shutdown-grace", "3600")
    served.signal()
    await peer.receive_until(lambda response: response.HasField("draining"))
    served.signal()
    code = await served.exit_code()
    await check_ended(pids)
    assert code == 128 + signal.SIGTERM


async def test_children_of_multiprocessing_end_at_SIGTERM_while_apps_are_imported(program: Program) -> None:
    program.write(
        APPS
        + """
    child = fork.Process(target=sleep, daemon=True)
    child.start()
    print(child.pid, flush=True)
    sleep()
    """
    )
    process = await program.start("serve", "apps:app")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        pid = int(await process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        code = await process.wait()
    await check_ended([pid])
    assert code == 0


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:{folder}/socket"])
async def test_a_child_that_outlives_the_server_keeps_neither_its_port_nor_its_connections(
    program: Program, listen: str
) -> None:
    program.write(APPS)
    options = ("--admin-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
    served = await program.serve("--listen", listen.format(folder=program.folder), *options, "apps:forks")
    ports = [
        int(line.rpartition(" ")[2].removesuffix("/metrics").rpartition(":")[2])
        for line in served.log().splitlines()
        if "the admin service listens on" in line or "metrics at http" in line
    ]
    assert len(ports) == 2
    peer = await served.open("forks", command_format=JSON)
    (command,) = await peer.receive_commands(1)
    pid = value(command)
    assert isinstance(pid, int)
    try:
        served.signal(signal.SIGKILL)
        await served.exit_code()
        assert is_alive(pid)
        status = await peer.status()  # the client notices
        assert status is not None
        for port in ports:
            with socket.create_server(("127.0.0.1", port)):
                pass
        again = await program.serve("--listen", served.address, "apps:forks")
        assert await again.health() == "SERVING"
    finally:
        os.kill(pid, signal.SIGKILL)
