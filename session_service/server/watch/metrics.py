"""Metrics for Prometheus; docs/metrics.md lists them.

What happens for each event and each command is counted where it happens, in plain numbers of its session, and added up
when somebody asks. That is a thread of the HTTP server's, so that a blocked event loop can still be seen.
"""

from __future__ import annotations

import asyncio
import bisect
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from platform import python_version
from typing import Any, NamedTuple

import grpc

from ...errors import PROTOCOL_ERRORS, PrincipalMismatch, ProtocolError, ResumeImpossible, SessionUnknown, TakenOver
from ...host import SessionManager
from ...host.observers import Observer, SessionView
from ...lifecycle import CloseReason, Standing
from ...session.stopwatch import Stopwatch
from ..auth.reload import Reloading
from .watchdog import Watchdog

try:
    from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ValueError("metrics need prometheus-client: pip install 'session-service[prometheus]'") from error

__all__ = ["Metrics", "MetricsEndpoint"]

PREFIX = "session_service_"

# Seconds that a scrape waits where no file descriptor is free; without them that would take a core.
NO_DESCRIPTOR = 1.0

# In seconds: from one turn of the loop to what a person waits for.
BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)

# Seconds between two looks at how late the loop is.
LAG_INTERVAL = 0.25

# Reasons of a detach that is no error's.
ENDED, LOST = "ENDED", "LOST"

REASONS = [kind.reason for kind in PROTOCOL_ERRORS]

# Who has taken a session over.
SAME, OTHER = "same_client", "other_client"

RESUMED = "RESUMED"
FAILED_RESUMES = (SessionUnknown, PrincipalMismatch, ResumeImpossible)

_BUILD_LABELS = ("version", "python", "grpcio")
_BUILD = (version("session-service"), python_version(), grpc.__version__)

# By a label, or by several.
_Values = Mapping[Any, float]


class Count(NamedTuple):
    """Something that each session counts itself.

    Attributes:
        name: of the metric, which may have several counts with different labels.
        help: what it counts.
        read: finds it; from any thread.
        label: what tells it from the metric's other counts, beside the app.
    """

    name: str
    help: str
    read: Callable[[SessionView], int]
    label: tuple[str, str] | None = None


def _failures(where: str) -> Count:
    return Count(
        "failures",
        "Failures of apps' code.",
        lambda managed: managed.session.failures.get(where, 0),
        ("where", where),
    )


COUNTS = (
    Count("events", "Events that sessions have taken over.", lambda managed: managed.inbox.taken),
    Count("event_bytes", "Their encoded size.", lambda managed: managed.inbox.taken_size),
    Count("events_duplicate", "Events that came again and were dropped.", lambda managed: managed.inbox.duplicates),
    Count("events_dropped", "Events that no task was there for.", lambda managed: managed.session.dropped),
    Count("commands", "Commands on their way to clients, `closed` among them.", lambda managed: managed.outbox.last),
    Count("command_bytes", "Their encoded size.", lambda managed: managed.outbox.appended_size),
    Count("commands_replayed", "Commands to be sent again after a resume.", lambda managed: managed.outbox.replayed),
    Count(
        "window_stalls",
        "How often a window was full and the sender had to wait.",
        lambda managed: managed.session.event_stalls,
        ("direction", "events"),
    ),
    Count("window_stalls", "", lambda managed: managed.command_stalls, ("direction", "commands")),
    *map(_failures, ("main", "task", "callback", "hook", "deferred")),
    Count(
        "tasks_abandoned",
        "Tasks that had not unwound when the close grace was over.",
        lambda managed: managed.session.abandoned,
    ),
)


class Histogram:
    """Counts durations by how long they are; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        place = bisect.bisect_left(BUCKETS, seconds)
        with self._lock:
            self._counts[place] += 1
            self._sum += seconds

    def metric(self, name: str, text: str) -> Metric:
        """Return it as it is now."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        buckets, seen = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
            seen += count
            buckets.append((bound, float(seen)))
        return HistogramMetricFamily(PREFIX + name, text, buckets=buckets, sum_value=total)


