"""The runner: what passes, what fails and how it says so, known failures, and drivers that are none."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from session_conformance import clients, driver

Run = Callable[..., tuple[int, str]]

# A driver that answers `connect`, and then does the rest.
FAKE = """
import sys, time
from session_conformance.v1.conformance_pb2 import Done, Instruction, Observation, Unsupported

def read():
    return Instruction.FromString(sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4))))

def write(**fields):
    data = Observation(**fields).SerializeToString()
    sys.stdout.buffer.write(len(data).to_bytes(4) + data)
    sys.stdout.buffer.flush()

assert read().HasField("connect")
write(done=Done())
assert read().HasField("open")
"""

PYTHON = " ".join(clients.Client.parse("python").command)
INTERPRETER = PYTHON.partition(" -m ")[0]


def suite(folder: Path, content: str) -> None:
    (folder / "suites").mkdir()
    (folder / "suites" / "suite.yaml").write_text(content)


CASE = "F4-asks-for-json"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run as from the command line; return the exit code, and what was printed."""

    def run(*args: str, known_failures: str = "", source: str = "") -> tuple[int, str]:
        (tmp_path / "known_failures.yaml").write_text(known_failures)
        if source:
            (tmp_path / "fake.py").write_text(FAKE + source)
            args = (*args, "--client", f"fake={INTERPRETER} {tmp_path}/fake.py")
        parser = argparse.ArgumentParser()
        clients.add_arguments(parser)
        args = ("--known-failures", f"{tmp_path}/known_failures.yaml", "--patience", "1" if source else "3", *args)
        out = io.StringIO()
        return clients.run(parser.parse_args(args), out), out.getvalue()

    return run


def test_the_python_client_conforms() -> None:
    parser = argparse.ArgumentParser()
    clients.add_arguments(parser)
    out = io.StringIO()
    assert clients.run(parser.parse_args(["--client", "python"]), out) == 0, out.getvalue()


def test_the_table_has_a_line_for_each_case_and_a_column_for_each_client(run: Run) -> None:
    code, out = run("--client", "python", "--client", f"again={PYTHON}", "--case", CASE, "--case", "P3-r*")
    assert code == 0
    assert [line.split() for line in out.splitlines()[:3]] == [
        ["python", "again"],
        ["F4-asks-for-json", "pass", "pass"],
        ["P3-refused", "pass", "pass"],
    ]
    assert "python: 2 pass\nagain: 2 pass\n" in out


def test_a_failure_says_what_was_expected_and_shows_the_wire(run: Run) -> None:
    code, out = run("--client", f"broken={PYTHON} --bug retries_never", "--case", "D7-open-refused-APP_NOT_FOUND")
    assert code == 1
    assert "D7-open-refused-APP_NOT_FOUND  FAIL" in out
    assert "step 4, observe error: the observation of" in out
    assert "an attach came that no step awaits" in out
    assert "< NOT_FOUND APP_NOT_FOUND {'retry': 'NEVER'}" in out


def test_a_known_failure_is_run_and_does_not_fail_the_run(run: Run) -> None:
    code, out = run(
        "--client",
        f"broken={PYTHON} --bug acks_too_early",
        "--case",
        "D4-not-before-asked",
        known_failures="broken: {D4-not-before-asked: it never asked}",
    )
    assert code == 0
    assert "D4-not-before-asked  known" in out


def test_a_known_failure_that_passes_fails_the_run(run: Run) -> None:
    code, out = run("--client", "python", "--case", CASE, known_failures=f"python: {{{CASE}: it speaks XML}}")
    assert code == 1
    assert f"{CASE}  SURPRISE" in out
    assert "it is listed as a known failure, and did not fail: it speaks XML" in out


def test_a_known_failure_is_that_of_one_client(run: Run) -> None:
    code, _ = run("--client", "python", "--case", CASE, known_failures=f"other: {{{CASE}: it speaks XML}}")
    assert code == 0


