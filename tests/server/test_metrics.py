"""Metrics: what the endpoint tells after what has happened; test_metrics_queries.py checks who asks it."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import threading
from pathlib import Path
from typing import Any

import grpc
import prometheus_client
import pytest
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from session_service import Window, get_current_session
from session_service.config import Config
from session_service.errors import Unauthenticated
from session_service.server.auth.tokens import add_token
from session_service.server.watch import metrics
from session_service.server.watch.metrics import MetricsEndpoint
from session_service.session import Principal
from session_service.v1 import info_pb2
from session_service.v1 import session_pb2 as pb

from ..cli.program import Program
from ..protocol.peer import PATIENCE, Peer, Serve, Service, event
from .scrape import Scrape, metrics_address, scrape, scrape_until

METRICS = {"metrics_listen": "127.0.0.1:0"}
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "metrics.md"


async def echo() -> None:
    """Send each event's data back, until `stop`."""
    session = get_current_session()
    while (message := await session.next_client_event())["event"] != "stop":
        session.send_task_command({"command": "echo", "spec": message["data"]})


async def ask(service: Service) -> Scrape:
    return await scrape(service.server.metrics_address)


async def until(service: Service, condition: Any) -> Scrape:
    return await scrape_until(service.server.metrics_address, condition)


async def round_trip(peer: Peer, sequence: int = 0, ack: int = 0) -> None:
    await peer.send(events=[event("say", "x" * 100)], first_sequence=sequence, ack=ack)
    await peer.receive_commands(1)


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_everything_that_can_happen_begins_with_zero(serve: Serve) -> None:
    found = await ask(await serve({"echo": echo, "other": echo}, **METRICS))
    for name, label in [
        ("sessions", "state"),
        ("sessions_closed_total", "reason"),
        ("detaches_total", "reason"),
        ("resumes_total", "outcome"),
        ("refusals_total", "reason"),
        ("failures_total", "where"),
        ("window_stalls_total", "direction"),
    ]:
        assert found(name) == 0
        assert found.nonzero(name, label) == {}
    assert found("sessions_opened_total", app="other") == 0
    assert found("sessions_closed_total", app="echo", reason="EXPIRED") == 0


async def test_sessions_are_counted_by_app_and_state(serve: Serve) -> None:
    service = await serve({"echo": echo, "other": echo}, max_sessions=7, **METRICS)
    await service.open("other")
    attached = await service.open("echo", resumable=True)
    detached = await service.open("echo", resumable=True)
    ended = await service.open("echo", resumable=True)
    detached.cancel()
    await ended.send(close=pb.Close(now=True))
    await ended.receive_until(lambda response: response.HasField("closed"))
    found = await until(service, lambda found: found("sessions", state="detached"))
    assert found.nonzero("sessions_opened_total", "app") == {"echo": 3, "other": 1}
    states = {state: found("sessions", app="echo", state=state) for state in ("attached", "detached", "ended")}
    assert states == {"attached": 1, "detached": 1, "ended": 1}
    assert found("sessions", app="other") == 1
    assert found("sessions_limit") == 7
    assert found("commands_undelivered", app="echo") == 1  # the `closed` of the third
    assert attached.opened.session_id not in repr(found.metrics)


async def test_a_session_that_has_ended_counts_by_its_reason(serve: Serve) -> None:
    async def fails() -> None:
        raise ValueError("on purpose")

    service = await serve({"echo": echo, "fails": fails}, **METRICS)
    await (await service.open("fails")).receive_all()
    peer = await service.open("echo")
    await peer.send(events=[event("stop")])
    await peer.receive_all()
    found = await ask(service)
    assert found("sessions_closed_total", app="fails", reason="FAILED") == 1
    assert found("sessions_closed_total", app="echo", reason="COMPLETED") == 1
    assert found("sessions_closed_total") == 2
    assert found("sessions") == 0