class LoopLag:
    """Looks again and again how late the event loop is."""

    def __init__(self, each: Callable[[], None]) -> None:
        """``each`` is called at each look."""
        self._each = each
        self.histogram = Histogram()
        self._due = time.perf_counter()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; on the loop."""
        self._due = time.perf_counter() + LAG_INTERVAL
        self._timer = asyncio.get_running_loop().call_later(LAG_INTERVAL, self._look)

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self.histogram.observe(self.now)
        self._each()
        self.start()

    @property
    def now(self) -> float:
        """How many seconds it is late now; from any thread."""
        return max(0.0, time.perf_counter() - self._due) if self._timer is not None else 0.0


class Metrics(Observer, Collector):
    """What is known of a server, for `prometheus_client`.

    Labels are bounded: apps are those that are served, everything else is a fixed set. There are none for principals
    and sessions.
    """

    def __init__(
        self, apps: Iterable[str], files: Iterable[Reloading[Any]], manager: Callable[[], SessionManager]
    ) -> None:
        """Begin.

        Args:
            apps: the names of those that are served.
            files: those that the server reloads.
            manager: finds what this is an observer of, when somebody wants to know.
        """
        self._manager = manager
        self._files = files
        self._apps = sorted(apps)
        # They begin with 0 for all that can happen: else the first time would be no increase.
        self._opened = Counter(dict.fromkeys(self._apps, 0))
        self._closed = Counter({(app, reason.name): 0 for app in self._apps for reason in CloseReason})
        self._detached = Counter({(app, reason): 0 for app in self._apps for reason in (*REASONS, ENDED, LOST)})
        self._resumes = Counter(dict.fromkeys((RESUMED, *(kind.reason for kind in FAILED_RESUMES)), 0))
        self._takeovers = Counter({SAME: 0, OTHER: 0})
        self._refused = Counter(dict.fromkeys(REASONS, 0))
        self._forgotten = {app: [0] * len(COUNTS) for app in self._apps}
        self._reported = {app: [0] * len(COUNTS) for app in self._apps}
        self._reporting = threading.Lock()
        self._event_latency = Histogram()
        self._ack_latency = Histogram()
        # A session's latencies are looked at as often as the loop's: so a busy one does not pay for each event.
        self.watchdog: Watchdog | None = None
        self._resting: deque[Stopwatch] = deque()
        self.lag = LoopLag(self._wake_stopwatches)

    # --- what it is told, on the loop ---------------------------------------------------------------------------------

    def opened(self, managed: SessionView) -> None:  # noqa: D102
        self._opened[managed.app] += 1
        managed.time_events(Stopwatch(self._on_event_taken))
        if managed.resumable:
            managed.time_acks(Stopwatch(self._on_command_acknowledged))

    def attached(self, managed: SessionView) -> None:  # noqa: D102
        if managed.generation > 1:
            self._resumes[RESUMED] += 1

    def detached(self, managed: SessionView, error: ProtocolError | None) -> None:  # noqa: D102
        if error is not None:
            reason = error.reason
        else:
            reason = ENDED if managed.standing is Standing.ENDED else LOST
        self._detached[managed.app, reason] += 1
        if isinstance(error, TakenOver):
            self._takeovers[SAME if error.by_same_client else OTHER] += 1

    def ended(self, managed: SessionView) -> None:  # noqa: D102
        reason = managed.session.close_reason or CloseReason.SERVER
        self._closed[managed.app, reason.name] += 1

    def forgotten(self, managed: SessionView) -> None:  # noqa: D102
        totals = self._forgotten[managed.app]
        for place, count in enumerate(COUNTS):
            totals[place] += count.read(managed)

    def refused(self, error: ProtocolError) -> None:  # noqa: D102
        reason = error.reason
        self._refused[reason] += 1
        if isinstance(error, FAILED_RESUMES):
            self._resumes[reason] += 1

    def _on_event_taken(self, seconds: float, stopwatch: Stopwatch) -> None:
        self._event_latency.observe(seconds)
        self._resting.append(stopwatch)

    def _on_command_acknowledged(self, seconds: float, stopwatch: Stopwatch) -> None:
        self._ack_latency.observe(seconds)
        self._resting.append(stopwatch)

    def _wake_stopwatches(self) -> None:
        while self._resting:
            self._resting.popleft().item = None

    # --- what it tells, in any thread ---------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; `prometheus_client` calls it."""
        manager = self._manager()
        with self._reporting:
            # In this order, for a session may be forgotten meanwhile: then it is in neither, and never in both.
            totals = {app: list(counts) for app, counts in self._forgotten.items()}
            sessions = list(manager)
            for managed in sessions:
                counts = totals[managed.app]
                for place, count in enumerate(COUNTS):
                    counts[place] += count.read(managed)
            # A counter that went down would look like a restart.
            for app, reported in self._reported.items():
                reported[:] = map(max, reported, totals[app])
            totals = {app: list(counts) for app, counts in self._reported.items()}

        yield _gauge("build_info", "What runs: 1, and its versions as labels.", {_BUILD: 1.0}, *_BUILD_LABELS)
        states = Counter({(app, state.name.lower()): 0 for app in self._apps for state in Standing})
        states.update((managed.app, managed.standing.name.lower()) for managed in sessions)
        yield _gauge("sessions", "Sessions by what they do.", states, "app", "state")
        yield _gauge("sessions_limit", "The most sessions at once.", {(): manager.config.max_sessions})
        undelivered = Counter(dict.fromkeys(self._apps, 0))
        for managed in sessions:
            undelivered[managed.app] += managed.undelivered
        yield _gauge("commands_undelivered", "Commands that clients have not acknowledged.", undelivered, "app")
        yield _gauge("draining", "1 while the server drains.", {(): manager.draining})
        yield _gauge("threads", "Threads of the process.", {(): threading.active_count()})
        yield _gauge("threads_limit", "The most that apps may add to; 0: none.", {(): manager.config.max_threads})

        yield _counter("sessions_opened", "Sessions that have started.", self._opened, "app")
        yield _counter("sessions_closed", "Sessions that have ended.", self._closed, "app", "reason")
        yield _counter("detaches", "Streams that sessions have lost.", self._detached, "app", "reason")
        yield _counter("resumes", "Attempts to come back to a session.", self._resumes, "outcome")
        yield _counter("takeovers", "Streams that a newer one has fenced off.", self._takeovers, "by")
        yield _counter("refusals", "Calls and streams that ended with an error.", self._refused, "reason")
        yield from _totals(totals)

        yield self._event_latency.metric("event_latency_seconds", "How long an event waits for its task.")
        yield self._ack_latency.metric("command_ack_latency_seconds", "How long a command waits for its ack.")
        yield self.lag.histogram.metric("event_loop_lag_seconds", "How late the event loop is, looked at 4 times a s.")
        blocks = {(): self.watchdog.blocks if self.watchdog is not None else 0}
        yield _counter("event_loop_blocks", "How often code blocked the event loop for --block-warning.", blocks)
        yield _gauge("event_loop_blocked_seconds", "How late the event loop is now.", {(): self.lag.now})

        files = list(self._files)
        yield _counter("file_loads", "How often files were loaded.", {each.name: each.loads for each in files}, "files")
        failures = {each.name: each.failures for each in files}
        yield _counter("file_load_failures", "Changes of files that could not be loaded.", failures, "files")
        failing = {each.name: each.failing for each in files}
        yield _gauge("file_failing", "1 while files are not what is in use.", failing, "files")


