"""One row, in this process, which is the client of all its servers: ``python -m bench.row NAME [--quick]``.

Prints the results as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json

import uvloop

from . import machine
from .rows import ROWS


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ROWS)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    machine.pin(machine.CLIENT_CORE)
    measure = importlib.import_module(f"bench.rows.{arguments.name}").measure
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(measure(arguments.quick))
    print(json.dumps([result.to_json() for result in results]))


if __name__ == "__main__":
    main()
