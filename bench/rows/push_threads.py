"""A push as in `push`, from a session that is a thread."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ..load import open_many, push, start
from ..result import Result, alternate, at_least, figure


async def measure(quick: bool) -> list[Result]:
    """Hold ours against PyWebIO's, and against a bare call that batches by hand, which knows no threads."""
    count, rounds = (10_000, 3) if quick else (50_000, 5)
    sides = {}
    async with AsyncExitStack() as stack:
        for name, kind, app in (
            ("ours", "ours", "thread_push"),
            ("bare", "bare", "push"),
            ("PyWebIO", "PyWebIO threads", "thread_push"),
            ("PyWebIO on uvloop", "PyWebIO threads on uvloop", "thread_push"),
        ):
            peer = await start(stack, kind)
            [conversation] = await open_many(peer.client, app, 1)
            sides[name] = partial(push, peer.server, conversation, count)
        samples = await alternate(rounds, sides)
    targets = {"bare": at_least(1.0), "PyWebIO": at_least(3.0)}
    return [
        Result("push, thread: commands", "1/s", figure(samples, "rate"), targets),
        Result("push, thread: server CPU a command", "us", figure(samples, "cpu")),
    ]
