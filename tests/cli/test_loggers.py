"""What an app does to the process's logging, and that the log of the server stays."""

from __future__ import annotations

import asyncio
import json

import pytest

from session_service.v1 import session_pb2 as pb

from ..protocol.peer import event, value
from .program import PATIENCE, Program, Served

APPS = """
    import io, logging, logging.config, os, sys, warnings
    from session_service import get_current_session

    mine = logging.getLogger("mine")

    def silence():
{silence}

    async def fails():
        raise ValueError("on purpose")

    async def says():
        session = get_current_session()
        event = await session.next_client_event()
        mine.error(event["data"])
        session.send_task_command({{"command": "said", "spec": None}})

    async def silences():
        session = get_current_session()
        silence()
        session.send_task_command({{"command": "silent", "spec": None}})
"""

OF_ALL = """
        for name in list(logging.root.manager.loggerDict):
            logger = logging.getLogger(name)
"""

SILENCE = {
    "dictConfig": """
        logging.config.dictConfig({"version": 1})
    """,
    "dictConfig of the root": """
        logging.config.dictConfig({
            "version": 1,
            "handlers": {"console": {"class": "logging.StreamHandler", "level": "CRITICAL"}},
            "root": {"handlers": ["console"], "level": "CRITICAL"},
            "loggers": {"session_service": {"level": "CRITICAL", "propagate": True}},
        })
    """,
    "fileConfig": """
        logging.config.fileConfig(io.StringIO(
            "[loggers]\\nkeys=root\\n[handlers]\\nkeys=\\n[formatters]\\nkeys=\\n[logger_root]\\nlevel=CRITICAL\\nhandlers=\\n"
        ))
    """,
    "basicConfig": """
        logging.basicConfig(force=True, level=logging.CRITICAL)
    """,
    "no handlers, a level of the root": """
        logging.root.handlers.clear()
        logging.root.setLevel(logging.CRITICAL)
    """,
    "handlers that say less": """
        for handler in logging.root.handlers:
            handler.setLevel(logging.CRITICAL + 1)
            handler.setFormatter(logging.Formatter(""))
    """,
    "disable": """
        logging.disable(logging.CRITICAL)
    """,
    "shutdown": """
        logging.shutdown()
    """,
    "each logger disabled": OF_ALL
    + """
            logger.disabled = True
    """,
    "each logger without handlers, as loguru's users do": OF_ALL
    + """
            logger.handlers, logger.propagate = [], True
    """,
    "each logger quiet": OF_ALL
    + """
            logger.handlers, logger.propagate = [], False
            logger.setLevel(logging.CRITICAL + 1)
    """,
    "a factory of records that fails": """
        def factory(*args, **kwargs):
            raise LookupError("no record")
        logging.setLogRecordFactory(factory)
    """,
    "a class of loggers": """
        class Silent(logging.Logger):
            def handle(self, record): ...
            def isEnabledFor(self, level): return False
        logging.setLoggerClass(Silent)
    """,
    "a handler of session_service with a filter that raises": """
        class Request(logging.Filter):
            def filter(self, record):
                raise LookupError("no request here")
        logging.config.dictConfig({
            "version": 1,
            "filters": {"request": {"()": Request}},
            "handlers": {"h": {"class": "logging.StreamHandler", "filters": ["request"]}},
            "root": {"handlers": ["h"], "level": "DEBUG"},
            "loggers": {"session_service": {"handlers": ["h"]}, "asyncio": {"handlers": ["h"]}},
        })
    """,
    "handlers that raise": """
        class Broken(logging.Handler):
            def emit(self, record):
                raise SystemExit("no place to write to")
        for name in ("session_service", "session_service.session.base", "grpc", None):
            logging.getLogger(name).addHandler(Broken())
    """,
    "each logger with a filter that raises": OF_ALL
    + """
            logger.addFilter(lambda record: record.nothing)
    """,
    "each logger, the root, and its handlers with a filter that lets nothing through": OF_ALL
    + """
            logger.addFilter(lambda record: False)
        for filterer in (logging.root, *logging.root.handlers):
            filterer.addFilter(lambda record: False)
    """,
    "stderr replaced": """
        sys.stderr = sys.__stderr__ = io.StringIO()
    """,
    "stderr closed, its number another file's": """
        sys.stderr.close()
        os.open(os.devnull, os.O_WRONLY)
    """,
}


async def failed(served: Served) -> str:
    """Have an app fail, and return the error id that its client is told."""
    peer = await served.open("fails", command_format=pb.PAYLOAD_FORMAT_JSON)
    (command,) = await peer.receive_commands(1)
    await peer.receive_all()
    told = value(command)
    assert isinstance(told, dict)
    return str(told["id"])


async def lines_about(served: Served, text: str) -> list[str]:
    """Wait until the log names it, and return the lines that do."""
    async with asyncio.timeout(PATIENCE):
        while text not in served.log():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    return [line for line in served.log().splitlines() if text in line]


