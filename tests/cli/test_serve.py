"""``session-service serve``: which apps, where, with which options, and what it says when it can't."""

from __future__ import annotations

import asyncio
import re
import signal
import socket

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from session_service.v1 import session_pb2 as pb

from ..protocol.peer import event, value
from .program import CONSOLE_SCRIPT, MODULE, Program, Served

SERVICE = "session_service.v1.SessionService"

SAY = """
    from session_service import get_current_session

    def say(name):
        async def app():
            get_current_session().send_task_command({"command": "say", "spec": name})
        return app

    def generator():
        yield

    first, second = say("first"), say("second")
    apps = {"one": say("one"), "two": say("two")}

    class Group:
        inner = say("inner")
"""


async def said(served: Served, app: str) -> object:
    """Open an app that says one thing."""
    peer = await served.open(app, command_format=pb.PAYLOAD_FORMAT_JSON)
    (command,) = await peer.receive_commands(1)
    return value(command)


# --- what is served ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [MODULE, CONSOLE_SCRIPT], ids=["python -m session_service", "session-service"])
async def test_an_app_of_the_current_folder_is_served_under_its_own_name(
    program: Program, command: tuple[str, ...]
) -> None:
    program.command = command
    program.write(SAY)
    served = await program.serve("apps:first")
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", served.address)
    assert await said(served, "first") == "first"


async def test_apps_can_be_renamed_come_in_mappings_and_have_dotted_attributes(program: Program) -> None:
    program.write(SAY)
    served = await program.serve("apps:first", "other=apps:first", "apps:apps", "apps:Group.inner")
    names = ["first", "other", "one", "two", "inner"]
    assert [await said(served, name) for name in names] == ["first", "first", "one", "two", "inner"]
    status = await (peer := served.attach()).send(open=pb.Open(app="second")) and await peer.status()
    assert status
    assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "APP_NOT_FOUND")


async def test_health_says_that_it_serves(program: Program) -> None:
    program.write(SAY)
    served = await program.serve("apps:first")
    assert await served.health("") == await served.health(SERVICE) == "SERVING"


async def test_reflection_lists_the_service(program: Program) -> None:
    program.write(SAY)
    served = await program.serve("apps:first")
    call = served.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    response = await call.read()
    assert isinstance(response, reflection_pb2.ServerReflectionResponse)
    assert SERVICE in {service.name for service in response.list_services_response.service}
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["option", "environment"])
async def test_every_option_can_be_given_by_environment(program: Program, by: str) -> None:
    program.write("""
        from session_service import get_current_session

        async def fails():
            raise ValueError("on purpose")

        async def waits():
            await get_current_session().next_client_event()
    """)
    options = {
        "listen": f"unix:{program.folder}/socket",
        "resume-window": "7.5",
        "max-sessions": "1",
        "shutdown-grace": "23",
        "debug": "1",
    }
    if by == "environment":
        environment = {f"SESSION_SERVICE_{name.upper().replace('-', '_')}": text for name, text in options.items()}
        served = await program.serve("apps:fails", "apps:waits", **environment)
    else:
        del options["debug"]
        arguments = [argument for name, text in options.items() for argument in (f"--{name}", text)]
        served = await program.serve(*arguments, "--debug", "apps:fails", "apps:waits")

    assert served.address == f"unix:{program.folder}/socket"
    failed = await served.open("fails", command_format=pb.PAYLOAD_FORMAT_JSON)
    told = [value(command) for response in await failed.receive_all() for command in response.commands]
    assert "ValueError: on purpose" in str(told)  # debug
    peer = await served.open("waits", resumable=True)
    assert peer.opened.limits.resume_window.ToTimedelta().total_seconds() == 7.5
    refused = served.attach()
    await refused.send(open=pb.Open(app="waits"))
    assert (await refused.status()).reason == "SESSION_LIMIT"
    served.signal()
    assert (await peer.receive()).draining.grace.ToTimedelta().total_seconds() == 23


async def test_the_log_goes_to_stderr_one_line_an_entry(program: Program) -> None:
    program.write("""
        import logging
        logging.getLogger("mine").info("imported")
        logging.getLogger("mine").debug("not seen")

        async def app(): ...
    """)
    served = await program.serve("apps:app")
    served.signal()
    assert await served.exit_code() == 0
    entry = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO [\w.]+: .+")
    lines = served.log().splitlines()
    assert [line for line in lines if not entry.fullmatch(line)] == []
    assert lines[0].endswith("INFO mine: imported")


async def test_with_debug_the_log_says_more(program: Program) -> None:
    program.write("import logging; logging.getLogger('mine').debug('seen')\nasync def app(): ...")
    served = await program.serve("--debug", "apps:app")
    assert "DEBUG mine: seen" in served.log()