class MetricsEndpoint:
    """Serves metrics over HTTP at one address, and with them those that apps register in `prometheus_client.REGISTRY`.

    Attributes:
        address: ``HOST:PORT`` where it listens; a port 0 has become a real one.
    """

    def __init__(self, address: str, metrics: Metrics) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be had.
        """
        host, _, port = address.rpartition(":")
        registry = CollectorRegistry()
        registry.register(metrics)
        registry.register(REGISTRY)
        self._server, _ = start_http_server(int(port), host.strip("[]"), registry)
        accept = self._server.get_request

        def get_request() -> Any:
            try:
                return accept()
            except OSError:
                time.sleep(NO_DESCRIPTOR)  # in a thread of its own, and socketserver tries again at once
                raise

        setattr(self._server, "get_request", get_request)  # noqa: B010 - mypy minds the assignment
        self.address = f"{host}:{self._server.server_port}"

    def stop(self) -> None:
        """End, at once or a little later."""
        # It waits up to half a second for the server's own thread.
        threading.Thread(target=self._close, name="stop metrics", daemon=True).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _totals(totals: Mapping[str, list[int]]) -> Iterator[Metric]:
    metrics: dict[str, CounterMetricFamily] = {}
    for place, (name, text, _, label) in enumerate(COUNTS):
        if name not in metrics:
            labels = ["app"] if label is None else ["app", label[0]]
            metrics[name] = CounterMetricFamily(PREFIX + name, text, labels=labels)
        for app, counts in totals.items():
            metrics[name].add_metric([app] if label is None else [app, label[1]], counts[place])
    yield from metrics.values()


def _gauge(name: str, text: str, values: _Values, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(PREFIX + name, text, labels=labels), values)


def _counter(name: str, text: str, values: _Values, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(PREFIX + name, text, labels=labels), values)


def _filled(metric: GaugeMetricFamily | CounterMetricFamily, values: _Values) -> Metric:
    for label, value in dict(values).items():  # the loop's thread may add to it
        metric.add_metric([label] if isinstance(label, str) else label, float(value))
    return metric
