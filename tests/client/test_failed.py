"""Ends that a proxy may cut: the client half-closes when all is said, and obeys `failed` over the status (E2)."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from session_client import CloseReason, SessionClient, SessionLost, SessionRefused, TakenOver

from session_service import Window
from session_service.v1 import session_pb2 as pb

from .fake import FakeCall, Script
from .served import FakeServes
from .test_errors import COMPLETED, WELL, attach, command, end_well, error_of, talk

STATUSES = grpc.StatusCode
either_kind = pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])


def failed(reason: str, retry: str, code: grpc.StatusCode, *, delay: float = 0.0, **metadata: str) -> pb.Failed:
    """Return what our server writes before it ends a call with this error."""
    status = status_pb2.Status(code=code.value[0], message=f"the fake says {reason}")
    info = error_details_pb2.ErrorInfo(reason=reason, domain="session_service", metadata={"retry": retry, **metadata})
    wait = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=round(delay * 1e9)))
    for detail in (info, wait) if delay else (info,):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return pb.Failed(status=status.SerializeToString())


def fail(error: pb.Failed, end: grpc.StatusCode | None = STATUSES.CANCELLED, *, attached: bool = True) -> Script:
    """Write the error, wait for the half-close, and end with what a proxy makes of it."""

    async def script(call: FakeCall) -> None:
        if attached:
            await attach(call)
        else:
            await call.read()
        await call.write(failed=error)
        await call.read_all()
        if end is not None:
            await call.end(end)

    return script


@either_kind
@pytest.mark.parametrize("attached", [True, False], ids=["attached", "at the attach"])
@pytest.mark.parametrize("end", [STATUSES.CANCELLED, STATUSES.UNAVAILABLE, STATUSES.NOT_FOUND, None])
async def test_it_is_obeyed_over_the_status(
    fake_server: FakeServes, attached: bool, end: grpc.StatusCode | None, resumable: bool
) -> None:
    error = failed("APP_NOT_FOUND", "NEVER", STATUSES.NOT_FOUND, received="3")
    fake = await fake_server(fail(error, end, attached=attached))
    found = await error_of(fake.address, resumable=resumable)
    assert isinstance(found, SessionRefused)
    assert (found.code, found.reason, found.taken_over) == (STATUSES.NOT_FOUND, "APP_NOT_FOUND", 3)
    assert "the fake says APP_NOT_FOUND" in str(found)


async def test_a_takeover_is_known_whatever_a_proxy_makes_of_the_status(fake_server: FakeServes) -> None:
    fake = await fake_server(fail(failed("TAKEN_OVER", "NEVER", STATUSES.ABORTED)))
    assert isinstance(await error_of(fake.address), TakenOver)


async def test_its_retry_and_its_delay_hold(fake_server: FakeServes) -> None:
    told: list[Any] = []
    fake = await fake_server(
        fail(failed("SESSION_LIMIT", "REOPEN", STATUSES.RESOURCE_EXHAUSTED, delay=0.25), attached=False),
        fail(failed("INTERNAL", "RESUME", STATUSES.INTERNAL), STATUSES.NOT_FOUND),
        end_well,
    )
    assert await talk(fake.address, on_attachment=told.append) == WELL
    assert fake.first_requests == ["open", "open", "resume"]
    assert told[0].retry_in == 0.25


async def test_reopen_after_opened_is_a_lost_session(fake_server: FakeServes) -> None:
    fake = await fake_server(fail(failed("SESSION_NOT_FOUND", "REOPEN", STATUSES.NOT_FOUND)))
    assert isinstance(await error_of(fake.address), SessionLost)


async def test_it_says_nothing_about_the_next_stream(fake_server: FakeServes) -> None:
    async def refuse(call: FakeCall) -> None:
        await call.read()
        await call.end(STATUSES.PERMISSION_DENIED)

    fake = await fake_server(fail(failed("INTERNAL", "RESUME", STATUSES.INTERNAL)), refuse)
    error = await error_of(fake.address)
    assert isinstance(error, SessionRefused)
    assert error.code is STATUSES.PERMISSION_DENIED


@pytest.mark.parametrize("heartbeat", [25.0, 0.05])
async def test_a_server_that_does_not_end_the_call_is_left_and_obeyed(
    fake_server: FakeServes, monkeypatch: pytest.MonkeyPatch, heartbeat: float
) -> None:
    monkeypatch.setattr("session_client.stream.FAREWELL", 0.3)

    async def script(call: FakeCall) -> None:
        await attach(call, heartbeat=heartbeat)
        await call.write(failed=failed("WHATEVER", "NEVER", STATUSES.ABORTED))
        await call.read_all()
        while True:
            await call.write()

    fake = await fake_server(script)
    error = await error_of(fake.address)
    assert isinstance(error, SessionRefused)
    assert error.reason == "WHATEVER"


@pytest.mark.parametrize("status", [b"\xff\xff", b""], ids=["nonsense", "OK"])
async def test_where_it_holds_no_error_the_status_counts(fake_server: FakeServes, status: bytes) -> None:
    async def script(call: FakeCall) -> None:
        await attach(call)
        await call.write(failed=pb.Failed(status=status))
        await call.refuse("WHATEVER", "NEVER", STATUSES.ABORTED)

    error = await error_of((await fake_server(script)).address)
    assert isinstance(error, SessionRefused)
    assert error.reason == "WHATEVER"


# --- the half-close ---------------------------------------------------------------------------------------------------


async def test_a_plain_client_half_closes_when_it_sees_closed(fake_server: FakeServes) -> None:
    async def script(call: FakeCall) -> None:
        await attach(call)
        await call.write(commands=[command(1)], closed=pb.Closed(reason=COMPLETED))
        await call.read_all()

    fake = await fake_server(script)
    assert await talk(fake.address, resumable=False) == WELL


async def test_a_plain_client_whose_application_is_slow_half_closes_all_the_same(fake_server: FakeServes) -> None:
    ended: list[bool] = []

    async def script(call: FakeCall) -> None:
        await attach(call)
        await call.write(commands=[command(number) for number in range(5)], closed=pb.Closed(reason=COMPLETED))
        await call.read_all()
        ended.append(True)

    fake = await fake_server(script)
    client = SessionClient(fake.address, command_window=Window(2, 1 << 20))
    async with client, client.open("app", resumable=False) as session:
        assert session._supervisor is not None
        await session._supervisor  # it ends, though nobody takes the commands
        assert ended == [True]
        assert [found.spec async for found in session] == [0, 1, 2, 3, 4]


async def test_a_resumable_client_half_closes_once_it_has_written_the_ack_of_closed(fake_server: FakeServes) -> None:
    async def script(call: FakeCall) -> None:
        await attach(call)
        await call.write(commands=[command(1)], first_sequence=1, closed=pb.Closed(reason=COMPLETED, sequence=2))
        await call.read_until(lambda request: request.ack == 2)
        assert await call.read() is None

    fake = await fake_server(script)
    told: list[Any] = []
    assert await talk(fake.address, on_attachment=told.append) == [1, CloseReason.COMPLETED]
    assert len(told) == 1  # and nothing was lost