WHICH_LOOP = """
    import asyncio
    from session_service import get_current_session

    async def which():
        loop = asyncio.get_running_loop()
        get_current_session().send_task_command({"command": "loop", "spec": type(loop).__module__})
"""


@pytest.mark.parametrize(
    ("options", "installed", "expected"),
    [
        ([], True, "uvloop"),
        ([], False, "asyncio"),
        (["--loop", "auto"], True, "uvloop"),
        (["--loop", "asyncio"], True, "asyncio"),
        (["--loop", "uvloop"], True, "uvloop"),
    ],
)
async def test_the_loop_can_be_chosen(program: Program, options: list[str], installed: bool, expected: str) -> None:
    if not installed:
        program.write("raise ImportError", "uvloop.py")  # shadows the one that is installed
    program.write(WHICH_LOOP)
    served = await program.serve(*options, "apps:which")
    assert str(await said(served, "which")).partition(".")[0] == expected


async def test_a_loop_that_is_not_installed_is_refused_with_the_remedy(program: Program) -> None:
    program.write("raise ImportError", "uvloop.py")
    program.write(WHICH_LOOP)
    ended = await program.run("serve", "--loop", "uvloop", "apps:which")
    assert (ended.code, ended.stdout) == (2, "")
    assert "pip install 'session-service[uvloop]'" in ended.stderr


async def test_an_app_can_nest_loops_on_the_loop_of_asyncio(program: Program) -> None:
    program.write("""
        import asyncio
        import nest_asyncio
        from session_service import get_current_session

        async def one():
            await asyncio.sleep(0)
            return 1

        async def nests():
            nest_asyncio.apply()
            answer = asyncio.get_running_loop().run_until_complete(one())
            get_current_session().send_task_command({"command": "answer", "spec": answer})
    """)
    served = await program.serve("--loop", "asyncio", "apps:nests")
    assert [await said(served, "nests") for _ in range(3)] == [1, 1, 1]
    served.signal()
    assert await served.exit_code() == 0


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_sys_exit_in_an_asyncio_task_of_an_app_does_not_end_the_server(program: Program, loop: str) -> None:
    program.write("""
        import asyncio, sys
        from session_service import get_current_session

        async def exits():
            async def child():
                sys.exit("on purpose")
            task = asyncio.create_task(child())
            await asyncio.wait([task])

        async def echo():
            event = await get_current_session().next_client_event()
            get_current_session().send_task_command({"command": "echo", "spec": event["data"]})
    """)
    served = await program.serve("--loop", loop, "apps:exits", "apps:echo")
    other = await served.open("echo", command_format=pb.PAYLOAD_FORMAT_JSON)
    for _ in range(3):
        peer = await served.open("exits")
        assert (await peer.receive()).closed.reason == pb.CLOSE_REASON_COMPLETED
        assert (await peer.status()).code is grpc.StatusCode.OK
    await other.send(events=[event("say", "still here")])
    assert [value(command) for command in await other.receive_commands(1)] == ["still here"]
    assert "SystemExit: on purpose" in served.log()
    served.signal()
    assert await served.exit_code() == 0


# --- one line, exit code 2 --------------------------------------------------------------------------------------------

BROKEN = """
    import absent_dependency
"""
RAISES = """
    raise RuntimeError("no database\\nanywhere")
"""
SPEECHLESS = """\
class Speechless(Exception):
    def __str__(self):
        raise KeyError("no words")
raise Speechless
"""
UNOPENED = """\
import collections
class Apps(collections.UserDict):
    def __getitem__(self, name):
        raise LookupError("not yet")
apps = Apps(first=print)
"""

JWT = ["--jwt-issuer", "issuer", "--jwt-audience", "here", "--jwt-keys"]

