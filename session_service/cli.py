"""The command line: ``session-service serve APP...``.

Whatever a user gets wrong is one line on stderr and exit code 2. SIGTERM and SIGINT drain (protocol E3) and exit 0.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import itertools
import logging
import operator
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn

import click

from .config import LISTEN, Config

__all__ = ["main"]

logger = logging.getLogger(__name__)

App = Callable[[], object]

DEFAULTS = Config()

# Above a month nobody means it, and far above it timers and the protocol's durations overflow.
LONGEST = 31 * 24 * 3600

# Of the 20 s that a shutdown may take beyond its grace (protocol E3), what a drain needs at most, and a little more.
DRAIN_TIME = 19.5
# What the process may still need after the drain, with threads of apps that nobody can end.
EXIT_TIME = 1.0


def main() -> NoReturn:
    """Run the command line."""
    try:
        code = command.main(prog_name="session-service", standalone_mode=False)
    except click.Abort:
        code = 128 + signal.SIGINT
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        remedy = f" Try: {context.command_path} --help" if context is not None else ""
        print(f"session-service: {error.format_message()}{remedy}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _check_listen(_: click.Context, __: click.Parameter, address: str) -> str:
    match = LISTEN.fullmatch(address)
    if match is None or int(match[1] or 0) > 65535:  # gRPC takes a missing port for 443, and 65536 for 0
        raise click.BadParameter(f"{address!r} is neither HOST:PORT nor unix:PATH.")
    return address


def _check_seconds(_: click.Context, __: click.Parameter, seconds: float) -> float:
    if not 0 <= seconds <= LONGEST:  # nor is it NaN
        raise click.BadParameter(f"{seconds:g} is no number of seconds from 0 to {LONGEST}.")
    return seconds


option = functools.partial(click.option, show_default=True, show_envvar=True)
seconds = functools.partial(option, type=float, callback=_check_seconds, metavar="SECONDS")


@click.group(no_args_is_help=False)
@click.version_option(package_name="session-service")
def command() -> None:
    """Interactive sessions, written as straight-line Python, over gRPC."""


@command.command(context_settings={"auto_envvar_prefix": "SESSION_SERVICE"})
@click.argument("apps", metavar="APP...", nargs=-1, required=True)
@option(
    "--listen",
    default=DEFAULTS.listen,
    callback=_check_listen,
    metavar="HOST:PORT",
    help="Where to listen: port 0 picks a free one; or unix:PATH.",
)
@seconds("--resume-window", default=DEFAULTS.resume_window, help="How long a session waits for its client at most.")
@option("--max-sessions", type=click.IntRange(1), default=DEFAULTS.max_sessions, help="The most sessions at once.")
@seconds("--shutdown-grace", default=DEFAULTS.shutdown_grace, help="How long sessions go on after SIGTERM or SIGINT.")
@option("--debug", is_flag=True, help="Log more, and tell clients the tracebacks of failed apps.")
def serve(apps: tuple[str, ...], **options: Any) -> None:
    """Serve apps until SIGTERM or SIGINT.

    Each APP is [NAME=]MODULE:ATTRIBUTE: a function, which clients open by NAME or else by its attribute's name, or a
    mapping of names to functions. Modules of the current folder can be imported.
    """
    config = Config(**options)
    logging.basicConfig(
        level=logging.DEBUG if config.debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if not config.debug:  # gRPC's core would say in its own way what it also raises
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.path.insert(0, os.getcwd())
    served = _load(apps)
    exit_within = _start_watchdog()
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        loop, stop = runner.get_loop(), asyncio.Event()

        def drain() -> None:
            exit_within(config.shutdown_grace + DRAIN_TIME)
            loop.call_soon_threadsafe(stop.set)

        _on_signal(drain)
        _run(loop, _serve(served, config, stop))
        exit_within(EXIT_TIME)


def _load(specs: tuple[str, ...]) -> dict[str, App]:
    """Import the apps, by their names."""
    apps: dict[str, App] = {}
    for spec in specs:
        for name, app in _load_one(spec).items():
            if not callable(app):
                raise click.ClickException(f"{spec}: {name!r} is no function: it is of type {type(app).__name__}")
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
    except (Exception, SystemExit) as error:  # whatever the module's own code raises
        logger.debug("cannot import %s", spec, exc_info=True)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise click.ClickException(f"{spec}: cannot import it: {reason}") from None
    if not isinstance(target, Mapping):
        return {name or attribute.rpartition(".")[2]: target}
    if name:
        raise click.ClickException(f"{spec}: a mapping brings its own names: leave out {name}=")
    return target


async def _serve(apps: Mapping[str, App], config: Config, stop: asyncio.Event) -> None:
    from .server import Server  # not before GRPC_VERBOSITY is set: grpc reads it when it is imported

    server = Server(apps, config)
    try:
        address = await server.start()
    except OSError as error:
        raise click.ClickException(str(error)) from None
    print(f"listening on {address}", flush=True)
    await stop.wait()
    logger.info(
        "draining %d sessions, for %g s; a second signal ends at once", len(server.manager), config.shutdown_grace
    )
    await server.drain()


def _on_signal(first: Callable[[], object]) -> None:
    """Call ``first`` at the first SIGTERM or SIGINT; a second one ends the process at once.

    Not by loop.add_signal_handler, whose callbacks wait while an app blocks the loop.
    """
    earlier = itertools.count()

    def handler(number: int, _: object) -> None:
        if next(earlier) > 0:
            os._exit(128 + number)
        first()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


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
            os._exit(0)

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


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
