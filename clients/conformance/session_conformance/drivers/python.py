"""The driver of the Python client: ``python -m session_conformance.drivers.python [--bug NAME]``."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf import any_pb2, json_format
from google.protobuf.message import Message
from session_client import (
    ClientSession,
    Command,
    PoisonedEvent,
    Position,
    RetryPolicy,
    SessionClient,
    SessionClientError,
    SessionEnded,
    SessionLost,
    SessionRefused,
    TakenOver,
)

from session_conformance.drivers import bugs
from session_conformance.v1 import conformance_pb2 as pb
from session_service import PayloadError, Window

__all__ = ["main"]


class Driver:
    """One client, and its session."""

    _client: SessionClient
    _session: ClientSession
    _opening: asyncio.Task[pb.Observation]

    async def carry_out(self, instruction: pb.Instruction) -> pb.Observation:
        """Do what it says, and tell what came of it."""
        kind = instruction.WhichOneof("instruction")
        if kind is None:
            return pb.Observation(unsupported=pb.Unsupported(why="an instruction that this driver does not know"))
        carry_out: Callable[[Any], Awaitable[pb.Observation]] = getattr(self, f"_on_{kind}")
        try:
            return await carry_out(getattr(instruction, kind))
        except Exception as error:
            return pb.Observation(error=_error(error))

    async def _on_connect(self, connect: pb.Connect) -> pb.Observation:
        tokens = list(connect.tokens)

        def credentials() -> dict[str, str]:
            return {"authorization": f"Bearer {tokens.pop(0) if len(tokens) > 1 else tokens[0]}"}

        default = RetryPolicy()
        policy = RetryPolicy(
            initial=_seconds(connect, "retry_initial", default.initial),
            maximum=_seconds(connect, "retry_maximum", default.maximum),
            total=_seconds(connect, "retry_total", default.total),
            attach_timeout=_seconds(connect, "attach_timeout", default.attach_timeout),
        )
        window = Window(
            connect.command_window_messages or Window().messages, connect.command_window_bytes or Window().size
        )
        self._client = SessionClient(
            connect.address, credentials=credentials if tokens else None, retry=policy, command_window=window
        )
        return pb.Observation(done=pb.Done())

    async def _on_open(self, opening: pb.OpenSession) -> pb.Observation:
        self._session = self._client.open(
            opening.app,
            params=json_format.MessageToDict(opening.params),
            resumable=not opening.plain,
            resume_window=_seconds(opening, "resume_window", None),
            request_id=opening.request_id or None,
        )
        if opening.in_background:
            self._opening = asyncio.create_task(self._enter())
            return pb.Observation(done=pb.Done())
        return await self._enter()

    async def _on_resume(self, resume: pb.ResumeSession) -> pb.Observation:
        session, token = json.loads(resume.position.saved)
        self._session = self._client.resume(Position(session, token, resume.position.received, resume.position.sent))
        return await self._enter()

    async def _enter(self) -> pb.Observation:
        session = await self._session.__aenter__()
        return pb.Observation(opened=pb.OpenedSession(session_id=session.id, taken_over=session.taken_over))

    async def _on_send(self, send: pb.Send) -> pb.Observation:
        kind = send.WhichOneof("payload")
        payload = None if kind is None else getattr(send, kind)
        data = json.loads(send.json) if kind == "json" else payload
        try:
            async with asyncio.timeout(_seconds(send, "cancel_after", None)):
                for _ in range(send.count or 1):
                    await self._session.send_event(send.event, data, task_id=send.task_id)
        except TimeoutError:
            return pb.Observation(done=pb.Done(cancelled=True))
        return pb.Observation(done=pb.Done())

    async def _on_receive(self, receive: pb.Receive) -> pb.Observation:
        received = pb.Received()
        try:
            async with asyncio.timeout(_seconds(receive, "cancel_after", None)):
                await self._read(received, receive.count)
        except TimeoutError:
            received.cancelled = True
        return pb.Observation(received=received)

    async def _on_close(self, close: pb.CloseSession) -> pb.Observation:
        received = pb.Received()
        try:
            await self._session.close(close.reason, now=close.now)
        except SessionClientError as error:
            received.error.CopyFrom(_error(error))
        else:
            await self._read(received, 0)
        return pb.Observation(received=received)

    async def _on_detach(self, _: pb.Detach) -> pb.Observation:
        return _position(await self._session.detach())

    async def _on_save_position(self, _: pb.SavePosition) -> pb.Observation:
        return _position(self._session.position)

    async def _on_give_up(self, _: pb.GiveUp) -> pb.Observation:
        self._opening.cancel()
        try:
            return await self._opening
        except asyncio.CancelledError:
            return pb.Observation(done=pb.Done(cancelled=True))

    async def _read(self, received: pb.Received, count: int) -> None:
        try:
            while not count or len(received.commands) < count:
                received.commands.append(_command(await anext(self._session)))
        except StopAsyncIteration:
            if (closed := self._session.closed) is not None:
                received.closed.CopyFrom(pb.SessionClosed(reason=closed.reason.name, message=closed.message))
        except SessionClientError as error:
            received.error.CopyFrom(_error(error))

    async def leave(self) -> None:
        """Leave everything as it is."""
        if hasattr(self, "_client"):
            await self._client.close()


def _seconds(message: Message, name: str, default: Any) -> Any:
    duration = getattr(message, name)
    return duration.seconds + duration.nanos / 1e9 if message.HasField(name) else default


def _position(position: Position) -> pb.Observation:
    saved = json.dumps([position.id, position.token]).encode()
    return pb.Observation(position=pb.Position(saved=saved, received=position.received, sent=position.sent))


def _command(command: Command) -> pb.ReceivedCommand:
    received = pb.ReceivedCommand(task_id=command.task_id, command=command.command)
    if isinstance(command.spec, bytes):
        received.blob = command.spec
    elif isinstance(command.spec, any_pb2.Any):
        received.message.CopyFrom(command.spec)
    elif isinstance(command.spec, Message):
        received.message.Pack(command.spec)
    else:
        received.json = json.dumps(command.spec)
    return received


def _error(error: Exception) -> pb.Error:
    kind = next(
        (
            kind
            for type_, kind in (
                (PayloadError, pb.ERROR_KIND_PAYLOAD),
                (TakenOver, pb.ERROR_KIND_TAKEN_OVER),
                (SessionRefused, pb.ERROR_KIND_REFUSED),
                (PoisonedEvent, pb.ERROR_KIND_POISONED),
                (SessionLost, pb.ERROR_KIND_LOST),
                (SessionEnded, pb.ERROR_KIND_ENDED),
            )
            if isinstance(error, type_)
        ),
        pb.ERROR_KIND_OTHER,
    )
    result = pb.Error(kind=kind, message=f"{type(error).__name__}: {error}")
    if isinstance(error, SessionRefused):
        result.reason, result.code = error.reason, error.code.name
    if isinstance(error, (SessionRefused, SessionLost)):
        result.taken_over = error.taken_over
    if isinstance(error, PoisonedEvent):
        result.sequence, result.size = error.sequence, error.size
    return result


async def _drive() -> None:
    loop = asyncio.get_running_loop()
    stdin, driver = asyncio.StreamReader(), Driver()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin.buffer)
    try:
        while True:
            length = int.from_bytes(await stdin.readexactly(4))
            observation = await driver.carry_out(pb.Instruction.FromString(await stdin.readexactly(length)))
            data = observation.SerializeToString()
            sys.stdout.buffer.write(len(data).to_bytes(4) + data)
            sys.stdout.buffer.flush()
    except asyncio.IncompleteReadError:
        await driver.leave()


def main() -> None:
    """Drive the client until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m session_conformance.drivers.python", description=__doc__)
    parser.add_argument("--bug", choices=sorted(bugs.BUGS), help="break the library in this way")
    args = parser.parse_args()
    if args.bug:
        bugs.BUGS[args.bug]()
    asyncio.run(_drive())


if __name__ == "__main__":
    main()