async def test_detaches_resumes_and_takeovers_count(serve: Serve) -> None:
    service = await serve({"echo": echo}, **METRICS)
    peer = await service.open("echo", resumable=True, client_id="mine")
    peer.cancel()
    await until(service, lambda found: found("detaches_total", reason="LOST") == 1)
    peer = await service.resume(peer, client_id="mine")
    newer = await service.resume(peer, client_id="mine")
    assert (await peer.status()).reason == "TAKEN_OVER"
    newest = await service.resume(newer, client_id="theirs")
    assert (await newer.status()).reason == "TAKEN_OVER"
    await newest.send(close=pb.Close(now=True))
    await newest.receive_until(lambda response: response.HasField("closed"))
    await newest.send(ack=1)
    await newest.receive_all()
    wrong = service.attach()
    await wrong.send(resume=pb.Resume(session_id=peer.opened.session_id, resume_token="wrong"))
    assert (await wrong.status()).reason == "SESSION_NOT_FOUND"
    found = await until(service, lambda found: found("detaches_total", reason="ENDED"))
    assert found.nonzero("detaches_total", "reason") == {"LOST": 1, "TAKEN_OVER": 2, "ENDED": 1}
    assert found.nonzero("takeovers_total", "by") == {"same_client": 1, "other_client": 1}
    assert found.nonzero("resumes_total", "outcome") == {"RESUMED": 3, "SESSION_NOT_FOUND": 1}


async def test_refusals_count_by_the_reason_that_the_client_is_told(serve: Serve) -> None:
    service = await serve({"echo": echo}, max_sessions=1, first_request_timeout=0.1, **METRICS)
    for fields in ({"open": pb.Open(app="nope")}, {"ack": 1}, {}):
        peer = service.attach()
        await peer.send(**fields)
        await peer.status()
    assert (await service.attach().status()).reason == "FIRST_REQUEST_TIMEOUT"
    await service.open("echo")
    refused = service.attach()
    await refused.send(open=pb.Open(app="echo"))
    assert (await refused.status()).reason == "SESSION_LIMIT"
    assert (await ask(service)).nonzero("refusals_total", "reason") == {
        "APP_NOT_FOUND": 1,
        "PROTOCOL_VIOLATION": 2,
        "FIRST_REQUEST_TIMEOUT": 1,
        "SESSION_LIMIT": 1,
    }


async def test_who_is_not_let_in_counts_as_refused_on_each_kind_of_call(serve: Serve) -> None:
    def nobody(_: Any, __: Any) -> Principal:
        raise Unauthenticated("nobody is let in")

    service = await serve({"echo": echo}, authenticate=nobody, **METRICS)
    assert (await service.attach().status()).reason == "UNAUTHENTICATED"
    call = service.stub.ParseSessionInfo(info_pb2.ParseSessionInfoRequest())
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await ask(service)).nonzero("refusals_total", "reason") == {"UNAUTHENTICATED": 2}


# --- events and commands ----------------------------------------------------------------------------------------------


async def test_events_and_commands_count_while_their_session_lives_and_after(serve: Serve) -> None:
    service = await serve({"echo": echo}, **METRICS)
    lives = await service.open("echo", resumable=True)
    ends = await service.open("echo")
    await round_trip(lives, 1)
    await round_trip(lives, 2, ack=1)
    await round_trip(ends)
    before = await ask(service)
    assert (before("events_total"), before("commands_total")) == (3, 3)
    assert before("event_bytes_total") > 300
    assert before("command_bytes_total") > 300
    await ends.send(events=[event("stop")])
    await ends.receive_all()
    after = await until(service, lambda found: found("sessions") == 1)
    assert (after("events_total"), after("commands_total")) == (4, 4)  # `closed` is the last one
    assert after("event_bytes_total") > before("event_bytes_total")
    assert after("command_bytes_total") > before("command_bytes_total")


async def test_what_a_resume_repeats_is_counted_apart(serve: Serve) -> None:
    service = await serve({"echo": echo}, **METRICS)
    peer = await service.open("echo", resumable=True)
    await peer.send(events=[event("say", "a"), event("say", "b"), event("say", "c")], first_sequence=1)
    await peer.receive_until(lambda response: response.ack == 3)
    peer.cancel()
    peer = await service.resume(peer, received=1)
    await peer.send(events=[event("say", "b"), event("say", "c"), event("say", "d")], first_sequence=2)
    await peer.receive_until(lambda response: response.ack == 4)
    found = await ask(service)
    assert (found("events_total"), found("events_duplicate_total")) == (4, 2)
    assert (found("commands_total"), found("commands_replayed_total")) == (4, 2)


