"""What README.md and `make run` show is run, and does what they say."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from google.protobuf import json_format

from session_service.cli.serve import serve
from session_service.v1 import session_pb2 as pb

from ..cli.program import PATIENCE, Program, Served

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
APP, STUB_CLIENT, CLIENT = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def block(start: str) -> str:
    """Return the one block that starts so."""
    (found,) = re.findall(rf"^```\w*\n({re.escape(start)}.*?)^```", README, re.DOTALL | re.MULTILINE)
    return str(found)


async def output_of(command: list[str], *, stdin: str = "", folder: Path = ROOT) -> str:
    """Run a command that succeeds, and return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            stdout, _ = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    return stdout.decode()


@pytest.fixture
async def order(program: Program) -> Served:
    """Serve the README's app with the README's command."""
    program.write(APP, "order.py")
    path, command, *arguments = shlex.split(block(".venv/bin/session-service serve"))
    assert (path, command) == (".venv/bin/session-service", "serve")
    return await program.serve(*arguments)


async def test_the_conversation_by_grpcurl_is_as_shown(order: Served) -> None:
    _, plaintext, d, requests, address, method = shlex.split(block("grpcurl"))
    assert [plaintext, d, address] == ["-plaintext", "-d", "127.0.0.1:50051"]
    assert method == "session_service.v1.SessionService/Attach"

    shown = [json.loads(line.replace("{...}", "{}")) for line in block('{"opened"').splitlines()]
    assert flat(await answers(order, requests)) == flat(shown)


async def answers(served: Served, requests: str) -> list[dict[str, Any]]:
    """Send requests as grpcurl does, and return the responses."""
    peer = served.attach()
    for line in requests.strip().splitlines():
        await peer.call.write(json_format.Parse(line, pb.AttachRequest()))
    await peer.half_close()
    responses = await peer.receive_all()
    return [json_format.MessageToDict(response, preserving_proto_field_name=True) for response in responses]


def flat(responses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one thing a line, whichever shared a response, without what differs from one time to the next."""
    lines: list[dict[str, Any]] = []
    for response in responses:
        if "opened" in response:
            assert response["opened"].keys() == {"session_id", "limits"}
            lines.append({"opened": {}})
        lines += response.get("commands", [])
        if "closed" in response:
            lines.append(response["closed"])
    return lines


async def test_the_conversation_by_a_generated_stub_is_as_shown(order: Served, tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(STUB_CLIENT.replace("127.0.0.1:50051", order.address))
    shown = block("ask ")
    typed = re.findall(r"^> ?(.*\n)", shown, re.MULTILINE)
    printed = re.sub(r"^>.*\n", "> ", shown, flags=re.MULTILINE)  # a terminal shows what is typed
    assert typed == ["tea\n", "cake\n", "\n"]
    assert await output_of([sys.executable, "client.py"], stdin="".join(typed), folder=tmp_path) == printed


async def test_the_conversation_by_the_python_client_is_the_same(order: Served, tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(CLIENT.replace("127.0.0.1:50051", order.address))
    printed = await output_of([sys.executable, "client.py"], stdin="tea\ncake\n\n", folder=tmp_path)
    assert printed.endswith("> receipt {'items': ['tea', 'cake']}\nCOMPLETED\n")


def test_the_table_of_options_is_what_the_command_says() -> None:
    rows = re.findall(r"^\| `(--[\w-]+)` \| *`?([^|`]*?)`? *\| (.*) \|$", README, re.MULTILINE)
    table = [(name, default, plain(sentence)) for name, default, sentence in rows]
    assert table == [said(option) for option in serve.params if isinstance(option, click.Option)]


def plain(markdown: str) -> str:
    """Return a cell of the table without links and code."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown).replace("`", "")


def said(option: click.Option) -> tuple[str, str, str]:
    """Return an option as the table has it, but for the markdown."""
    default = "" if option.is_flag else str(option.default).removesuffix(".0")
    sentence = (option.help or "").removesuffix(".")
    if not sentence.startswith("Linux"):
        sentence = sentence[0].lower() + sentence[1:]
    return option.opts[0], default, sentence


def test_every_link_into_the_repository_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert {"docs/protocol.md", "docs/design.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= set(links)


async def test_what_make_run_says_to_try_works(program: Program, examples: Served) -> None:
    address = f"unix:{program.folder}/socket"
    # The environment that runs the tests, as it is: `-o` takes its stamp for fresh.
    make = ["make", "--silent", "-o", f"{sys.prefix}/.run", "run", f"VENV={sys.prefix}", f"ADDRESS={address}"]
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    process = await asyncio.create_subprocess_exec(
        *make, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        said = ""
        async with asyncio.timeout(PATIENCE):
            while not said.endswith(f"listening on {address}\n"):
                line = (await process.stdout.readline()).decode()
                assert line, said
                said += line
        (echo,) = re.findall(r"^\S+/python -c '.*?^'$", said, re.DOTALL | re.MULTILINE)
        answer = await output_of(["sh", "-c", echo])
        assert "opened" in answer
        assert 'command: "echo"' in answer
        assert "CLOSE_REASON_CLIENT" in answer
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        await process.communicate()

    (requests,) = re.findall(r"^grpcurl -plaintext -d '(.*?)' \S+ \S+/Attach$", said, re.DOTALL | re.MULTILINE)
    *_, greeting, closed = flat(await answers(examples, requests))
    assert greeting["spec"] == {"text": "Hello Ada, 36 is a fine age!"}
    assert closed["reason"] == "CLOSE_REASON_COMPLETED"