WRONG = [
    (["serve"], "APP"),
    (["serve", "apps"], "apps: an APP is [NAME=]MODULE:ATTRIBUTE"),
    (["serve", "=apps:first"], "[NAME=]MODULE:ATTRIBUTE"),
    (["serve", "nowhere:app"], "No module named 'nowhere'"),
    (["serve", "apps:nothing"], "no attribute 'nothing'"),
    (["serve", "apps:Group.nothing"], "no attribute 'nothing'"),
    (["serve", "apps:__name__"], "'__name__' is no function: it is of type str"),
    (["serve", "apps:not_all"], "'two' is no function: it is of type int"),
    (["serve", "apps:generator"], "apps:generator: 'generator' is no app: it is a generator: nothing would run it; "),
    (["serve", "apps:Group"], "'Group' is no app: it is a class; an app is a function without arguments"),
    (["serve", "mine=apps:say"], "'mine' is no app: it needs name; an app is a function without arguments"),
    (["serve", "name=apps:apps"], "leave out name="),
    (["serve", "apps:first", "first=apps:second"], "another app 'first'"),
    (["serve", "apps:apps", "one=apps:first"], "another app 'one'"),
    (
        ["serve", "broken:app"],
        "broken:app: cannot import it: ModuleNotFoundError: No module named 'absent_dependency'",
    ),
    (
        ["serve", "raises:app"],
        "cannot import it: RuntimeError: no database anywhere (raises.py, line 2; --debug shows the traceback)",
    ),
    (["serve", "calls:app"], "FileNotFoundError: [Errno 2] No such file or directory: 'no' (calls.py, line 2; --debug"),
    (["serve", "imports:app"], "RuntimeError: no database anywhere (raises.py, line 2; --debug"),
    (["serve", "exits:app"], "exits:app: cannot import it: SystemExit: 0 (exits.py, line 1; --debug"),
    (["serve", "unreadable:app"], "(unreadable.py, line 1; --debug"),
    (["serve", "cancelled:app"], "cannot import it: CancelledError: (cancelled.py, line 2; --debug"),
    (["serve", "speechless:app"], "cannot import it: Speechless (speechless.py, line 4; --debug"),
    (["serve", "unopened:apps"], "cannot import it: LookupError: not yet (unopened.py, line 4; --debug"),
    (["serve", "apps:no_apps"], "apps:no_apps: the mapping is empty: it must hold an app at least"),
    (["serve", "apps:numbered"], "apps:numbered: 1 is no name of an app: it is of type int, and names are texts"),
    (["serve", "--nonsense", "apps:first"], "--nonsense"),
    (["serve", "--listen", "127.0.0.1", "apps:first"], "neither HOST:PORT nor unix:PATH"),
    (["serve", "--listen", "127.0.0.1:65536", "apps:first"], "neither HOST:PORT nor unix:PATH"),
    (["serve", "--listen", "::1:0", "apps:first"], "neither HOST:PORT nor unix:PATH"),
    (["serve", "--insecure", "--listen", "192.0.2.1:0", "apps:first"], "cannot listen on 192.0.2.1:0"),
    (["serve", "--listen", "192.0.2.1:0", "apps:first"], "without TLS and authentication: set them up, "),
    (["serve", "--tls-cert", "cert.pem", "apps:first"], "a TLS certificate and its key need each other"),
    (["serve", "--tls-client-ca", "ca.pem", "apps:first"], "certificates of clients need TLS"),
    (["serve", "--tls-cert", "no.pem", "--tls-key", "no.pem", "apps:first"], "No such file or directory: 'no.pem'"),
    (["serve", "--tls-cert", "apps.py", "--tls-key", "apps.py", "apps:first"], "are no certificate and its key"),
    (["serve", "--token-file", "no.txt", "apps:first"], "No such file or directory: 'no.txt'"),
    (["serve", "--token-file", "apps.py", "apps:first"], "apps.py, line 2: a line is the SHA-256 of a token in hex"),
    (["serve", "--token-file", "a", "--jwt-keys", "b", "apps:first"], "only one of them can authenticate"),
    (["serve", "--jwt-keys", "no.json", "apps:first"], "JWTs need their keys, their issuer and their audience"),
    (["serve", *JWT, "no.json", "apps:first"], "No such file or directory: 'no.json'"),
    (["serve", *JWT, "apps.py", "apps:first"], "apps.py holds no public key to check a signature with"),
    (["serve", "--event-window", "1024", "apps:first"], "'1024' is not MESSAGES,BYTES."),
    (["serve", "--event-window", "15,65536", "apps:first"], "event_window must be at least"),
    (["serve", "--command-window", "0,65536", "apps:first"], "'0,65536' is not MESSAGES,BYTES."),
    (["serve", "--max-message-bytes", "1", "apps:first"], "max_message_bytes is no number from 65536"),
    (["serve", "--max-metadata-bytes", "1", "apps:first"], "max_metadata_bytes is no number from 4096"),
    (["serve", "--principal-open-rate", "nan", "apps:first"], "nan is no number from 0 on"),
    (["serve", "--max-connection-streams", "0", "apps:first"], "--max-connection-streams"),
    (["serve", "--deferred-timeout", "0", "apps:first"], "deferred_timeout is no number of seconds above 0"),
    (["serve", "--listen", "unix:/no/such/folder/socket", "apps:first"], "cannot listen on unix:/no/such/folder"),
    (["serve", "--resume-window", "-1", "apps:first"], "--resume-window"),
    (["serve", "--shutdown-grace", "nan", "apps:first"], "--shutdown-grace"),
    (["serve", "--shutdown-grace", "inf", "apps:first"], "--shutdown-grace"),
    (["serve", "--max-sessions", "0", "apps:first"], "--max-sessions"),
    (["nonsense"], "nonsense"),
    ([], "Missing command"),
]