async def test_events_for_nobody_count_as_dropped(serve: Serve) -> None:
    service = await serve({"echo": echo}, **METRICS)
    peer = await service.open("echo")
    await peer.send(events=[event("say", "a", task_id="nobody")])
    await round_trip(peer)
    found = await ask(service)
    assert (found("events_dropped_total"), found("events_total")) == (1, 2)


async def test_a_full_window_counts_once_each_time_in_either_direction(serve: Serve) -> None:
    async def sends_and_never_takes() -> None:
        session = get_current_session()
        for number in range(40):
            session.send_task_command({"command": "number", "spec": number})
        await asyncio.Event().wait()

    service = await serve({"app": sends_and_never_takes}, event_window=Window(16, 65536), **METRICS)
    peer = await service.open("app", resumable=True, command_window=pb.Window(messages=20, bytes=65536))
    await peer.receive_commands(20)
    await peer.send(events=[event()] * 16, first_sequence=1)
    await peer.receive_until(lambda response: response.ack == 16)
    await peer.send(events=[event()], first_sequence=17)
    await peer.send(events=[event()], first_sequence=18)
    found = await until(service, lambda found: found("window_stalls_total", direction="events"))
    assert found.nonzero("window_stalls_total", "direction") == {"events": 1, "commands": 1}
    await peer.send(ack=20)
    await peer.receive_commands(20)
    found = await ask(service)
    assert found.nonzero("window_stalls_total", "direction") == {"events": 1, "commands": 1}
    assert found("commands_undelivered") == 20


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_latencies_of_events_and_of_acknowledgements_are_observed(serve: Serve, kind: str) -> None:
    def echo_in_thread() -> None:
        session: Any = get_current_session()
        while True:
            session.send_task_command({"command": "echo", "spec": session.next_client_event()["data"]})

    service = await serve({"echo": echo if kind == "coroutine" else echo_in_thread}, **METRICS)
    peer = await service.open("echo", resumable=True)
    await round_trip(peer, 1)
    found = await ask(service)
    assert found("event_latency_seconds_count") == 1
    assert 0 < found("event_latency_seconds_sum") < PATIENCE
    assert found("event_latency_seconds_bucket", le="60.0") == 1
    assert found("command_ack_latency_seconds_count") == 0
    await peer.send(ack=1)
    found = await until(service, lambda found: found("command_ack_latency_seconds_count") == 1)
    assert 0 < found("command_ack_latency_seconds_sum") < PATIENCE


async def test_an_event_for_a_callback_is_timed_until_its_run_starts(serve: Serve) -> None:
    async def clicks() -> None:
        session = get_current_session()
        session.register_callback(lambda data: session.send_task_command({"command": "clicked", "spec": data}))

    service = await serve({"clicks": clicks}, **METRICS)
    peer = await service.open("clicks")
    await peer.send(events=[event("callback", 1, task_id="callback-2")])
    await peer.receive_commands(1)
    assert (await ask(service))("event_latency_seconds_count") == 1


async def test_an_acknowledgement_after_an_outage_is_no_latency(serve: Serve) -> None:
    service = await serve({"echo": echo}, **METRICS)
    peer = await service.open("echo", resumable=True)
    await round_trip(peer, 1)
    peer.cancel()
    peer = await service.resume(peer, received=1)
    await peer.send(events=[event("stop")], first_sequence=2)
    await peer.receive_until(lambda response: response.HasField("closed"))
    await peer.send(ack=2)
    await peer.receive_all()
    assert (await ask(service))("command_ack_latency_seconds_count") == 1  # that of `closed`


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_failures_of_apps_count_by_where_they_were(serve: Serve) -> None:
    async def app() -> None:
        session = get_current_session()

        async def fails(*_: Any) -> None:
            raise ValueError("on purpose")

        session.on_attach(fails)
        session.register_callback(fails)
        session.defer_call(fails)
        session.run_task(fails)
        await session.next_client_event()
        await fails()

    service = await serve({"app": app}, **METRICS)
    peer = await service.open("app")
    await peer.receive_commands(2)  # task_exception of the task and of the hook
    await peer.send(events=[event("callback", None, task_id="callback-2")])
    await peer.receive_commands(1)
    await peer.send(events=[event()])
    await peer.receive_all()
    found = await ask(service)
    assert found.nonzero("failures_total", "where") == dict.fromkeys(
        ("main", "task", "callback", "hook", "deferred"), 1
    )


