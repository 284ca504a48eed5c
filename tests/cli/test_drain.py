"""SIGTERM, SIGINT and SIGHUP: how a server shuts down (protocol E3), and how it ends whatever its apps do."""

from __future__ import annotations

import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2

from session_service.v1 import session_pb2 as pb

from ..protocol.peer import Peer, event, value
from .program import Program

SESSIONS = """
    import asyncio
    from pathlib import Path
    from session_service import get_current_session

    async def echo():
        '''Says everything back, until there is no more.'''
        session = get_current_session()
        while True:
            event = await session.next_client_event()
            session.send_task_command({"command": "echo", "spec": event["data"]})

    async def busy():
        '''Never ends by itself, and leaves a note when it is ended.'''
        session = get_current_session()
        session.defer_call(lambda: Path("deferred").write_text("has run"))
        session.send_task_command({"command": "busy", "spec": None})
        await asyncio.Event().wait()
"""


async def draining(peer: Peer) -> pb.Draining:
    """Wait for `draining`."""
    response = (await peer.receive_until(lambda response: response.HasField("draining")))[-1]
    return response.draining


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_E3_an_idle_server_exits_0_at_once(program: Program, number: int) -> None:
    program.write(SESSIONS)
    served = await program.serve("--shutdown-grace", "3600", "apps:echo")
    served.signal(number)
    assert await served.exit_code() == 0


async def test_E3_who_watches_the_health_is_told_and_holds_nothing_up(program: Program) -> None:
    program.write(SESSIONS)
    served = await program.serve("--shutdown-grace", "3600", "apps:echo")
    watch = served.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest())
    assert await watch.read() == health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
    served.signal()
    assert await watch.read() == health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
    assert await served.exit_code() == 0
    watch.cancel()


async def test_E3_sessions_go_on_until_they_end_by_themselves(program: Program) -> None:
    program.write(SESSIONS)
    served = await program.serve("--shutdown-grace", "3600", "apps:echo")
    peer = await served.open("echo", command_format=pb.PAYLOAD_FORMAT_JSON)
    served.signal()
    assert (await draining(peer)).grace.seconds == 3600
    assert await served.health() == "NOT_SERVING"
    await peer.send(events=[event("say", "still here")])
    assert [value(command) for command in await peer.receive_commands(1)] == ["still here"]
    await peer.half_close()
    assert (await peer.receive_all())[-1].closed.reason == pb.CLOSE_REASON_CLIENT
    assert await served.exit_code() == 0


async def test_E3_what_is_open_when_the_grace_is_over_closes_with_SHUTDOWN(program: Program) -> None:
    program.write(SESSIONS)
    served = await program.serve("--shutdown-grace", "0.1", "apps:busy")
    plain, resumable = await served.open("busy"), await served.open("busy", resumable=True)
    served.signal()
    assert (await plain.receive_all())[-1].closed.reason == pb.CLOSE_REASON_SHUTDOWN
    closed = (await resumable.receive_until(lambda response: response.HasField("closed")))[-1].closed
    assert closed.reason == pb.CLOSE_REASON_SHUTDOWN
    await resumable.send(ack=closed.sequence)
    assert await served.exit_code() == 0
    assert (program.folder / "deferred").read_text() == "has run"


async def test_E3_open_is_refused_while_resumes_are_served(program: Program) -> None:
    program.write(SESSIONS)
    served = await program.serve("--shutdown-grace", "3600", "apps:echo")
    peer = await served.open("echo", resumable=True, command_format=pb.PAYLOAD_FORMAT_JSON)
    served.signal()
    await draining(peer)

    refused = served.attach()
    await refused.send(open=pb.Open(app="echo"))
    status = await refused.status()
    assert (status.code, status.reason, status.retry) == (grpc.StatusCode.UNAVAILABLE, "DRAINING", "REOPEN")

    peer.cancel()
    resumed = await served.resume(peer)
    await resumed.send(events=[event("say", "back")], first_sequence=1)
    answer = (await resumed.receive_until(lambda response: response.commands))[-1]
    assert [value(command) for command in answer.commands] == ["back"]
    await resumed.send(close=pb.Close(), ack=1)
    closed = (await resumed.receive_until(lambda response: response.HasField("closed")))[-1].closed
    await resumed.send(ack=closed.sequence)
    assert await served.exit_code() == 0


