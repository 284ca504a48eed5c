"""Traces by OpenTelemetry: a span for each session, and one for each run of a callback.

They go to the tracer provider that the process has, as ``opentelemetry-instrument session-service serve`` sets it up by
the environment, or a module of an app by itself. Where nobody does there are none.

The span of a session is a child of the span that its open names, by the metadata ``traceparent``. Callbacks' runs are
its children. Spans of those who resume the session are linked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import context, propagate, trace

from ...errors import ProtocolError
from ...host.observers import Observer, SessionView
from ...session import CloseReason
from ...session.callbacks import Callback
from ...session.tasks import Task, TaskKind

__all__ = ["Traces", "configured"]


def configured() -> bool:
    """Tell whether spans would go anywhere."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


class Traces(Observer):
    """Makes the spans."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer_provider().get_tracer("session_service", version("session-service"))
        self._spans: dict[SessionView, trace.Span] = {}
        self._callers: dict[SessionView, trace.SpanContext] = {}  # of the current streams

    # --- on the loop --------------------------------------------------------------------------------------------------

    @staticmethod
    def enter(metadata: Mapping[str, str]) -> None:
        """Make the caller's span the current one, for all that a call brings about; at its beginning, in its context.

        Not where an instrumentation of gRPC has made one already, which is a child of the caller's.
        """
        if not trace.get_current_span().get_span_context().is_valid:
            context.attach(propagate.extract(metadata))

    def attached(self, managed: SessionView) -> None:  # noqa: D102
        caller = trace.get_current_span().get_span_context()
        if caller.is_valid:
            self._callers[managed] = caller
        else:
            self._callers.pop(managed, None)
        if managed.generation > 1 and (span := self._spans.get(managed)) is not None:
            span.add_event("resumed", {"session_service.generation": managed.generation})
            if caller.is_valid:
                span.add_link(caller)

    def detached(self, managed: SessionView, error: ProtocolError | None) -> None:  # noqa: D102
        if (span := self._spans.get(managed)) is not None:
            span.add_event("detached", {"error.type": type(error).__name__} if error is not None else None)

    def ended(self, managed: SessionView) -> None:  # noqa: D102
        span = self._spans.pop(managed, None)
        if span is None:  # it ended before its main task began
            return
        reason = managed.session.close_reason or CloseReason.SERVER
        span.set_attribute("session_service.close_reason", reason.name)
        if reason is CloseReason.FAILED:
            span.set_status(trace.StatusCode.ERROR, managed.session.close_message)
        span.end()

    def forgotten(self, managed: SessionView) -> None:  # noqa: D102
        self._callers.pop(managed, None)

    # --- where tasks run ----------------------------------------------------------------------------------------------

    @contextmanager
    def around(self, managed: SessionView, task: Task) -> Iterator[None]:
        """Run a task in the span that is its own; see `AbstractSession`."""
        callback = task.callback
        if task.kind is TaskKind.MAIN:
            # Here, for in a thread session nobody else is sure to be earlier, and this context is the session's.
            span = self._tracer.start_span(
                f"session {managed.app}", kind=trace.SpanKind.SERVER, attributes=_attributes(managed, task)
            )
            self._spans[managed] = span
            with trace.use_span(span):
                yield
        elif (
            task.kind is TaskKind.CALLBACK and callback is not None and (parent := self._spans.get(managed)) is not None
        ):
            caller = self._callers.get(managed)
            span = self._tracer.start_span(
                f"callback {_name(callback)}",
                trace.set_span_in_context(parent),
                attributes={**_attributes(managed, task), "session_service.task_id": task.id},
                links=[trace.Link(caller)] if caller is not None else None,
            )
            with trace.use_span(span, end_on_exit=True):
                yield
                if task.failed:
                    # Not the exception: the log has it under this id, and it may hold what a client has sent.
                    span.set_status(trace.StatusCode.ERROR, f"error {task.error_id}")
        else:
            yield


def _attributes(managed: SessionView, task: Task) -> dict[str, str]:
    attributes = {"session.id": task.session_id, "session_service.app": managed.app}
    if managed.principal:
        attributes["session_service.principal"] = managed.principal
    return attributes


def _name(callback: Callback) -> str:
    return getattr(callback.func, "__qualname__", type(callback.func).__qualname__)