async def test_files_that_cannot_be_reloaded_are_told(serve: Serve, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    add_token(str(tokens), "ada")
    service = await serve({"echo": echo}, token_file=str(tokens), **METRICS)
    (files,) = service.server.files
    found = await ask(service)
    assert [found(f"file_{name}", files="tokens") for name in ("loads_total", "load_failures_total", "failing")] == [
        1,
        0,
        0,
    ]
    tokens.write_text("garbage that is no token")
    files.look()
    files.look()
    found = await ask(service)
    assert [found(f"file_{name}", files="tokens") for name in ("loads_total", "load_failures_total", "failing")] == [
        1,
        1,
        1,
    ]


async def test_a_server_that_drains_says_so_until_it_ends(serve: Serve) -> None:
    service = await serve({"echo": echo}, **METRICS)
    peer = await service.open("echo")
    assert (await ask(service))("draining") == 0
    draining = asyncio.create_task(service.server.drain(PATIENCE))
    await until(service, lambda found: found("draining") == 1)
    await peer.send(events=[event("stop")])
    await draining


# --- the loop ---------------------------------------------------------------------------------------------------------


async def test_a_blocked_event_loop_is_seen_while_it_is_blocked_and_afterwards(program: Program) -> None:
    program.write("""
        import os
        from session_service import get_current_session

        async def app():
            open("gate").close()    # a FIFO: it waits for whoever writes
            get_current_session().send_task_command({"command": "through", "spec": None})
    """)
    os.mkfifo(program.folder / "gate")
    served = await program.serve("--metrics-listen", "127.0.0.1:0", "--block-warning", "0.1", "apps:app")
    address = metrics_address(served.log())
    peer = served.attach()
    await peer.send(open=pb.Open(app="app"))
    blocked = await scrape_until(address, lambda found: found("event_loop_blocked_seconds") > 0.3)
    assert blocked("sessions_opened_total") == 1
    await asyncio.to_thread((program.folder / "gate").write_text, "")
    await peer.receive_until(lambda response: response.commands)
    found = await scrape_until(address, lambda found: found("event_loop_blocked_seconds") < 0.1)
    assert found("event_loop_lag_seconds_sum") > 0.3
    assert found("event_loop_blocks_total") == 1


# --- the endpoint -----------------------------------------------------------------------------------------------------


async def test_the_names_follow_the_conventions_of_prometheus(serve: Serve, tmp_path: Path) -> None:
    add_token(str(tmp_path / "tokens"), "ada")
    found = await ask(await serve({"echo": echo}, token_file=str(tmp_path / "tokens"), **METRICS))
    ours = [metric for metric in found.metrics if metric.name.startswith("session_service_")]
    assert ours
    for metric in ours:
        assert metric.documentation.endswith("."), metric.name
        names = {sample.name for sample in metric.samples}
        if metric.type == "counter":
            assert names == {f"{metric.name}_total"}
        elif metric.type == "histogram":
            assert metric.name.endswith("_seconds")
            assert names == {f"{metric.name}_{part}" for part in ("bucket", "count", "sum")}
        else:
            assert (metric.type, names) == ("gauge", {metric.name})
            assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))