@pytest.mark.parametrize(("arguments", "expected"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
async def test_what_is_wrong_is_told_in_one_line(program: Program, arguments: list[str], expected: str) -> None:
    program.write(SAY + "\n    not_all, no_apps, numbered = {'one': first, 'two': 2}, {}, {1: first}\n")
    program.write("import asyncio\nraise asyncio.CancelledError", "cancelled.py")
    program.write(SPEECHLESS, "speechless.py")
    program.write(UNOPENED, "unopened.py")
    program.write(BROKEN, "broken.py")
    program.write(RAISES, "raises.py")
    program.write("import sys; sys.exit(0)", "exits.py")
    program.write("def", "unreadable.py")
    program.write("import pathlib\npathlib.Path('no').read_text()", "calls.py")
    program.write("import raises", "imports.py")
    ended = await program.run(*arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("session-service: ")
    assert expected in ended.stderr


async def test_an_import_that_is_interrupted_is_told(program: Program) -> None:
    program.write("raise KeyboardInterrupt")
    ended = await program.run("serve", "apps:app")
    assert ended.code == 128 + signal.SIGINT
    assert ended.stderr == "session-service: apps:app: interrupted while it was imported\n"


async def test_a_bad_value_in_the_environment_is_told_in_one_line(program: Program) -> None:
    program.write(SAY)
    ended = await program.run("serve", "apps:first", SESSION_SERVICE_MAX_SESSIONS="many")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert "'many'" in ended.stderr


async def test_a_port_in_use_is_told_in_one_line(program: Program) -> None:
    program.write(SAY)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await program.run("serve", "--listen", address, "apps:first")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == f"session-service: cannot listen on {address}: in use, or no address of this machine\n"


async def test_with_debug_the_traceback_of_a_module_that_raises_comes_before_the_line(program: Program) -> None:
    program.write(RAISES, "raises.py")
    ended = await program.run("serve", "--debug", "raises:app")
    assert ended.code == 2
    assert "Traceback" in ended.stderr
    assert 'raise RuntimeError("no database' in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.endswith("cannot import it: RuntimeError: no database anywhere (raises.py, line 2)")


@pytest.mark.parametrize("command", [MODULE, CONSOLE_SCRIPT], ids=["python -m session_service", "session-service"])
async def test_the_version_is_told(program: Program, command: tuple[str, ...]) -> None:
    program.command = command
    ended = await program.run("--version")
    assert ended.code == 0
    assert re.fullmatch(r"session-service, version \d+\.\d+\.\d+\S*\n", ended.stdout)


async def test_help_names_the_environment_variables(program: Program) -> None:
    ended = await program.run("serve", "--help")
    names = {
        *("LISTEN", "INSECURE", "DEBUG", "RESUME_WINDOW", "SHUTDOWN_GRACE", "KEEPALIVE", "KEEPALIVE_TIMEOUT"),
        *("TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "TOKEN_FILE", "JWT_KEYS", "JWT_ISSUER", "JWT_AUDIENCE"),
        *("MAX_SESSIONS", "MAX_PRINCIPAL_SESSIONS", "PRINCIPAL_OPEN_RATE", "PRINCIPAL_EVENT_RATE", "MAX_THREADS"),
        *("MAX_CONNECTION_STREAMS", "MAX_MESSAGE_BYTES", "MAX_METADATA_BYTES", "EVENT_WINDOW", "COMMAND_WINDOW"),
        *("METRICS_LISTEN", "ADMIN_LISTEN", "LOG_FORMAT", "LOOP", "SCHEDULER"),
        *("SESSION_LIFETIME", "IDLE_TIMEOUT", "DEFERRED_TIMEOUT", "BLOCK_WARNING"),
    }
    assert ended.code == 0
    assert set(re.findall(r"SESSION_SERVICE_(\w+)", ended.stdout)) == names


async def test_ctrl_c_while_an_app_is_imported_ends_the_program_without_a_traceback(program: Program) -> None:
    program.write("""
        import os, signal
        os.kill(os.getpid(), signal.SIGINT)
    """)
    ended = await program.run("serve", "apps:app")
    assert ended.code == 128 + signal.SIGINT
    assert ended.stderr == "session-service: apps:app: interrupted while it was imported\n"


async def test_an_app_can_be_opened_by_many_at_once(program: Program) -> None:
    program.write(SAY)
    served = await program.serve("apps:apps")
    assert set(await asyncio.gather(*(said(served, name) for name in ["one", "two"] * 20))) == {"one", "two"}