@pytest.mark.parametrize(
    ("known_failures", "problem"),
    [
        ("python: {D2-typo: why not}", "there is no case D2-typo"),
        ("python: {D2-gap: ''}", "D2-gap is known to fail for a reason: which?"),
        ("[D2-gap]", "is no mapping"),
    ],
)
def test_known_failures_that_say_nothing_are_refused(
    run: Run, capsys: pytest.CaptureFixture[str], known_failures: str, problem: str
) -> None:
    assert run("--client", "python", "--case", CASE, known_failures=known_failures)[0] == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("args", [["--client", "=true"], ["--client", "name="], ["--client", "python", "--case", "X1"]])
def test_arguments_that_mean_nothing_are_refused(run: Run, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    assert run(*args)[0] == 2
    assert capsys.readouterr().err.startswith("no c")


def test_what_a_client_has_not_is_not_applicable(run: Run) -> None:
    code, out = run("--case", CASE, source="write(unsupported=Unsupported(why='it opens nothing'))\nread()")
    assert code == 0
    assert f"{CASE}  n/a" in out
    assert "it opens nothing" in out


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("print('lost my way', file=sys.stderr)\nsys.exit(3)", "the driver ended with exit code 3 in the middle"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the driver ended with SIGKILL in the middle"),
        ("print('Hello, world', flush=True)\ntime.sleep(60)", "b'Hell' where a length is due"),
        ("sys.stdout.buffer.write(b'\\0\\0\\0\\1\\377')\nsys.stdout.flush()\ntime.sleep(60)", "that is no observation"),
        ("import os; os.close(1)\ntime.sleep(60)", "the driver has closed its stdout, and runs on"),
        ("time.sleep(60)", "an attach is expected, and it did not come within 1 s"),
        ("write(done=Done())\ntime.sleep(60)", "an attach is expected, and it did not come within 1 s"),
    ],
    ids=["exits", "is killed", "prints", "writes nonsense", "closes stdout", "hangs", "does nothing"],
)
def test_a_driver_that_is_none_fails_the_case_with_what_is_wrong(
    run: Run, monkeypatch: pytest.MonkeyPatch, source: str, problem: str
) -> None:
    monkeypatch.setattr(driver, "FAREWELL", 0.5)
    code, out = run("--case", CASE, source=source)
    assert code == 1
    assert problem in out
    if "lost" in source:
        assert "lost my way" in out


def test_a_driver_that_outlives_its_stdin_fails_the_case(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(driver, "FAREWELL", 0.5)
    suite(tmp_path, "cases: [{id: X0-nothing, says: Nothing happens., steps: []}]")
    fake = FAKE.replace('assert read().HasField("open")', "time.sleep(60)")
    (tmp_path / "fake.py").write_text(fake)
    code, out = run("--client", f"fake={INTERPRETER} {tmp_path}/fake.py", "--suites", str(tmp_path / "suites"))
    assert code == 1
    assert "the driver did not end within 0.5 s after its stdin had" in out


def test_a_driver_that_does_not_exist_fails_the_case(run: Run) -> None:
    code, out = run("--client", "nothing=/no/such/driver", "--case", CASE)
    assert code == 1
    assert "the driver cannot be started" in out


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("{jump: high}", "no step"),
        ("{server: accept, at: once}", "what is at?"),
        ("{server: {status: {code: HUNGRY}}, stream: 1}", "no such stream"),
        ("{client: {fly: {}}}", 'no field named "fly"'),
        ("{server: {expect: {moon: full}}}", "no such stream"),
        ("{observe: {done: {}}}", "there is no instruction"),
        ("{server: {always: {send: {}}}}", "`always` is what to `send`"),
    ],
)
def test_a_case_that_cannot_be_understood_is_no_fault_of_a_client(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, step: str, problem: str
) -> None:
    suite(tmp_path, f"cases: [{{id: X0-wrong, says: Something., steps: [{step}]}}]")
    assert run("--client", "python", "--suites", str(tmp_path / "suites"))[0] == 2
    assert problem in capsys.readouterr().err
