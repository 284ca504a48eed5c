"""Processes that apps fork: what they must not have of the server, and how they end with it.

A fork copies what `serve` has set for its own process: the handlers of signals, which drain the server and so let no
`Process.terminate()` end a child, and the policy of the scheduler.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import NoReturn

__all__ = ["ENDING", "end_process", "spare_children"]

# What drains a server.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Seconds that children have to end at a SIGTERM, all together.
MOMENT = 0.5


def spare_children() -> None:
    """Have children that are forked from now on begin as this process is now."""
    dispositions = {number: signal.getsignal(number) or signal.SIG_DFL for number in ENDING}
    policy = os.sched_getscheduler(0) if sys.platform == "linux" else None
    forking = threading.local()

    def before() -> None:
        # A child is often ended at once, and what comes before it has its own handlers would be lost.
        forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

    def after() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, forking.mask)

    def in_child() -> None:
        signal.set_wakeup_fd(-1)  # it is that of the server's loop
        for number, disposition in dispositions.items():
            signal.signal(number, disposition)
        if policy is not None and sys.platform == "linux" and os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, os.sched_param(0))
        after()

    os.register_at_fork(before=before, after_in_parent=after, after_in_child=in_child)


def end_process(code: int) -> NoReturn:
    """End at once, and with the process the children that `multiprocessing` has made: it ends them at exit only.

    Those that ignore SIGTERM hold it up for `MOMENT`, and are killed.
    """
    try:
        if (made := sys.modules.get("multiprocessing")) is not None:
            children = made.active_children()
            for child in children:
                child.terminate()
            deadline = time.monotonic() + MOMENT
            for child in children:
                child.join(max(0.0, deadline - time.monotonic()))
                child.kill()
    finally:
        os._exit(code)
