"""``session-service serve``: serves apps. SIGTERM, SIGINT and SIGHUP drain (protocol E3) and exit 0."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import logging
import operator
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..server import Server
    from .logs import Formatter

from ..config import Config
from ..session.app import check_app
from .children import ENDING, end_process, spare_children
from .options import option, settings
from .streams import StdoutError, give_up_stdout, say

__all__ = ["serve"]

logger = logging.getLogger(__name__)

App = Callable[[], object]

# Of the 20 s that a shutdown may take beyond its grace (protocol E3), what a drain needs at most, and a little more.
DRAIN_TIME = 19.5
# What the process may still need after the drain, with threads of apps that nobody can end.
EXIT_TIME = 1.0


@click.command(context_settings={"auto_envvar_prefix": "SESSION_SERVICE"})
@click.argument("apps", metavar="APP...", nargs=-1, required=True)
@settings
@option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    metavar="FORMAT",
    help="How the log, on stderr, is written: text for people, json for programs, an object a line.",
)
@option(
    "--loop",
    type=click.Choice(["auto", "asyncio", "uvloop"]),
    default="auto",
    metavar="NAME",
    help="The event loop: uvloop, asyncio, or auto, which is uvloop where it is installed. What"
    " patches the loop, as nest_asyncio does, needs asyncio.",
)
@option(
    "--scheduler",
    type=click.Choice(["batch", "other"]),
    default="batch",
    metavar="POLICY",
    help="Linux's policy for the server's threads: with batch none interrupts another because it has been"
    " woken; other is the usual one, see sched(7).",
)
def serve(apps: tuple[str, ...], log_format: str, scheduler: str, loop: str, **options: Any) -> None:
    """Serve apps until SIGTERM, SIGINT or the end of the terminal.

    Each APP is [NAME=]MODULE:ATTRIBUTE: a function, which clients open by NAME or else by its attribute's name, or a
    mapping of names to functions. Modules of the current folder can be imported.
    """
    try:
        config = Config(**options)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    from .logs import configure  # not by each command: it needs the sessions

    log = configure(as_json=log_format == "json", debug=config.debug)
    if not config.debug or log_format == "json":  # gRPC's core would say in its own way what it also raises
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Else each message crosses one thread of gRPC's more: a sixth of a round trip. Undocumented, so it can be undone by
    # setting the variable, be it to nothing. docs/performance.md says what was tried under it.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    spare_children()
    if scheduler == "batch":
        _take_turns()
    new_loop = _loop_factory(loop)
    sys.path.insert(0, os.getcwd())
    _end_on_signal()
    served = _load(apps)
    exit_within = _start_watchdog()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        running = runner.get_loop()
        wanted: asyncio.Queue[float] = asyncio.Queue()

        def drain(grace: float = config.shutdown_grace) -> None:
            exit_within(grace + DRAIN_TIME)
            running.call_soon_threadsafe(wanted.put_nowait, grace)

        _on_signal(drain)
        _run(running, _serve(served, config, drain, wanted, log))
        exit_within(EXIT_TIME)


def _load(specs: tuple[str, ...]) -> dict[str, App]:
    """Import the apps, by their names."""
    apps: dict[str, App] = {}
    for spec in specs:
        for name, app in _load_one(spec).items():
            try:
                check_app(name, app)
            except TypeError as error:
                raise click.ClickException(f"{spec}: {error}") from None
            if name in apps:
                raise click.ClickException(f"{spec}: there is another app {name!r}: name one by NAME=MODULE:ATTRIBUTE")
            apps[name] = app
    return apps


def _load_one(spec: str) -> Mapping[str, App]:
    name, equals, path = spec.rpartition("=")
    module, _, attribute = path.partition(":")
    if not module or not attribute or (equals and not name):
        raise click.ClickException(f"{spec}: an APP is [NAME=]MODULE:ATTRIBUTE")
    try:
        target = operator.attrgetter(attribute)(importlib.import_module(module))
        apps = dict(target) if isinstance(target, Mapping) else None
    except KeyboardInterrupt:
        say(f"{spec}: interrupted while it was imported")
        raise click.Abort from None
    except BaseException as error:  # whatever the module's own code raises
        logger.debug("cannot import %s", spec, exc_info=True)
        raise click.ClickException(f"{spec}: cannot import it: {_reason(error)}{_origin(error)}") from None
    if apps is None:
        return {name or attribute.rpartition(".")[2]: target}
    if name:
        raise click.ClickException(f"{spec}: a mapping brings its own names: leave out {name}=")
    if not apps:
        raise click.ClickException(f"{spec}: the mapping is empty: it must hold an app at least, by its name")
    return apps


def _reason(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # of the exception's own code
        text = type(error).__name__
    return " ".join(text.split())


def _origin(error: BaseException) -> str:
    """Say where an import failed: the last line of the current folder, for deeper ones are a library's."""
    here = os.path.join(os.getcwd(), "")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(here)]
    own = [frame for frame in frames if "site-packages" not in frame.filename and not _is_ours(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    elif own:
        file, line = own[-1].filename, own[-1].lineno
    else:
        return ""
    more = "" if logger.isEnabledFor(logging.DEBUG) else "; --debug shows the traceback"
    return f" ({file.removeprefix(here)}, line {line}{more})"


def _is_ours(file: str) -> bool:
    """Tell whether this package has raised: for what the app has done, unless it is an example of ours."""
    house = Path(__file__).parents[1]
    return Path(file).is_relative_to(house) and not Path(file).is_relative_to(house / "examples")


async def _serve(
    apps: Mapping[str, App],
    config: Config,
    drain: Callable[[float], object],
    wanted: asyncio.Queue[float],
    log: Formatter,
) -> None:
    """Serve until a grace is wanted, which ``drain`` brings about, and drain."""
    from ..server import Server  # not before GRPC_VERBOSITY is set: grpc reads it when it is imported
    from ..server.executor import GrowingExecutor
    from .loggers import seal
    from .logs import SessionLog

    seal()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(GrowingExecutor(loop, config.max_threads))
    try:
        server = Server(apps, config, observers=[SessionLog()])
        server.on_drain = drain
        log.sessions = server.manager
        address = await server.start()
    except (OSError, ValueError) as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    _spare_garbage_collector()
    try:
        click.echo(f"listening on {address}")
    except StdoutError as error:  # a full disk, or a pipe that nobody reads, must not keep a service from running
        logger.warning("listening on %s, which stdout did not take: %s", address, error.strerror)
        give_up_stdout()
    grace = await wanted.get()
    logger.info("draining %d sessions, for %g s; a second signal ends at once", len(server.manager), grace)
    hurrying = asyncio.create_task(_hurry(server, wanted))
    await server.drain(grace)
    hurrying.cancel()


async def _hurry(server: Server, wanted: asyncio.Queue[float]) -> None:
    while True:
        server.manager.shorten_grace(await wanted.get())


def _take_turns() -> None:
    """Let no thread of this process, of those that come, too, interrupt another because it has been woken.

    gRPC wakes a thread for each operation on a stream, and that takes the core from the thread that has started it: as
    much as a fifth of a round trip (docs/performance.md).
    """
    if sys.platform == "linux":
        try:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        except OSError as error:  # a sandbox may forbid it
            logger.info("the scheduler stays as it is: %s", error)


def _spare_garbage_collector() -> None:
    """Have it look at sessions only, and less often: a tenth of a round trip."""
    gc.collect()
    gc.freeze()  # what was imported stays
    gc.set_threshold(10_000, *gc.get_threshold()[1:])


def _on_signal(first: Callable[[], object]) -> None:
    """Call ``first`` at the first signal that ends; a second SIGTERM or SIGINT ends the process at once.

    Not by loop.add_signal_handler, whose callbacks wait while an app blocks the loop.
    """
    earlier = itertools.count()

    def handler(number: int, _: object) -> None:
        if next(earlier) == 0:
            first()
        elif number != signal.SIGHUP:  # a terminal that is closed may send it twice
            end_process(128 + number)

    for ending in ENDING:
        if signal.getsignal(ending) is not signal.SIG_IGN or ending != signal.SIGHUP:  # as nohup has it
            signal.signal(ending, handler)


def _end_on_signal() -> None:
    """End the process at a SIGTERM while apps are imported, when there is nothing to drain.

    By a handler, for without one the first process of a container ignores the signal. SIGINT has Python's own.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: end_process(0))


def _start_watchdog() -> Callable[[float], None]:
    """Return what says how many seconds the process has left; safe in a signal handler, and the last word counts.

    Then it ends with 0, whatever hangs: a loop that an app blocks, a thread or an atexit function that Python waits on.
    """
    left: queue.SimpleQueue[float] = queue.SimpleQueue()

    def watch() -> None:
        seconds = None
        try:
            while True:
                seconds = left.get(timeout=seconds)
        except queue.Empty:
            end_process(0)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    return left.put


def _run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` to its end, though sys.exit() in an asyncio task of an app's own making stops the loop."""
    task = loop.create_task(main)
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt):
            if task.done():
                raise
            logger.exception("an asyncio task that an app made tried to end the process")


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        if name == "uvloop":
            raise click.UsageError("--loop uvloop needs uvloop: pip install 'session-service[uvloop]'.") from None
        return asyncio.new_event_loop
    return uvloop.new_event_loop