async def test_E3_what_clients_have_lost_is_logged_with_counts(program: Program) -> None:
    program.write(SESSIONS)
    served = await program.serve("--shutdown-grace", "0.1", "apps:busy")
    peer = await served.open("busy", resumable=True)
    await peer.receive_commands(1)
    peer.cancel()
    served.signal()
    assert await served.exit_code() == 0
    assert "1 sessions whose clients have not had everything" in served.log()


async def test_a_terminal_that_is_closed_drains_however_often_it_says_so(program: Program) -> None:
    program.write(SESSIONS)
    served = await program.serve("--shutdown-grace", "0.1", "apps:busy")
    await served.open("busy")
    served.signal(signal.SIGHUP)
    served.signal(signal.SIGHUP)
    assert await served.exit_code() == 0
    assert (program.folder / "deferred").read_text() == "has run"


async def test_a_second_signal_ends_at_once(program: Program) -> None:
    program.write(SESSIONS)
    served = await program.serve("--shutdown-grace", "3600", "apps:busy")
    peer = await served.open("busy")
    served.signal()
    await draining(peer)
    served.signal(signal.SIGINT)
    assert await served.exit_code() == 128 + signal.SIGINT
    assert not (program.folder / "deferred").exists()


STARTED = """
    import asyncio, atexit, threading
    from session_service import get_current_session

    def say():
        get_current_session().send_task_command({"command": "started", "spec": None})
"""
HANGS = {
    "a thread of a session": """
        from started import *

        def app():
            say()
            threading.Event().wait()
    """,
    "a thread of an executor": """
        from started import *

        async def app():
            asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
            say()
    """,
    "a coroutine that swallows its cancellation": """
        from started import *

        async def app():
            say()
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass
    """,
    "an atexit function": """
        from started import *

        async def app():
            atexit.register(threading.Event().wait)
            say()
    """,
}


@pytest.mark.parametrize("hanging", HANGS)
async def test_the_process_ends_though_an_app_hangs(program: Program, hanging: str) -> None:
    program.write(STARTED, "started.py")
    program.write(HANGS[hanging])
    served = await program.serve("--shutdown-grace", "0.1", "apps:app")
    peer = await served.open("app")
    await peer.receive_until(lambda response: response.commands)
    served.signal()
    assert await served.exit_code() == 0


async def test_the_process_ends_though_an_app_blocks_the_loop(program: Program) -> None:
    program.write("""
        import os, time

        async def app():
            os.write(1, b"blocked\\n")
            while True:
                time.sleep(0.01)
    """)
    served = await program.serve("--shutdown-grace", "0.1", "apps:app")
    await served.attach().send(open=pb.Open(app="app"))
    assert await served.stdout.readline() == b"blocked\n"
    served.signal()
    served.signal(signal.SIGINT)  # whichever Python handles first
    assert await served.exit_code() in {128 + signal.SIGTERM, 128 + signal.SIGINT}


async def test_the_process_ends_though_a_client_does_not_read(program: Program) -> None:
    program.write("""
        from session_service import get_current_session

        async def app():
            session = get_current_session()
            while True:
                session.send_task_command({"command": "flood", "spec": "x" * 10_000})
                await session.drain()
    """)
    served = await program.serve("--shutdown-grace", "0.1", "apps:app")
    plain, resumable = await served.open("app"), await served.open("app", resumable=True)
    await plain.receive()
    await resumable.receive()
    served.signal()
    assert await served.exit_code() == 0
    resumable.cancel()
