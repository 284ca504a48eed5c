"""Plays a case with a client: tells its driver what to do, and the server what to answer, and compares.

The steps, each a mapping of which one key says what it is:

- ``client: {send: {event: say, value: 1}}``: an instruction for the driver, as in conformance.proto, and its
  observation. ``observe`` beside it is what that must match, besides being of the right kind and without an error.
  ``wait: false``: go on at once; a later step ``observe`` awaits it.
- ``server: {accept: {resume: {received: 1}}}``: take the next stream, whose first request matches. ``metadata`` beside
  it is what came with the call, ``after`` how long the stream before must have ended by then.
- ``server: {send: {commands: [...], first_sequence: 1}}``: an AttachResponse. Of `opened` and `resumed` it may leave
  out what does not matter: session, token and limits.
- ``server: {bytes: ...}``: a response that may be none.
- ``server: {expect: {events: {2: {value: two}}, ack: 1}}``: wait until all of this is so; see
  expectations.py.
- ``server: {fail: {code: UNAVAILABLE, reason: DRAINING, retry: REOPEN}}``: end the call as our server does, with
  `failed`, some time for the client to half-close, and a status; see responses.py. `failed` alone is one of the
  responses that ``send`` sends, with such a status, or with ``{status: BYTES}``.
- ``server: {status: ...}``: end it with such a status and nothing else, as a proxy does.
- ``server: finish``: end it with OK; if `closed` has been written the client has some time to half-close.
- ``server: {perhaps: {resumed: ...}}``: the client may attach once more, and gets this response, or else the
  observation comes that is awaited.
- ``server: {always: {send: {resumed: {}}, for: 0.1, status: {code: UNAVAILABLE}}}``: each stream that comes is answered
  so and ended some time later, until the observation comes that is awaited. ``streams: {at_least: 2, at_most: 9}``
  beside it is how many come.
- ``stream`` beside ``server`` names the stream by its number, if it is not the one that was accepted last.
- ``wire: reset``: a fault of the proxy between the two, see its module.
- ``pause: 0.3``: give a client the seconds to do what it must not.
- ``driver: restart``: the driver is killed, and another one started.

Short for what most cases begin and end with: ``start``, a session is opened, of ``{app, limits, ...}``; and ``end``,
the application takes whatever comes, `closed` of this sequence does, and is acknowledged. ``commands`` beside it are
those that the application gets before.

Where the case has a setting ``serve``, the server is ours. Instead of ``server`` there are ``faults: SEED``, faults
without end in the background, ``faults: stop``, and ``talk: {rounds: 100}``, events that the app `echo` sends back as
commands.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from session_service.v1 import session_pb2 as pb
from tests.robustness.proxy import Proxy, schedule

from .cases import Case, CaseError
from .driver import Driver, DriverFailure
from .expectations import unlike
from .matching import Bindings, differences, fill, show
from .observer import Observer
from .reference import ReferenceServer, ReferenceStream
from .relay import Relay
from .responses import make_response, make_status
from .served import Servers
from .v1.conformance_pb2 import Instruction, Observation

__all__ = ["SETTINGS", "Outcome", "Play"]

SETTINGS = ("connect", "limits", "serve")
"""What a case may say besides its steps: parts of `Connect`, parts of all `Limits`, and the server to start."""

T = TypeVar("T")

# Short delays, and no end to them.
_CONNECT = {"retry_initial": "0.05s", "retry_maximum": "0.1s", "retry_total": "60s", "attach_timeout": "10s"}

# What an instruction is answered by, where all is well.
_ANSWERS: dict[str, dict[str, Any]] = {
    "connect": {"done": {"cancelled": None}},
    "open": {"opened": {}},
    "resume": {"opened": {}},
    "send": {"done": {"cancelled": None}},
    "receive": {"received": {"cancelled": None, "error": None}},
    "close": {"received": {"cancelled": None, "error": None}},
    "detach": {"position": {}},
    "save_position": {"position": {}},
    "give_up": {"done": {"cancelled": True}},
}

_IN_BACKGROUND: dict[str, Any] = {"done": {"cancelled": None}}

# Seconds in which a client that leaves a stream must have left it, once the next one is there.
ALONE = 2.0

# Seconds that a driver has to start, at least.
STARTUP = 20.0

# Seconds, at most, between two faults.
PAUSE = 0.2


@dataclass(frozen=True)
class Outcome:
    """How a case went.

    Attributes:
        verdict: ``pass``, ``FAIL`` or ``n/a``.
        problem: what is wrong, or why it is not applicable.
        log: what passed on the wire, and what the driver said.
        seconds: how long it took.
    """

    verdict: str
    problem: str = ""
    log: str = ""
    seconds: float = 0.0


class _Failure(Exception):
    """The client does not do what it must."""


class _NotApplicable(Exception):
    """The client has no such ability."""


class Play:
    """One case with one client.

    Args:
        case: what happens.
        command: the driver.
        servers: starts ours.
        patience: seconds that each thing may take that has to happen.
    """

    def __init__(self, case: Case, command: Sequence[str], servers: Servers, patience: float) -> None:
        self._case = case
        self._is_served = "serve" in case.settings
        self._command = command
        self._servers = servers
        self._patience = patience
        self._observer = Observer()
        self._bindings: Bindings = {}
        self._streams: list[ReferenceStream] = []
        self._expected: deque[tuple[Instruction, Any]] = deque()
        self._observations: asyncio.Queue[Observation] = asyncio.Queue()
        self._checks: list[asyncio.Task[None]] = []
        self._faults: asyncio.Task[None] | None = None
        self._wire_is_sound = True
        self._logs: list[str] = []
        self._driver: Driver
        self._server: ReferenceServer
        self._proxy: Proxy
        self._reader: asyncio.Task[None]

    async def run(self) -> Outcome:
        """Play it.

        Raises:
            CaseError: the case says what cannot be understood.
        """
        began = time.monotonic()
        verdict, problem = "pass", ""
        try:
            async with AsyncExitStack() as stack:
                await self._play(stack)
            if self._observer.violations:
                raise _Failure("all steps were as expected, but")
        except (_Failure, DriverFailure) as failure:
            verdict, problem = "FAIL", "\n".join([str(failure), *self._observer.violations])
        except _NotApplicable as why:
            verdict, problem = "n/a", str(why)
        log = [f"stream {stream.number}\n    " + "\n    ".join(stream.log) for stream in self._observer.streams]
        log += [f"stderr of the driver\n    {text}" for text in self._logs if text]
        return Outcome(verdict, problem, "\n".join(log), time.monotonic() - began)

    async def _play(self, stack: AsyncExitStack) -> None:
        steps = self._case.steps
        if self._is_served:
            relay = await stack.enter_async_context(
                Relay(await self._servers.address(self._case.settings["serve"]), self._observer)
            )
            address, through_proxy = relay.address, True
        else:
            self._server = await stack.enter_async_context(ReferenceServer(self._observer))
            address, through_proxy = self._server.address, any("wire" in step for step in steps)
        if through_proxy:
            self._proxy = await stack.enter_async_context(Proxy(address))
            address = self._proxy.address
        connect = {**_CONNECT, **self._case.settings.get("connect", {}), "address": address}
        self._connect = {"connect": connect}
        await self._start_driver()
        stack.push_async_callback(self._stop_driver)
        await self._instruct(self._connect)
        for number, step in enumerate(steps, 1):
            try:
                await self._step(step)
            except _Failure as failure:
                raise _Failure(f"step {number}, {_summary(step)}: {failure}") from None
            except CaseError as error:
                raise CaseError(f"{self._case.id}: step {number}: {error}") from None
            if self._observer.violations:
                raise _Failure(f"step {number}, {_summary(step)}")
        if self._expected:
            raise CaseError(f"{self._case.id}: observations are left that no step awaits")
        await asyncio.gather(*self._checks)
        if not self._is_served and not self._server.arrived.empty():
            self._observer.violations.append("D7: it attaches once more, when all is over")
        self._reader.cancel()
        await self._driver.stop()

    # --- the driver ---------------------------------------------------------------------------------------------------

    async def _start_driver(self) -> None:
        self._driver = await Driver.start(self._command)
        self._observations = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())

    async def _stop_driver(self) -> None:
        if self._faults is not None:
            self._faults.cancel()
        for check in self._checks:
            check.cancel()
        self._reader.cancel()
        await asyncio.gather(self._reader, *self._checks, return_exceptions=True)
        await self._driver.kill()
        self._logs.append(self._driver.log())

    async def _read(self) -> None:
        while True:
            observation = await self._driver.observation()
            if observation.HasField("unsupported"):
                raise _NotApplicable(observation.unsupported.why or "the driver says so")
            self._observations.put_nowait(observation)

    async def _within(self, work: Coroutine[Any, Any, T], what: str, seconds: float | None = None) -> T:
        """Wait for it, and no longer than the driver lives."""
        task, seconds = asyncio.create_task(work), seconds or self._patience
        try:
            await asyncio.wait({task, self._reader}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self._reader.done():
                self._reader.result()
            surprise = "" if self._is_served or self._server.arrived.empty() else "; an attach came that no step awaits"
            raise _Failure(f"{what}, and it did not come within {seconds:g} s{surprise}")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _instruct(self, literal: Any, observe: Any = None, wait: bool = True) -> Observation | None:
        if isinstance(literal, str):
            literal = {literal: {}}
        instruction = fill(Instruction(), literal, self._bindings)
        kind = instruction.WhichOneof("instruction") or ""
        observer = self._observer
        if kind == "open":
            observer.on_open()
        elif kind == "resume":
            observer.on_resume(instruction.resume.position.received)
        elif kind == "receive":
            observer.on_receive(instruction.receive.count)
        elif kind == "close":
            observer.on_close()
        elif kind == "detach":
            observer.on_release()
        elif kind == "give_up":
            observer.on_give_up()
        await self._driver.tell(instruction)
        self._expected.append((instruction, observe))
        return await self._observe() if wait else None

    async def _observe(self, pattern: Any = None) -> Observation:
        if not self._expected:
            raise CaseError("there is no instruction whose observation could come")
        instruction, early = self._expected.popleft()
        kind = instruction.WhichOneof("instruction") or ""
        observation = await self._within(
            self._observations.get(),
            f"the observation of {show(instruction)} is awaited",
            max(self._patience, STARTUP) if kind == "connect" else None,
        )
        what = observation.WhichOneof("observation")
        if what == "opened":
            self._observer.on_opened()
        elif what == "received" and kind == "receive":
            self._observer.on_received(instruction.receive.count, len(observation.received.commands))
        pattern = pattern if pattern is not None else early
        answer = _IN_BACKGROUND if instruction.open.in_background else _ANSWERS[kind]
        if pattern is None:
            pattern = answer
        elif isinstance(pattern, Mapping) and pattern.keys() == answer.keys():
            pattern = {key: {**answer[key], **(content or {})} for key, content in pattern.items()}
        if lines := differences(observation, pattern, self._bindings):
            raise _Failure("; ".join(lines) + f"\nthe driver observed {show(observation)}")
        return observation

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def _step(self, step: Mapping[str, Any]) -> None:
        match dict(step):
            case {"client": literal, **rest} if rest.keys() <= {"observe", "wait"}:
                await self._instruct(literal, rest.get("observe"), rest.get("wait", True))
            case {"observe": pattern, **rest} if not rest:
                await self._observe(pattern)
            case {"server": action, **rest} if not self._is_served:
                if isinstance(action, str):
                    action = {action: None}
                [(name, content)] = action.items()
                await self._serve(name, content, rest)
            case {"wire": fault, **rest} if not rest:
                self._wire_is_sound = False
                await self._proxy.play(fault)
            case {"pause": seconds, **rest} if not rest:
                await asyncio.sleep(seconds)
            case {"driver": "restart", **rest} if not rest:
                await self._restart()
            case {"start": content, **rest} if not rest:
                await self._start(dict(content or {}))
            case {"end": sequence, **rest} if rest.keys() <= {"commands"}:
                await self._end(sequence, rest.get("commands"))
            case {"faults": seed, **rest} if not rest:
                await self._play_faults(seed)
            case {"talk": content, **rest} if not rest:
                await self._talk(**content)
            case _:
                raise CaseError(f"no step: {step}")

    async def _serve(self, name: str, content: Any, rest: Mapping[str, Any]) -> None:
        if name == "accept":
            if unknown := rest.keys() - {"metadata", "after"}:
                raise CaseError(f"what is {', '.join(map(str, unknown))}?")
            await self._accept(content or {}, **rest)
            return
        if name == "perhaps":
            await self._perhaps(content)
            return
        if name == "always":
            await self._always(content, rest)
            return
        number = rest.get("stream", len(self._streams))
        if rest.keys() - {"stream"} or not 1 <= number <= len(self._streams):
            raise CaseError(f"no such stream, or what is {', '.join(map(str, rest))}?")
        stream = self._streams[number - 1]
        match name:
            case "send":
                await stream.send(self._response(content))
            case "bytes":
                await stream.send_bytes(content)
            case "expect":
                await self._expect(stream, content)
            case "fail":
                await stream.send(self._response({"failed": content}))
                await stream.wait_half_closed()
                await stream.end(make_status(content))
            case "status":
                await stream.end(make_status(content))
            case "finish":
                if stream.seen.last:
                    await stream.wait_half_closed()
                await stream.end()
            case _:
                raise CaseError(f"the server cannot {name}")

    async def _accept(
        self, pattern: Any, metadata: Mapping[str, str] | None = None, after: float | None = None
    ) -> None:
        stream = await self._within(self._server.arrived.get(), "an attach is expected")
        self._streams.append(stream)
        await self._expect(stream, {"requests": {1: pattern}})
        seen = stream.seen
        for name, text in (metadata or {}).items():
            if seen.metadata.get(name) != text:
                raise _Failure(f"metadata {name} is {seen.metadata.get(name)!r}, expected {text!r}")
        if after is not None:
            ended = self._streams[-2].seen.ended
            if ended is None or seen.began - ended < after - 0.01:
                raise _Failure(f"it came {seen.began - (ended or seen.began):.2f} s after the one before")
        if len(self._streams) > 1 and self._wire_is_sound:
            self._checks.append(asyncio.create_task(self._check_alone(stream)))

    async def _perhaps(self, response: Any) -> None:
        if (stream := await self._unless_observed()) is not None:
            await stream.send(self._response(response))

    async def _always(self, content: Any, rest: Mapping[str, Any]) -> None:
        bounds = rest.get("streams", {})
        if content.keys() != {"send", "for", "status"} or bounds.keys() != {"at_least", "at_most"}:
            raise CaseError("`always` is what to `send`, `for` how long, and a `status`; beside it are `streams`")
        count = 0
        while (stream := await self._unless_observed()) is not None:
            count += 1
            if count > bounds["at_most"]:
                raise _Failure(f"{count} streams have come, expected {dict(bounds)}")
            await stream.send(self._response(content["send"]))
            await asyncio.sleep(content["for"])
            await stream.end(make_status(content["status"]))
        if count < bounds["at_least"]:
            raise _Failure(f"{count} streams have come, expected {dict(bounds)}")

    async def _unless_observed(self) -> ReferenceStream | None:
        """Take the next stream, unless the observation comes first that is awaited."""
        arrived, observed = (
            asyncio.create_task(self._server.arrived.get()),
            asyncio.create_task(self._observations.get()),
        )
        await self._within(asyncio.wait({arrived, observed}, return_when=asyncio.FIRST_COMPLETED), "an attach, or not")
        for task in (arrived, observed):
            task.cancel()
        if observed.done() and not observed.cancelled():
            self._observations.put_nowait(observed.result())
        if arrived.cancelled() or not arrived.done():
            return None
        self._streams.append(arrived.result())
        return self._streams[-1]

    async def _check_alone(self, stream: ReferenceStream) -> None:
        deadline = time.monotonic() + ALONE
        for older in self._streams[:-1]:
            older.changed.clear()
            while older.seen.ended is None and (left := deadline - time.monotonic()) > 0:
                await _changed(older, left)
                older.changed.clear()
        self._observer.check_alone(stream.seen)

    async def _expect(self, stream: ReferenceStream, wanted: Mapping[str, Any]) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            stream.changed.clear()
            lines, may_change = unlike(stream.seen, wanted, self._bindings)
            left = deadline - time.monotonic()
            if not lines:
                return
            if stream.seen.ended is not None:
                raise _Failure("; ".join(lines) + "; and the stream has ended")
            if left <= 0 or not may_change or self._observer.violations:
                raise _Failure("; ".join(lines))
            await self._within(_changed(stream, left), "", 2 * left)

    def _response(self, literal: Any) -> pb.AttachResponse:
        return make_response(literal, self._case.settings.get("limits", {}), self._bindings)

    async def _start(self, content: dict[str, Any]) -> None:
        limits = content.pop("limits", {})
        opening = {"app": "echo", **content}
        await self._instruct({"open": opening}, wait=False)
        if not self._is_served:
            resumable = None if opening.get("plain") else True
            await self._accept({"open": {"app": opening["app"], "resumable": resumable}})
            token = {} if resumable else {"resume_token": ""}
            await self._streams[-1].send(self._response({"opened": {**token, "limits": limits}}))
        await self._observe()

    async def _end(self, sequence: int, commands: Any) -> None:
        stream = self._streams[-1]
        await self._instruct({"receive": {}}, wait=False)
        await stream.send(self._response({"closed": {"reason": "CLOSE_REASON_COMPLETED", "sequence": sequence}}))
        pattern: dict[str, Any] = {"closed": {"reason": "COMPLETED"}}
        if commands is not None:
            pattern["commands"] = commands
        await self._observe({"received": pattern})
        if sequence:
            await self._expect(stream, {"ack": sequence})
        await self._expect(stream, {"half_closed": True})
        await stream.end()

    async def _restart(self) -> None:
        self._reader.cancel()
        await self._driver.kill()
        self._logs.append(self._driver.log())
        self._expected.clear()
        await self._start_driver()
        await self._instruct(self._connect)

    # --- our own server -----------------------------------------------------------------------------------------------

    async def _play_faults(self, seed: Any) -> None:
        self._wire_is_sound = False
        if self._faults is not None:
            self._faults.cancel()
            await asyncio.gather(self._faults, return_exceptions=True)
            self._faults = None
        if seed == "stop":
            await self._proxy.play("heal")
        else:
            self._faults = asyncio.create_task(self._break(seed))

    async def _break(self, seed: int) -> None:
        pauses = random.Random(seed)
        for fault in schedule(seed):
            await asyncio.sleep(pauses.uniform(0, PAUSE))
            await self._proxy.play(fault)

    async def _talk(self, rounds: int, burst: int = 1) -> None:
        """Say what the app `echo` says back: the transcript is the one of a wire that nothing disturbs."""
        for number in range(rounds):
            await self._instruct({"send": {"event": "say", "value": number, "count": burst}})
            echoes = [{"command": "echo", "value": number}] * burst
            await self._instruct({"receive": {"count": burst}}, {"received": {"commands": echoes, "closed": None}})


async def _changed(stream: ReferenceStream, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stream.changed.wait()
    except TimeoutError:
        pass  # whoever waits looks at the clock himself


def _summary(step: Mapping[str, Any]) -> str:
    name, content = next(iter(step.items()))
    inner = next(iter(content)) if isinstance(content, Mapping) and content else content
    return f"{name} {inner}" if inner is not None else name