async def test_a_counter_never_goes_down_though_sessions_are_forgotten_meanwhile(serve: Serve) -> None:
    service = await serve({"echo": echo}, **METRICS)
    counts = []
    for _ in range(20):
        peer = await service.open("echo")
        await round_trip(peer)
        counts.append((await ask(service))("events_total"))
        peer.cancel()
        counts.append((await ask(service))("events_total"))
    assert counts == [number // 2 + 1 for number in range(40)]


async def test_what_an_app_registers_is_served_as_well(serve: Serve) -> None:
    class Mine(Collector):
        def collect(self) -> list[Metric]:
            return [GaugeMetricFamily("mine", "Of an app.", value=42)]

    mine = Mine()
    prometheus_client.REGISTRY.register(mine)
    try:
        found = await ask(await serve({"echo": echo}, **METRICS))
    finally:
        prometheus_client.REGISTRY.unregister(mine)
    values = {sample.name: sample.value for metric in found.metrics for sample in metric.samples}
    assert values["mine"] == 42
    assert values["process_resident_memory_bytes"] > 0


async def test_the_documentation_lists_each_metric_with_its_kind_and_labels(serve: Serve, tmp_path: Path) -> None:
    add_token(str(tmp_path / "tokens"), "ada")
    found = await ask(await serve({"echo": echo}, token_file=str(tmp_path / "tokens"), **METRICS))
    served = {}
    for metric in found.metrics:
        if metric.name.startswith("session_service_"):
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            served[name] = metric.type, {label for sample in metric.samples for label in sample.labels} - {"le"}
    rows = re.findall(r"^\| `(session_service_\w+)` \| (\w+) \| ([^|]*)\| \S", DOCUMENTATION.read_text(), re.MULTILINE)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == served


async def test_without_an_address_nothing_is_served(serve: Serve) -> None:
    service = await serve({"echo": echo})
    assert service.server.metrics_address == ""
    assert (await service.open("echo", resumable=True)).opened.session_id
    (managed,) = service.server.manager
    assert managed.ack_stopwatch is None  # and nothing is timed


async def test_nothing_is_left_of_the_endpoint_when_the_server_has_stopped(serve: Serve) -> None:
    service = await serve({"echo": echo}, **METRICS)
    host, _, port = service.server.metrics_address.rpartition(":")
    await service.server.drain(0)
    async with asyncio.timeout(PATIENCE):
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))):
                    break
            await asyncio.sleep(0)
    for thread in threading.enumerate():
        if thread.name == "stop metrics":
            await asyncio.to_thread(thread.join, PATIENCE)


# --- what can be wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:99999", "unix:/tmp/socket"])
async def test_an_address_that_is_none_is_refused(program: Program, address: str) -> None:
    program.write("async def app(): ...")
    ended = await program.run("serve", "--metrics-listen", address, "apps:app")
    assert (ended.code, ended.stdout) == (2, "")
    assert f"{address!r} is no HOST:PORT" in ended.stderr
    with pytest.raises(ValueError, match="is no HOST:PORT"):
        Config(metrics_listen=address)


async def test_an_address_that_is_taken_ends_the_server_before_it_serves(program: Program) -> None:
    program.write("async def app(): ...")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await program.run("serve", "--listen", "127.0.0.1:0", "--metrics-listen", address, "apps:app")
    assert (ended.code, ended.stdout) == (2, "")
    assert f"cannot listen on {address} for metrics" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_without_the_extra_it_is_said_what_to_install(program: Program) -> None:
    program.write("async def app(): ...")
    program.write("raise ImportError('not installed')", "prometheus_client.py")
    ended = await program.run("serve", "--metrics-listen", "127.0.0.1:0", "apps:app")
    assert (ended.code, ended.stdout) == (2, "")
    assert "pip install 'session-service[prometheus]'" in ended.stderr
    assert "Traceback" not in ended.stderr


class Nothing(Collector):
    """No metrics, and a lag that nobody watches."""

    class lag:
        """Does nothing."""

        start = stop = staticmethod(lambda: None)

    def collect(self) -> list[Metric]:
        return []


class Exhausted:
    """A socket that accepts nothing, for want of file descriptors."""

    def accept(self) -> Any:
        raise OSError(errno.EMFILE, "no file descriptor")


def test_without_a_free_file_descriptor_the_endpoint_waits_before_it_accepts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint = MetricsEndpoint("127.0.0.1:0", Nothing())  # type: ignore[arg-type] # no session is served here
    waits: list[float] = []
    monkeypatch.setattr("session_service.server.watch.metrics.time.sleep", waits.append)
    listening = endpoint._server.socket
    try:
        monkeypatch.setattr(endpoint._server, "socket", Exhausted())
        with pytest.raises(OSError, match="no file descriptor"):
            endpoint._server.get_request()
    finally:
        endpoint._server.socket = listening
        endpoint.stop()
    assert waits == [metrics.NO_DESCRIPTOR]