async def check_log(served: Served) -> None:
    """See that the log has a failure once, as a line like any other, and what is daily life."""
    error_id = await failed(served)
    (line,) = [line for line in await lines_about(served, error_id) if "failed, error" in line]
    entry = json.loads(line)
    assert (entry["level"], entry["error_id"], entry["app"]) == ("ERROR", error_id, "fails")
    assert "ValueError: on purpose" in entry["exception"]
    (line,) = await lines_about(served, f"{error_id.partition('-')[0]}: opened")
    assert json.loads(line)["level"] == "INFO"


@pytest.mark.parametrize("how", SILENCE)
async def test_whatever_an_app_does_to_logging_an_error_id_that_a_client_is_told_is_in_the_log(
    program: Program, how: str
) -> None:
    program.write(APPS.format(silence=SILENCE[how]))
    served = await program.serve("--log-format", "json", "apps:fails", "apps:silences")
    await (await served.open("silences")).receive_all()
    await check_log(served)
    served.signal()
    assert await served.exit_code() == 0
    assert "draining 0 sessions" in served.log()


@pytest.mark.parametrize(
    "how",
    [
        "dictConfig",
        "dictConfig of the root",
        "each logger quiet",
        "a class of loggers",
        "a handler of session_service with a filter that raises",
        "each logger, the root, and its handlers with a filter that lets nothing through",
    ],
)
async def test_the_log_stays_when_an_app_sets_logging_up_as_it_is_imported(program: Program, how: str) -> None:
    program.write(APPS.format(silence=SILENCE[how]) + "\n    silence()\n")
    served = await program.serve("--log-format", "json", "apps:fails")
    await check_log(served)


CONSOLE = """
        logging.config.dictConfig({
            "version": 1,
            "formatters": {"mine": {"format": "MINE %(message)s"}},
            "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "mine"}},
            "root": {"handlers": ["console"], "level": "INFO"},
            "loggers": {"mine": {}},
        })
"""


@pytest.mark.parametrize(
    ("silence", "shape"),
    [("        pass", " ERROR mine: {} [session_id="), (CONSOLE, "MINE {}")],
    ids=["the server's handler", "a handler of its own"],
)
async def test_what_apps_log_stands_in_the_log_once_by_the_root_logger(
    program: Program, silence: str, shape: str
) -> None:
    program.write(APPS.format(silence=silence) + "\n    silence()\n")
    served = await program.serve("apps:says", "apps:fails")
    peer = await served.open("says", command_format=pb.PAYLOAD_FORMAT_JSON)
    await peer.send(events=[event("say", "a word of mine")])
    await peer.receive_all()
    (line,) = await lines_about(served, "a word of mine")
    assert shape.format("a word of mine") in line
    error_id = await failed(served)
    (line,) = [line for line in await lines_about(served, error_id) if "failed, error" in line]
    assert " ERROR session_service.session.work: session " in line


@pytest.mark.parametrize("logger", ["session_service", "asyncio"])
async def test_what_a_handler_raises_is_told_and_goes_no_further(program: Program, logger: str) -> None:
    program.write(
        APPS.format(silence="        pass")
        + f"""
    class Broken(logging.Handler):
        def emit(self, record):
            raise LookupError("no place to write to")

    logging.getLogger("{logger}").addHandler(Broken())

    async def complains():
        logging.getLogger("asyncio").error("to the loop")
        get_current_session().send_task_command({{"command": "went on", "spec": None}})
    """
    )
    served = await program.serve("apps:fails", "apps:complains")
    peer = await served.open("complains")
    await peer.receive_commands(1)
    await peer.receive_all()
    await failed(served)
    await lines_about(served, f"a handler or a filter of the logger {logger}")
    await lines_about(served, "LookupError: no place to write to")


async def test_what_asyncio_and_warnings_have_to_say_of_apps_is_not_disabled(program: Program) -> None:
    program.write(
        APPS.format(silence=SILENCE["dictConfig"])
        + """
    import asyncio
    silence()

    async def noisy():
        warnings.warn("a warning")

        async def lost():
            raise ValueError("in a task that nobody awaits")

        asyncio.create_task(lost())
        await asyncio.sleep(0)
    """
    )
    served = await program.serve("apps:noisy")
    await (await served.open("noisy")).receive_all()
    await lines_about(served, "UserWarning: a warning")
    await lines_about(served, "in a task that nobody awaits")


async def test_who_wants_the_records_of_the_server_elsewhere_too_adds_a_handler_to_its_logger(program: Program) -> None:
    program.write(
        APPS.format(silence=SILENCE["dictConfig"])
        + """
    silence()
    logging.getLogger("session_service").addHandler(logging.FileHandler("copy"))

    called, seen = logging.Logger.callHandlers, open("seen", "w", buffering=1)

    def watch(logger, record):  # as Sentry does
        print(record.getMessage(), file=seen)
        called(logger, record)

    logging.Logger.callHandlers = watch
    """
    )
    served = await program.serve("apps:fails")
    error_id = await failed(served)
    await lines_about(served, error_id)
    for copy in ("copy", "seen"):
        assert (program.folder / copy).read_text().count(f"failed, error {error_id}") == 1
