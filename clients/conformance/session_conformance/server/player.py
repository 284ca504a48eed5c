"""Plays a case against a server: one method for each kind of step, named ``_on_<step>``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from session_service.v1 import session_pb2 as pb

from ..cases import Case, CaseError
from ..matching import Bindings, differences, fill
from .servers import Served
from .stream import ATTACH, Call, Failure, Status, Stream
from .values import put_in
from .wire import Wire

__all__ = ["Player"]

# Seconds after which nothing more is taken to come. Where it does come later, no case fails that should pass.
QUIET = 0.3

# Seconds without an ack, or without a write, after which a server takes no more events for now.
SETTLED = 1.0

# Lines of what passed that are shown of a case that failed.
LOGGED = 60

# Windows that a server may take of a session that takes nothing, before it counts as one without limits.
MOST_WINDOWS = 8

# How long a server keeps the sessions that a case leaves behind.
RESUME_WINDOW = "10s"

# What may stand beside a step, besides `stream`.
MODIFIERS = {
    "attach": {"metadata", "connection", "deaf"},
    "open": {"metadata", "connection", "deaf", "opened", "refused"},
    "resume": {"metadata", "connection", "deaf", "resumed", "refused", "session"},
    "expect": {"within"},
    "expect_status": {"within"},
    "expect_heartbeat": {"within"},
    "expect_quiet": {"for"},
}

_NARROW = ("grpc.http2.bdp_probe", 0)  # else up to 6 MiB fit into a stream that nobody reads
_OWN = ("grpc.use_local_subchannel_pool", 1)
_ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Player:
    """One case, while it is played."""

    def __init__(self, case: Case, served: Served, patience: float) -> None:
        self._case = case
        self._served = served
        self._patience = patience
        self._bindings: Bindings = {
            name: str(uuid.uuid4()) for name in ("gate", "other_gate", "request_id", "client_id")
        }
        self._cuttable = {step["cut"] for step in case.steps if "cut" in step}
        self._log: list[tuple[str, Message | str]] = []
        self._streams: dict[str, Stream] = {}
        self._left: list[Stream] = []
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._wires: dict[str, Wire] = {}

    async def play(self) -> None:
        """Play the case.

        Raises:
            Failure: the server did not do what was expected.
            CaseError: the case makes no sense.
        """
        try:
            for number, step in enumerate(self._case.steps, 1):
                verb = next(iter(step))
                try:
                    await self._play(verb, step)
                except Failure as failure:
                    raise Failure(f"step {number}, {verb}: {failure}") from failure
                except CaseError as error:
                    raise CaseError(f"{self._case.id}: step {number}, {verb}: {error}") from error
            for stream in self._streams.values():
                stream.check()
                if stream.items and stream not in self._left:
                    raise Failure(f"at the end: {stream.items[0].kind} came on {stream.name}, and nothing should")
        finally:
            await self._leave()

    def log(self) -> str:
        """Return the last lines of what passed."""
        return "\n".join(f"{who} {_text(what)}" for who, what in self._log[-LOGGED:])

    def _note(self, who: str, what: Message | str) -> None:
        self._log.append((who, what))

    async def _play(self, verb: str, step: Mapping[str, Any]) -> None:
        method = getattr(self, f"_on_{verb}", None)
        unknown = step.keys() - {verb, "stream"} - MODIFIERS.get(verb, set())
        if method is None or unknown:
            raise CaseError(f"what is {', '.join(sorted(unknown)) or verb}?")
        modifiers = {key: put_in(value, self._bindings) for key, value in step.items() if key != verb}
        await method(put_in(step[verb], self._bindings), modifiers)

    async def _leave(self) -> None:
        for stream in {*self._left, *self._streams.values()}:
            await stream.leave()
        for channel in self._channels.values():
            await channel.close()
        for wire in self._wires.values():
            await wire.stop()

    # --- streams ------------------------------------------------------------------------------------------------------

    async def _on_attach(self, _: Any, modifiers: Mapping[str, Any]) -> None:
        await self._attach(modifiers)

    async def _on_open(self, fields: Mapping[str, Any], modifiers: Mapping[str, Any]) -> None:
        stream = await self._attach(modifiers)
        if fields.get("resumable"):
            fields = {"resume_window": RESUME_WINDOW, **fields}
        await stream.send(self._request({"open": {"app": "conformance", **fields}}))
        if "refused" in modifiers:
            await self._expect_status(stream, modifiers["refused"], None)
            return
        opened = await self._take(stream, "opened", modifiers.get("opened") or {})
        prefix = "" if stream.name == "main" else f"{stream.name}_"
        for name in ("session_id", "resume_token", "limits"):
            self._bindings[prefix + name] = getattr(opened, name)

    async def _on_resume(self, fields: Mapping[str, Any], modifiers: Mapping[str, Any]) -> None:
        stream = await self._attach(modifiers)
        prefix = "" if modifiers.get("session", "main") == "main" else f"{modifiers['session']}_"
        known = {name: self._bindings[prefix + name] for name in ("session_id", "resume_token")}
        await stream.send(self._request({"resume": {**known, **fields}}))
        if "refused" in modifiers:
            await self._expect_status(stream, modifiers["refused"], None)
        else:
            await self._take(stream, "resumed", modifiers.get("resumed") or {})

    async def _on_half_close(self, name: str, _: Mapping[str, Any]) -> None:
        await self._stream(name).half_close()

    async def _on_cancel(self, name: str, _: Mapping[str, Any]) -> None:
        stream = self._stream(name)
        stream.cancel()
        self._left.append(stream)

    async def _on_cut(self, name: str, _: Mapping[str, Any]) -> None:
        self._left.append(self._stream(name))
        self._note(name, "cut")
        self._wires[name].cut()

    async def _on_read(self, name: str, _: Mapping[str, Any]) -> None:
        self._stream(name).read()

    async def _attach(self, modifiers: Mapping[str, Any]) -> Stream:
        name = modifiers.get("stream", "main")
        if name in self._streams:
            self._left.append(self._streams[name])
        channel = await self._connect(name, modifiers.get("connection"), modifiers.get("deaf", False))
        metadata = tuple(modifiers.get("metadata", {}).items())
        call: Call = channel.stream_stream(ATTACH)(metadata=metadata)
        stream = Stream(name, call, self._note, self._patience, deaf=modifiers.get("deaf", False))
        self._streams[name] = stream
        return stream

    async def _connect(self, name: str, shared: str | None, deaf: bool) -> grpc.aio.Channel:
        """Return a connection of the stream's own, unless it is to share one."""
        if shared is not None and shared in self._channels:
            return self._channels[shared]
        address = self._served.address
        if name in self._cuttable:
            wire = Wire(address)
            await wire.start()
            if name in self._wires:
                await self._wires[name].stop()
            self._wires[name], address = wire, wire.address
        channel = grpc.aio.insecure_channel(address, [_OWN, *_ANY_SIZE, *([_NARROW] if deaf else [])])
        self._channels[shared or f"{name} {len(self._channels)}"] = channel
        return channel

    def _stream(self, name: Any) -> Stream:
        if name not in self._streams:
            raise CaseError(f"there is no stream {name!r}")
        return self._streams[name]

    def _on(self, modifiers: Mapping[str, Any]) -> Stream:
        return self._stream(modifiers.get("stream", "main"))

    # --- up -----------------------------------------------------------------------------------------------------------

    def _request(self, literal: Any) -> pb.AttachRequest:
        return fill(pb.AttachRequest(), literal, self._bindings)

    async def _on_send(self, literal: Any, modifiers: Mapping[str, Any]) -> None:
        await self._on(modifiers).send(self._request(literal))

    async def _on_send_bytes(self, text: str, modifiers: Mapping[str, Any]) -> None:
        await self._on(modifiers).send_bytes(bytes.fromhex(text))

    async def _on_release(self, gate: str, _: Mapping[str, Any]) -> None:
        """Have another session open a gate."""
        await self._on_open({}, {"stream": "release"})
        await self._on_send({"events": [{"event": "release", "value": {"gate": gate}}]}, {"stream": "release"})
        await self._on_expect({"commands": [{"command": "released"}]}, {"stream": "release"})

    async def _on_fill(self, how: Mapping[str, Any], modifiers: Mapping[str, Any]) -> None:
        """Send ``note`` events of ``size`` bytes, numbered like their sequences, until the server takes no more.

        That is where the window is full and no ack comes, or in a ``plain`` session where HTTP/2 lets none through.
        Keeps the last as ``sent``.
        """
        stream, window = self._on(modifiers), self._bindings["limits"].event_window
        size = how["size"]
        messages = max(1, min(window.messages, window.bytes // (size + 100)))  # 100: what an event has around that
        most = stream.ack + MOST_WINDOWS * messages
        for sequence in range(stream.ack + 1, most):
            note = {"event": "note", "value": {"n": sequence, "filler": "x" * size}}
            request = self._request({"events": [note], "first_sequence": sequence})
            if not how.get("plain"):
                if not await self._has_room(stream, sequence - messages):
                    self._bindings["sent"] = sequence - 1
                    return
                await stream.send(request)
            elif not await stream.try_send(request, SETTLED):
                self._bindings["sent"] = sequence  # HTTP/2 holds it, but it will go
                return
        raise Failure(f"{most} events were taken from an app that takes none")

    async def _has_room(self, stream: Stream, needed: int) -> bool:
        """Wait for an ack; return False where none comes."""
        try:
            await stream.wait("ack", lambda: stream.ack >= needed, SETTLED)
        except Failure:
            stream.check()
            if stream.status is not None:
                raise
            return False
        return True

    # --- down ---------------------------------------------------------------------------------------------------------

    async def _on_expect(self, expected: Mapping[str, Any], modifiers: Mapping[str, Any]) -> None:
        stream, seconds = self._on(modifiers), modifiers.get("within")
        unknown = expected.keys() - {
            "opened", "resumed", "commands", "first_sequence", "draining", "closed", "failed", "ack", "ack_again",
            "acknowledging",
        }  # fmt: skip
        if unknown:
            raise CaseError(f"what is {', '.join(unknown)}?")
        for kind in ("opened", "resumed"):
            if kind in expected:
                await self._take(stream, kind, expected[kind] or {}, seconds)
        for index, command in enumerate(expected.get("commands", ())):
            sequence = expected.get("first_sequence", 0) if index == 0 else 0
            await self._take(stream, "command", command, seconds, sequence)
            if expected.get("acknowledging") and not any(item.kind == "command" for item in stream.items):
                await stream.send(pb.AttachRequest(ack=stream.last))
        for kind in ("draining", "closed"):
            if kind in expected:
                await self._take(stream, kind, expected[kind] or {}, seconds)
        if "failed" in expected:
            failed = await stream.wait("failed", lambda: stream.failed, seconds)
            if lines := _status_differences(failed, expected["failed"]):
                raise Failure("; ".join(lines))
        if "ack" in expected:
            ack = int(expected["ack"])
            await stream.wait(f"ack of {ack}", lambda: stream.ack >= ack, seconds)
            if stream.ack > ack:
                raise Failure(f"{stream.ack} is acknowledged, not {ack}")
        if expected.get("ack_again"):
            await stream.wait_ack_again(seconds)

    async def _take(
        self, stream: Stream, kind: str, pattern: Any, seconds: float | None = None, sequence: int = 0
    ) -> Any:
        item = await stream.wait_item(kind, seconds)
        if item.kind != kind:
            raise Failure(f"{item.kind} came, not {kind}: {_text(item.message)}")
        if lines := differences(item.message, pattern, self._bindings, kind):
            raise Failure("; ".join(lines))
        if sequence and item.sequence != sequence:
            raise Failure(f"the {kind} has the sequence {item.sequence}, not {sequence}")
        return item.message

    async def _on_expect_status(self, expected: Mapping[str, Any], modifiers: Mapping[str, Any]) -> None:
        await self._expect_status(self._on(modifiers), expected, modifiers.get("within"))

    async def _on_expect_end(self, expected: Mapping[str, Any], modifiers: Mapping[str, Any]) -> None:
        await self._expect_status(self._on(modifiers), expected, None, half_close=False)

    async def _expect_status(
        self, stream: Stream, expected: Mapping[str, Any], seconds: float | None, *, half_close: bool = True
    ) -> None:
        status = await stream.wait_ended(seconds, half_close=half_close)
        if stream.items:
            raise Failure(f"{stream.items[0].kind} came before the end, {status}: {_text(stream.items[0].message)}")
        if lines := list(_status_differences(status, expected)):
            raise Failure("; ".join(lines))

    async def _on_expect_heartbeat(self, name: str, modifiers: Mapping[str, Any]) -> None:
        stream = self._stream(name)
        before = stream.heartbeats
        await stream.wait("heartbeat", lambda: stream.heartbeats > before, modifiers.get("within"))

    async def _on_expect_quiet(self, name: str, modifiers: Mapping[str, Any]) -> None:
        await self._stream(name).stay_quiet(modifiers.get("for", QUIET))

    async def _on_expect_metadata(self, name: str, _: Mapping[str, Any]) -> None:
        await self._stream(name).wait_metadata()

    # --- the server ---------------------------------------------------------------------------------------------------

    async def _on_drain_server(self, _: Any, __: Mapping[str, Any]) -> None:
        self._served.terminate()

    async def _on_expect_exit(self, code: int, _: Mapping[str, Any]) -> None:
        try:
            found = await asyncio.wait_for(self._served.wait(), self._patience)
        except TimeoutError:
            raise Failure("the server did not exit") from None
        if found != code:
            raise Failure(f"the server exited with {found}, not {code}")

    async def _on_expect_health(self, expected: str, _: Mapping[str, Any]) -> None:
        async with grpc.aio.insecure_channel(self._served.address, [_OWN]) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                health_pb2.HealthCheckRequest.SerializeToString,
                health_pb2.HealthCheckResponse.FromString,
            )
            found = health_pb2.HealthCheckResponse.ServingStatus.Name(
                (await check(health_pb2.HealthCheckRequest())).status
            )
        if found != expected:
            raise Failure(f"the server's health is {found}, not {expected}")


def _text(what: Message | str) -> str:
    if isinstance(what, str):
        return what
    text = " ".join(str(what).split())  # JSON knows no NaN, and not every Any
    return f"{{{text}}}" if len(text) < 500 else f"{{{text[:400]}... ({len(text)} characters)}}"


def _status_differences(status: Status, expected: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in ("code", "reason", "retry"):
        if name in expected and getattr(status, name) != (expected[name] or ""):
            lines.append(f"the {name} is {getattr(status, name) or 'absent'}, not {expected[name] or 'absent'}")
    if status.reason and status.domain != "session_service":
        lines.append(f"the domain is {status.domain!r}")
    for key, value in expected.get("metadata", {}).items():
        found = status.metadata.get(key)
        if found != (value if value is None else str(value)):
            lines.append(f"the metadata has {key} {found!r}, not {value!r}")
    if expected.get("retry_delay") and not status.retry_delay:
        lines.append("there is no RetryInfo")
    return [f"{status}: {'; '.join(lines)}"] if lines else []
