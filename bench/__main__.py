"""Measures all rows, one after the other, prints a table and writes ``bench/results.json``; or some, and prints."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from . import machine
from .result import Result, table
from .rows import ROWS
from .server import BENCH_PYTHON, ROOT

RESULTS = Path(__file__).with_name("results.json")

# Seconds that a row may take.
LIMIT = 900.0


def main() -> int:
    """Return how many rows could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes, and rough figures")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    if not Path(BENCH_PYTHON).exists():
        parser.error(f"PyWebIO and websockets need an environment of their own, {BENCH_PYTHON}: `make bench` makes it")
    quick: bool = arguments.quick
    began = time.time()
    document = {"began": time.strftime("%Y-%m-%d %H:%M:%S%z"), "quick": quick, **machine.describe(BENCH_PYTHON)}
    results: list[Result] = []
    failed = []
    for name in arguments.rows or ROWS:
        print(f"{time.time() - began:5.0f} s  {name}", file=sys.stderr, flush=True)
        try:
            results += _measure(name, quick)
        except (subprocess.SubprocessError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed.append(name)
    print(table(results))
    if not arguments.rows:
        document |= {"seconds": round(time.time() - began), "failed": failed}
        document |= {"results": [result.to_json() for result in results]}
        RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        print(f"\n{RESULTS.relative_to(ROOT)} has the machine and the raw figures.", file=sys.stderr)
    return len(failed)


def _measure(name: str, quick: bool) -> list[Result]:
    command = [sys.executable, "-m", "bench.row", name, *(["--quick"] if quick else [])]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=LIMIT, check=True)
    return [Result.from_json(data) for data in json.loads(ended.stdout)]


if __name__ == "__main__":
    sys.exit(main())
