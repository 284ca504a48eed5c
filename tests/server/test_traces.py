"""Traces: which spans there are, whose children they are, and what they tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from session_service import get_current_session
from session_service.session import Principal
from session_service.v1 import session_pb2 as pb

from ..cli.program import Program
from ..protocol.peer import Peer, Serve, event

OPENER, RESUMER = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET = "a-secret-payload"


def traceparent(trace_id: str) -> list[tuple[str, str]]:
    """Return the metadata of a client whose span has this trace."""
    return [("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01")]


class Spans:
    """What has been exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def __call__(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        """Return the one of this name."""
        (span,) = (span for span in self() if span.name == name)
        return span


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    spans = Spans()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
    return spans


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def linked(span: ReadableSpan) -> list[str]:
    return [f"{link.context.trace_id:032x}" for link in span.links]


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def say(peer: Peer, name: str, **fields: Any) -> None:
    await peer.send(events=[event(name, SECRET, **fields)])


async def waits() -> None:
    await get_current_session().next_client_event()


def waits_in_thread() -> None:
    get_current_session().next_client_event()


@pytest.mark.parametrize("app", [waits, waits_in_thread], ids=["coroutine", "thread"])
async def test_a_session_is_a_child_of_the_span_that_its_open_names(
    serve: Serve, spans: Spans, app: Callable[[], Any]
) -> None:
    service = await serve({"app": app}, authenticate=lambda *_: Principal("ada"))
    peer = await service.open("app", metadata=traceparent(OPENER))
    await say(peer, "go")
    await peer.receive_all()
    (span,) = spans()
    assert (span.name, span.kind, trace_of(span)) == ("session app", trace.SpanKind.SERVER, OPENER)
    assert span.parent is not None
    assert span.parent.is_remote
    assert attributes(span) == {
        "session.id": peer.opened.session_id,
        "session_service.app": "app",
        "session_service.principal": "ada",
        "session_service.close_reason": "COMPLETED",
    }
    assert span.status.is_unset
    assert span.end_time is not None


async def test_without_a_traceparent_each_session_has_a_trace_of_its_own(serve: Serve, spans: Spans) -> None:
    service = await serve({"app": waits})
    for metadata in ([], [], [("traceparent", "garbage")]):
        peer = await service.open("app", metadata=metadata)
        await say(peer, "go")
        await peer.receive_all()
    assert [span.parent for span in spans()] == [None] * 3
    assert len({trace_of(span) for span in spans()}) == 3


async def test_spans_of_an_app_are_children_of_its_sessions(serve: Serve, spans: Spans) -> None:
    tracer = spans.provider.get_tracer("mine")

    async def app() -> None:
        with tracer.start_as_current_span("mine"):
            await get_current_session().next_client_event()

    def app_in_thread() -> None:
        with tracer.start_as_current_span("mine in a thread"):
            get_current_session().next_client_event()

    service = await serve({"coroutine": app, "thread": app_in_thread})
    peers = [await service.open(name) for name in ("coroutine", "thread")]
    for peer in peers:
        await say(peer, "go")
        await peer.receive_all()
    assert is_child(spans.named("mine"), spans.named("session coroutine"))
    assert is_child(spans.named("mine in a thread"), spans.named("session thread"))


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_callbacks_run_is_a_child_of_its_session_and_linked_to_who_is_attached(
    serve: Serve, spans: Spans, kind: str
) -> None:
    tracer = spans.provider.get_tracer("mine")

    def clicked(data: Any) -> None:
        with tracer.start_as_current_span("mine"):
            get_current_session().send_task_command({"command": "clicked", "spec": None})

    async def app() -> None:
        get_current_session().register_callback(clicked)

    def app_in_thread() -> None:
        get_current_session().register_callback(clicked)

    service = await serve({"app": app if kind == "coroutine" else app_in_thread})
    peer = await service.open("app", metadata=traceparent(OPENER))
    await say(peer, "callback", task_id="callback-2")
    await peer.receive_commands(1)
    await peer.half_close()
    await peer.receive_all()
    session = spans.named("session app")
    run = next(span for span in spans() if span.name.startswith("callback "))
    assert run.name.endswith(".clicked")
    assert is_child(run, session)
    assert is_child(spans.named("mine"), run)
    assert linked(run) == [OPENER]
    assert attributes(run)["session_service.task_id"] == "callback-2-1"
    assert run.status.is_unset


async def test_a_resume_links_the_session_to_who_resumes(serve: Serve, spans: Spans) -> None:
    async def app() -> None:
        get_current_session().register_callback(lambda data: None)
        await get_current_session().next_client_event()

    service = await serve({"app": app})
    peer = await service.open("app", resumable=True, metadata=traceparent(OPENER))
    peer = await service.resume(peer, metadata=traceparent(RESUMER))
    await peer.send(events=[event("callback", None, task_id="callback-2"), event("go")], first_sequence=1)
    await peer.send(close=pb.Close())
    await peer.receive_until(lambda response: response.HasField("closed"))
    session = spans.named("session app")
    assert (trace_of(session), linked(session)) == (OPENER, [RESUMER])
    assert [happened.name for happened in session.events] == ["detached", "resumed"]
    (run,) = (span for span in spans() if span.name.startswith("callback "))
    assert (trace_of(run), linked(run)) == (OPENER, [RESUMER])


async def test_what_has_failed_is_an_error_with_the_id_of_the_log_and_nothing_of_the_exception(
    serve: Serve, spans: Spans
) -> None:
    async def app() -> None:
        session = get_current_session()

        def fails(data: Any) -> None:
            raise ValueError(data)

        session.register_callback(fails)
        fails((await session.next_client_event())["data"])

    service = await serve({"app": app})
    peer = await service.open("app")
    session_id = peer.opened.session_id
    await say(peer, "callback", task_id="callback-2")
    await peer.receive_commands(1)
    await say(peer, "go")
    await peer.receive_all()
    run, session = spans()
    assert (run.status.status_code, run.status.description) == (trace.StatusCode.ERROR, f"error {session_id}-e1")
    assert (session.status.status_code, session.status.description) == (
        trace.StatusCode.ERROR,
        f"the app failed, error {session_id}-e2",
    )
    assert attributes(session)["session_service.close_reason"] == "FAILED"
    assert SECRET not in run.to_json() + session.to_json()


async def test_the_span_of_an_instrumented_call_is_not_replaced(serve: Serve, spans: Spans) -> None:
    from session_service.server.watch.traces import Traces

    with spans.provider.get_tracer("grpc").start_as_current_span("call") as call:
        Traces.enter(dict(traceparent(OPENER)))
        assert trace.get_current_span() is call


async def test_nothing_is_kept_of_a_session_that_is_over(serve: Serve, spans: Spans) -> None:
    service = await serve({"app": waits})
    (traces,) = (each for each in service.server.manager.observers if type(each).__name__ == "Traces")
    for resumable in (False, True):
        peer = await service.open("app", resumable=resumable, metadata=traceparent(OPENER))
        assert len(vars(traces)["_spans"]) == len(vars(traces)["_callers"]) == 1
        await peer.send(events=[event()], first_sequence=int(resumable))
        await peer.receive_until(lambda response: response.HasField("closed"))
        await peer.send(ack=1)
        await peer.receive_all()
    assert (vars(traces)["_spans"], vars(traces)["_callers"]) == ({}, {})


async def test_without_a_tracer_provider_nothing_is_made(serve: Serve) -> None:
    manager = (await serve({"app": waits})).server.manager
    assert manager.around is None
    assert "Traces" not in {type(observer).__name__ for observer in manager.observers}


async def test_without_the_extra_a_server_serves_as_well(program: Program) -> None:
    program.write("async def app(): ...")
    program.write("raise ImportError('not installed')", "opentelemetry.py")
    served = await program.serve("apps:app")
    peer = await served.open("app")
    (closed,) = await peer.receive_all()
    assert closed.closed.reason == pb.CLOSE_REASON_COMPLETED
    assert "Traceback" not in served.log()
