"""Every command of docs/grpcurl.md is run, by the real grpcurl, and prints what the page shows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from session_service.config import Config
from session_service.examples import apps
from session_service.server import Server

from .program import PATIENCE, Program

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "grpcurl.md").read_text()
ADDRESS = "127.0.0.1:50051"
PATH = f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}"

# What no two runs have in common. Where the page goes on to type one of these, the run's own is typed.
VARYING = {"session_id", "sessionId", "resume_token", "peer"}

# What a person types, or presses, among what comes back.
TYPED = re.compile(r"^(?:> (.*)|\^([CD]))\n", re.MULTILINE)


def recipes() -> dict[str, list[tuple[str, str]]]:
    """Return what to run and what it prints, by heading."""
    found: dict[str, list[tuple[str, str]]] = {}
    for section in PAGE.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        assert [kind for kind, _ in fences] == ["sh", ""] * (len(fences) // 2), heading
        found[heading] = [(fences[at][1], fences[at + 1][1]) for at in range(0, len(fences), 2)]
    return found


RECIPES = recipes()
HEARTBEAT = "A heartbeat"


@pytest.fixture
def _grpcurl() -> None:
    if shutil.which("grpcurl", path=PATH) is None:
        missing = "grpcurl is missing: `make tools` installs it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.mark.usefixtures("_grpcurl")
@pytest.mark.parametrize("heading", sorted(RECIPES.keys() - {HEARTBEAT}))
async def test_what_the_page_shows_is_what_comes(program: Program, heading: str) -> None:
    served = await program.serve("session_service.examples:apps")
    assert RECIPES[heading]
    await follow(RECIPES[heading], served.address)


@pytest.mark.usefixtures("_grpcurl")
async def test_heartbeats_are_shown_as_they_come() -> None:
    server = Server(apps, Config(listen="127.0.0.1:0", heartbeat_interval=0.05))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.drain, 0)
        await follow(RECIPES[HEARTBEAT], await server.start())


def test_the_page_names_the_grpcurl_that_it_is_tested_with() -> None:
    (installed,) = re.findall(r"^grpcurl=([\d.]+)", (ROOT / ".ci" / "tools").read_text(), re.MULTILINE)
    assert re.findall(r"grpcurl(?: |@v)(\d[\d.]*\d)", PAGE) == [installed, installed]


async def follow(steps: list[tuple[str, str]], address: str) -> None:
    """Run commands one after the other, and compare."""
    own: dict[str, str] = {ADDRESS: address}  # what the page says -> what this run says
    for command, shown in steps:
        await run(command, shown, own)


async def run(command: str, shown: str, own: dict[str, str]) -> None:
    """Run one command, typing where the page does, each time after what the page shows before has come."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", as_here(command, own)),
        cwd=ROOT,
        env={**os.environ, "PATH": PATH},
        stdin=PIPE if TYPED.search(shown) else DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,  # so that Ctrl-C is for all of the pipeline, as on a terminal
    )
    assert process.stdout is not None
    printed = ""
    try:
        async with asyncio.timeout(PATIENCE):
            for typed in TYPED.finditer(shown):
                before = TYPED.sub("", shown[: typed.start()])
                while not comes_to(before, printed, own):
                    data = await process.stdout.read(1 << 16)
                    assert data, differs(before, printed)
                    printed += data.decode()
                line, key = typed.groups()
                if key == "C":
                    os.killpg(process.pid, signal.SIGINT)
                elif key == "D":
                    assert process.stdin is not None
                    process.stdin.close()
                else:
                    assert process.stdin is not None
                    process.stdin.write(as_here(line, own).encode() + b"\n")
            printed += (await process.stdout.read()).decode()
            await process.wait()
    except TimeoutError:
        raise AssertionError(differs(shown, printed)) from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
    assert comes_to(TYPED.sub("", shown), printed + "\n", own), differs(shown, printed)


def as_here(text: str, own: dict[str, str]) -> str:
    for there, here in own.items():
        text = text.replace(there, here)
    return text


def differs(shown: str, printed: str) -> str:
    return f"the page shows\n{shown}\nand there came\n{printed}"


def comes_to(shown: str, printed: str, own: dict[str, str]) -> bool:
    """Tell whether it is the same but for what varies, and note what the run has in its place."""
    learnt: dict[str, str] = {}
    left, right = list(parts(shown, well_set=True)), list(parts(printed))
    same = len(left) == len(right) and all(matches(a, b, learnt) for a, b in zip(left, right, strict=True))
    if same:
        own |= learnt
    return same


def matches(shown: Any, printed: Any, learnt: dict[str, str], name: str = "") -> bool:
    if shown == "{...}":
        return isinstance(printed, dict)
    if isinstance(shown, dict) and isinstance(printed, dict):
        keys_match = list(shown) == list(printed)
        return keys_match and all(matches(shown[key], printed[key], learnt, key) for key in shown)
    if isinstance(shown, list) and isinstance(printed, list):
        both = zip(shown, printed, strict=False)
        return len(shown) == len(printed) and all(matches(a, b, learnt) for a, b in both)
    if name in VARYING and isinstance(printed, str):
        learnt[shown] = printed
        return True
    return bool(shown == printed)


def parts(text: str, *, well_set: bool = False) -> Iterator[Any]:
    """Return responses, taken apart, and lines that are no JSON; what is cut short at the end is left out.

    Args:
        text: what grpcurl prints, or the page shows.
        well_set: check that JSON is set as grpcurl sets it.
    """
    text = text.expandtabs().replace("{...}", '"{...}"')
    acknowledged, heartbeat = 0, False
    at = 0
    while at < len(text):
        if text[at] != "{":
            end = text.find("\n", at)
            if end < 0:
                break
            if text[at:end]:
                yield text[at:end]
            at = end + 1
            continue
        try:
            response, end = json.JSONDecoder().raw_decode(text, at)
        except json.JSONDecodeError:
            break
        if well_set:
            assert text[at:end] == json.dumps(response, indent=2)
        at = end + 1
        if response == {}:
            if not heartbeat:  # one stands for however many come
                yield response
            heartbeat = True
            continue
        heartbeat = False
        acknowledged = max(acknowledged, int(response.pop("ack", 0)))
        yield from apart(response)
    if acknowledged:
        yield {"ack": acknowledged}


def apart(response: dict[str, Any]) -> Iterator[Any]:
    """Return the commands of a response one by one, and the rest: it is chance what shares a response."""
    commands = response.pop("commands", [])
    first = int(response.pop("first_sequence", 0))
    if "opened" in response or "resumed" in response:
        yield response
        response = {}
    for number, command in enumerate(commands):
        yield {**command, "sequence": first + number} if first else command
    if response:
        yield response
