"""What the client makes of servers that refuse, misbehave, or fall silent: fakes that answer what a test wants."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from session_client import (
    Attachment,
    AttachmentState,
    CloseReason,
    Position,
    RetryPolicy,
    SessionClient,
    SessionClientError,
    SessionLost,
    SessionRefused,
    TakenOver,
)

from session_service.v1 import session_pb2 as pb

from .fake import FakeCall, Script, opened, resumed
from .served import QUICK, FakeServes, client_tasks

STATUSES = grpc.StatusCode
COMPLETED = pb.CLOSE_REASON_COMPLETED


def command(value: int) -> pb.Command:
    return pb.Command(task_id="main-1", command="c", json=str(value))


async def attach(call: FakeCall, **limits: Any) -> None:
    """Answer as one should."""
    request = await call.read()
    assert request is not None
    if request.HasField("open"):
        await call.write(opened=opened(**limits))
    else:
        await call.write(resumed=resumed(**limits))


async def end_well(call: FakeCall) -> None:
    """Attach, and end the session, which had one command."""
    await attach(call)
    await call.write(commands=[command(1)], first_sequence=1, closed=pb.Closed(reason=COMPLETED, sequence=2))
    await call.read_until(lambda request: request.ack == 2)


def cut_after_attach(*, code: grpc.StatusCode = STATUSES.UNAVAILABLE) -> Script:
    async def script(call: FakeCall) -> None:
        await attach(call)
        if code is not STATUSES.OK:
            await call.end(code)

    return script


def refuse(reason: str, retry: str | None, code: grpc.StatusCode, *, attached: bool = True, **more: Any) -> Script:
    async def script(call: FakeCall) -> None:
        if attached:
            await attach(call)
        else:
            await call.read()
        await call.refuse(reason, retry, code, **more)

    return script


async def talk(address: str, *, resumable: bool = True, **options: Any) -> list[Any]:
    """Take all commands, and leave."""
    try:
        async with (
            SessionClient(address, **{"retry": QUICK, **options}) as client,
            client.open("app", resumable=resumable) as session,
        ):
            found: list[Any] = [command.spec async for command in session]
    finally:
        assert client_tasks() == []
    assert session.closed is not None
    return [*found, session.closed.reason]


WELL = [1, CloseReason.COMPLETED]


async def error_of(address: str, **options: Any) -> SessionClientError:
    """Talk, and return the error that it ends with."""
    with pytest.raises(SessionClientError) as caught:
        await talk(address, **options)
    return caught.value


# --- the requests -----------------------------------------------------------------------------------------------------


async def test_open_and_resume_say_who_is_there(fake_server: FakeServes) -> None:
    fake = await fake_server(cut_after_attach(), end_well)
    assert await talk(fake.address) == WELL
    first, second = fake.calls
    open_, resume = first.requests[0].open, second.requests[0].resume
    assert (open_.app, open_.resumable, open_.command_format) == ("app", True, pb.PAYLOAD_FORMAT_JSON)
    assert (open_.command_window.messages, open_.command_window.bytes) == (1024, 1 << 20)
    assert len(open_.request_id) == len(open_.client_id) == 36
    assert open_.request_id != open_.client_id
    assert (resume.session_id, resume.resume_token, resume.received) == ("s-1", "token", 0)
    assert resume.client_id == open_.client_id
    assert resume.command_window == open_.command_window


async def test_two_sessions_have_ids_of_their_own(fake_server: FakeServes) -> None:
    fake = await fake_server(end_well, end_well)
    async with SessionClient(fake.address) as client:
        for _ in range(2):
            async with client.open("app"):
                pass
    one, two = (call.requests[0].open for call in fake.calls)
    assert one.request_id != two.request_id


async def test_closed_is_acknowledged_before_the_client_half_closes(fake_server: FakeServes) -> None:
    async def script(call: FakeCall) -> None:
        await attach(call)
        await call.write(closed=pb.Closed(reason=COMPLETED, sequence=1))
        await call.read_all()

    fake = await fake_server(script)
    assert await talk(fake.address) == [CloseReason.COMPLETED]
    assert [request.ack for request in fake.calls[0].requests] == [0, 1]


async def test_a_heartbeat_goes_when_nothing_else_does(fake_server: FakeServes) -> None:
    async def script(call: FakeCall) -> None:
        await attach(call, heartbeat=0.2)
        for _ in range(4):
            assert await call.read() == pb.AttachRequest()
            await call.write()
        await call.write(commands=[command(1)], first_sequence=1, closed=pb.Closed(reason=COMPLETED, sequence=2))
        await call.read_until(lambda request: request.ack == 2)

    fake = await fake_server(script)
    assert await talk(fake.address) == WELL


async def test_what_it_does_not_know_is_ignored(fake_server: FakeServes) -> None:
    unknown = b"\xfa\x3e\x05hello"  # field 1007, text

    async def script(call: FakeCall) -> None:
        await call.read()
        await call.write_bytes(pb.AttachResponse(opened=opened()).SerializeToString() + unknown)
        await call.write_bytes(unknown)
        await call.write(draining=pb.Draining())
        await call.write_bytes(pb.AttachResponse(commands=[command(1)], first_sequence=1).SerializeToString() + unknown)
        await call.write(closed=pb.Closed(reason=COMPLETED, sequence=2))
        await call.read_until(lambda request: request.ack == 2)

    fake = await fake_server(script)
    assert await talk(fake.address) == WELL


# --- a stream that ends without closed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [STATUSES.OK, STATUSES.UNAVAILABLE, STATUSES.CANCELLED, STATUSES.INTERNAL, STATUSES.ABORTED, STATUSES.UNKNOWN],
)
async def test_it_is_broken_whatever_its_status_and_resumed(fake_server: FakeServes, code: grpc.StatusCode) -> None:
    fake = await fake_server(cut_after_attach(code=code), cut_after_attach(code=code), end_well)
    assert await talk(fake.address) == WELL
    assert fake.first_requests == ["open", "resume", "resume"]


@pytest.mark.parametrize(
    "code",
    [
        STATUSES.INVALID_ARGUMENT,
        STATUSES.NOT_FOUND,
        STATUSES.PERMISSION_DENIED,
        STATUSES.FAILED_PRECONDITION,
        STATUSES.UNIMPLEMENTED,
    ],
)
async def test_without_an_error_info_some_statuses_are_final(fake_server: FakeServes, code: grpc.StatusCode) -> None:
    fake = await fake_server(cut_after_attach(code=code), end_well)
    error = await error_of(fake.address)
    assert isinstance(error, SessionRefused)
    assert (error.code, error.reason, error.details) == (code, "", {})
    assert len(fake.calls) == 1


async def test_resource_exhausted_without_an_error_info_is_final_before_the_first_opened(
    fake_server: FakeServes,
) -> None:
    async def script(call: FakeCall) -> None:
        await call.read()
        await call.end(STATUSES.RESOURCE_EXHAUSTED)

    fake = await fake_server(script, end_well)
    error = await error_of(fake.address)
    assert isinstance(error, SessionRefused)
    assert (error.code, error.reason, len(fake.calls)) == (STATUSES.RESOURCE_EXHAUSTED, "", 1)


@pytest.mark.parametrize("attached", [True, False], ids=["after resumed", "before resumed"])
async def test_resource_exhausted_without_an_error_info_ends_no_session_that_is_open(
    fake_server: FakeServes, attached: bool
) -> None:
    async def script(call: FakeCall) -> None:
        await call.read()
        if attached:
            await call.write(resumed=resumed())
        await call.end(STATUSES.RESOURCE_EXHAUSTED)

    fake = await fake_server(cut_after_attach(code=STATUSES.RESOURCE_EXHAUSTED), script, end_well)
    assert await talk(fake.address) == WELL
    assert fake.first_requests == ["open", "resume", "resume"]


async def test_resource_exhausted_ends_no_session_that_another_process_has_left(fake_server: FakeServes) -> None:
    async def script(call: FakeCall) -> None:
        await call.read()
        await call.end(STATUSES.RESOURCE_EXHAUSTED)

    fake = await fake_server(script, end_well)
    position = Position("s-1", "token", 0, 0)
    async with SessionClient(fake.address, retry=QUICK) as client, client.resume(position) as session:
        assert [command.spec async for command in session] == [1]
    assert fake.first_requests == ["resume", "resume"]


async def test_an_open_that_ends_without_an_answer_is_repeated_with_the_same_ids(fake_server: FakeServes) -> None:
    async def silent(call: FakeCall) -> None:
        await call.read()

    fake = await fake_server(silent, silent, end_well)
    assert await talk(fake.address) == WELL
    assert len({call.requests[0].SerializeToString(deterministic=True) for call in fake.calls}) == 1


async def test_an_open_is_repeated_for_so_long_and_then_of_unknown_outcome(
    fake_server: FakeServes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_client.session.REPEAT_OPEN", 0.5)

    async def silent(call: FakeCall) -> None:
        await call.read()

    fake = await fake_server(*[silent] * 1000)
    error = await error_of(fake.address)
    assert isinstance(error, SessionLost)
    assert "as far as is known" in str(error)
    assert 1 < len(fake.calls) < 1000


# --- retry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [STATUSES.UNAVAILABLE, STATUSES.NOT_FOUND, STATUSES.RESOURCE_EXHAUSTED])
async def test_resume_is_obeyed_over_the_status(fake_server: FakeServes, code: grpc.StatusCode) -> None:
    fake = await fake_server(refuse("WHATEVER", "RESUME", code), end_well)
    assert await talk(fake.address) == WELL
    assert fake.first_requests == ["open", "resume"]


@pytest.mark.parametrize("retry", ["NEVER", "LATER", "", None])
@pytest.mark.parametrize("attached", [True, False])
async def test_never_and_what_it_does_not_know_are_told_to_the_application(
    fake_server: FakeServes, retry: str | None, attached: bool
) -> None:
    fake = await fake_server(
        refuse("WHATEVER", retry, STATUSES.UNAVAILABLE, attached=attached, received="3", more="text"), end_well
    )
    error = await error_of(fake.address)
    assert isinstance(error, SessionRefused)
    assert (error.reason, error.code, error.taken_over) == ("WHATEVER", STATUSES.UNAVAILABLE, 3)
    assert error.details["more"] == "text"
    assert "the fake says WHATEVER" in str(error)
    assert len(fake.calls) == 1


async def test_an_error_info_of_somebody_else_does_not_count(fake_server: FakeServes) -> None:
    fake = await fake_server(
        refuse("PROXY", "NEVER", STATUSES.UNAVAILABLE, domain="proxy.example"),
        refuse("PROXY", "RESUME", STATUSES.NOT_FOUND, domain="proxy.example"),
    )
    error = await error_of(fake.address)
    assert isinstance(error, SessionRefused)
    assert (error.code, error.reason, len(fake.calls)) == (STATUSES.NOT_FOUND, "", 2)


async def test_reopen_before_the_first_opened_opens_again_by_itself(fake_server: FakeServes) -> None:
    fake = await fake_server(refuse("DRAINING", "REOPEN", STATUSES.UNAVAILABLE, attached=False), end_well)
    assert await talk(fake.address) == WELL
    assert fake.first_requests == ["open", "open"]
    assert fake.calls[0].requests[0].open.request_id == fake.calls[1].requests[0].open.request_id


async def test_an_unknown_session_before_the_first_opened_has_run_and_is_lost(fake_server: FakeServes) -> None:
    fake = await fake_server(refuse("SESSION_NOT_FOUND", "REOPEN", STATUSES.NOT_FOUND, attached=False), end_well)
    assert isinstance(await error_of(fake.address), SessionLost)
    assert len(fake.calls) == 1


async def test_reopen_after_opened_is_a_lost_session_and_never_opened_again(fake_server: FakeServes) -> None:
    async def take_two(call: FakeCall) -> None:
        await attach(call)
        await call.read_until(lambda request: request.events)
        await call.write(ack=2)
        await call.end(STATUSES.UNAVAILABLE)

    fake = await fake_server(take_two, refuse("SESSION_NOT_FOUND", "REOPEN", STATUSES.NOT_FOUND, attached=False))
    async with SessionClient(fake.address, retry=QUICK) as client, client.open("app") as session:
        for number in range(2):
            assert session._conversation.send("say", number, "")  # both in one message
        await session.send_event("say", 2)
        with pytest.raises(SessionLost, match="SESSION_NOT_FOUND") as caught:
            await anext(session)
        assert caught.value.taken_over == 2
    assert fake.first_requests == ["open", "resume"]


async def test_how_far_the_session_got_is_in_the_refusal(fake_server: FakeServes) -> None:
    async def take_one(call: FakeCall) -> None:
        await attach(call)
        await call.read_until(lambda request: request.events)
        await call.end(STATUSES.UNAVAILABLE)

    lost = refuse("RESUME_IMPOSSIBLE", "REOPEN", STATUSES.OUT_OF_RANGE, attached=False, received="1")
    fake = await fake_server(take_one, lost)
    async with SessionClient(fake.address, retry=QUICK) as client:
        with pytest.raises(SessionLost) as caught:  # noqa: PT012 - it leaves the session
            async with client.open("app") as session:
                await session.send_event("say", 1)
                await anext(session)
    assert caught.value.taken_over == 1


@pytest.mark.parametrize("received", ["", "-1", "three", "9" * 5000, "²"])
async def test_nonsense_in_the_metadata_is_not_believed(fake_server: FakeServes, received: str) -> None:
    fake = await fake_server(refuse("WHATEVER", "NEVER", STATUSES.ABORTED, received=received))
    error = await error_of(fake.address)
    assert isinstance(error, SessionRefused)
    assert error.reason == "WHATEVER"


async def test_taken_over_by_another_client_is_an_error_of_its_own(fake_server: FakeServes) -> None:
    fake = await fake_server(refuse("TAKEN_OVER", "NEVER", STATUSES.ABORTED, received="0"), end_well)
    assert isinstance(await error_of(fake.address), TakenOver)
    assert len(fake.calls) == 1


async def test_taken_over_by_a_late_stream_of_this_client_is_taken_back(fake_server: FakeServes) -> None:
    fake = await fake_server(refuse("TAKEN_OVER", "RESUME", STATUSES.ABORTED), end_well)
    assert await talk(fake.address) == WELL


# --- how long to wait -------------------------------------------------------------------------------------------------


async def test_the_client_waits_as_long_as_the_server_asks(fake_server: FakeServes) -> None:
    told: list[Attachment] = []
    fake = await fake_server(
        refuse("SESSION_LIMIT", "REOPEN", STATUSES.RESOURCE_EXHAUSTED, attached=False, delay=0.25), end_well
    )
    assert await talk(fake.address, on_attachment=told.append) == WELL
    assert [change.state for change in told] == [AttachmentState.LOST, AttachmentState.ATTACHED]
    assert told[0].retry_in == 0.25


async def test_a_wait_beyond_the_time_limit_is_an_error_at_once(fake_server: FakeServes) -> None:
    fake = await fake_server(
        refuse("SESSION_LIMIT", "REOPEN", STATUSES.RESOURCE_EXHAUSTED, attached=False, delay=3600), end_well
    )
    assert isinstance(await error_of(fake.address), SessionLost)
    assert len(fake.calls) == 1


# --- credentials ------------------------------------------------------------------------------------------------------


def unauthenticated(*, info: bool = True) -> Script:
    async def script(call: FakeCall) -> None:
        await call.read()
        if info:
            await call.refuse("UNAUTHENTICATED", "RESUME", STATUSES.UNAUTHENTICATED)
        await call.end(STATUSES.UNAUTHENTICATED)

    return script


@pytest.mark.parametrize("info", [True, False], ids=["told by the server", "told by a proxy"])
async def test_unauthenticated_is_tried_once_more_with_fresh_credentials(fake_server: FakeServes, info: bool) -> None:
    tokens = iter("abcd")
    fake = await fake_server(unauthenticated(info=info), end_well)
    assert await talk(fake.address, credentials=lambda: {"token": next(tokens)}) == WELL
    assert [call.metadata["token"] for call in fake.calls] == ["a", "b"]


@pytest.mark.parametrize("info", [True, False], ids=["told by the server", "told by a proxy"])
async def test_unauthenticated_twice_in_a_row_is_final(fake_server: FakeServes, info: bool) -> None:
    fake = await fake_server(unauthenticated(info=info), unauthenticated(info=info), end_well)
    error = await error_of(fake.address)
    assert isinstance(error, SessionRefused)
    assert error.code is STATUSES.UNAUTHENTICATED
    assert len(fake.calls) == 2


async def test_unauthenticated_now_and_then_is_not(fake_server: FakeServes) -> None:
    scripts = [
        unauthenticated(),
        cut_after_attach(),
        unauthenticated(),
        cut_after_attach(),
        unauthenticated(),
        end_well,
    ]
    fake = await fake_server(*scripts)
    assert await talk(fake.address) == WELL


# --- responses that cannot be right -----------------------------------------------------------------------------------


def bad(data: bytes, *, after: int = 0) -> Script:
    """Attach, send so many good commands, then this."""

    async def script(call: FakeCall) -> None:
        await attach(call)
        if after:
            good = [command(number) for number in range(1, after + 1)]
            await call.write(commands=good, first_sequence=1)
        await call.write_bytes(data)
        await call.read_all()

    return script


GAP = pb.AttachResponse(commands=[command(9)], first_sequence=9).SerializeToString()
BAD = {
    "a gap": GAP,
    "no message": b"\xff\xff\xff\xff",
    "no JSON": pb.AttachResponse(commands=[pb.Command(json="{")], first_sequence=1).SerializeToString(),
    "an ack of nothing": pb.AttachResponse(ack=1).SerializeToString(),
    "a gap before closed": pb.AttachResponse(closed=pb.Closed(sequence=7)).SerializeToString(),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
async def test_a_bad_response_breaks_the_stream_and_the_second_at_one_place_is_final(
    fake_server: FakeServes, data: bytes
) -> None:
    fake = await fake_server(bad(data), bad(data), end_well)
    error = await error_of(fake.address)
    assert isinstance(error, SessionRefused)
    assert "a bad response" in str(error)
    assert fake.first_requests == ["open", "resume"]


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
async def test_a_bad_response_that_comes_right_on_the_next_stream_is_forgotten(
    fake_server: FakeServes, data: bytes
) -> None:
    fake = await fake_server(bad(data), end_well)
    assert await talk(fake.address) == WELL
    assert fake.calls[1].requests[0].resume.received == 0


async def test_gaps_at_different_places_are_not_the_same_gap(fake_server: FakeServes) -> None:
    fake = await fake_server(bad(GAP, after=1), bad(GAP, after=2), bad(GAP, after=3), bad(GAP, after=3))
    error = await error_of(fake.address)
    assert "a bad response" in str(error)
    assert [call.requests[0].resume.received for call in fake.calls] == [0, 1, 2, 3]


async def test_a_first_answer_that_is_none_is_a_bad_response(fake_server: FakeServes) -> None:
    async def script(call: FakeCall) -> None:
        await call.read()
        await call.write(commands=[command(1)], first_sequence=1)
        await call.read_all()

    fake = await fake_server(script, script)
    assert "a bad response" in str(await error_of(fake.address))
    assert fake.first_requests == ["open", "open"]


# --- silence ----------------------------------------------------------------------------------------------------------


async def test_three_intervals_of_silence_break_the_stream(fake_server: FakeServes) -> None:
    told: list[Attachment] = []

    async def script(call: FakeCall) -> None:
        await attach(call, heartbeat=0.1)
        await call.read_all()

    fake = await fake_server(script, end_well)
    assert await talk(fake.address, on_attachment=told.append) == WELL
    assert "silent" in told[1].error
    assert len(fake.calls[0].requests) > 1  # it went on with its own heartbeats


async def test_an_attach_without_an_answer_is_given_up(fake_server: FakeServes) -> None:
    async def script(call: FakeCall) -> None:
        await call.read_all()

    fake = await fake_server(script, end_well)
    policy = RetryPolicy(initial=0.01, maximum=0.02, attach_timeout=0.5)
    assert await talk(fake.address, retry=policy) == WELL
    assert fake.first_requests == ["open", "open"]


async def test_a_server_that_never_ends_the_call_does_not_keep_the_client(
    fake_server: FakeServes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_client.stream.FAREWELL", 0.05)
    monkeypatch.setattr("session_client.session.LEAVE_TIME", 3600.0)

    async def script(call: FakeCall) -> None:
        await end_well(call)
        await call.read_all()
        while True:
            await call.write()  # and on, and on

    fake = await fake_server(script)
    assert await talk(fake.address) == WELL


# --- plain sessions ---------------------------------------------------------------------------------------------------


async def end_plain(call: FakeCall) -> None:
    await attach(call)
    await call.write(commands=[command(1)])
    await call.write(closed=pb.Closed(reason=COMPLETED))


async def test_a_plain_session_ends_with_its_call(fake_server: FakeServes) -> None:
    fake = await fake_server(end_plain)
    assert await talk(fake.address, resumable=False) == WELL
    assert fake.calls[0].requests[0].open.request_id == ""


@pytest.mark.parametrize("code", [STATUSES.OK, STATUSES.UNAVAILABLE])
async def test_a_plain_open_without_an_answer_may_have_run_and_is_not_repeated(
    fake_server: FakeServes, code: grpc.StatusCode
) -> None:
    async def script(call: FakeCall) -> None:
        await call.read()
        if code is not STATUSES.OK:
            await call.end(code)

    fake = await fake_server(script, end_plain)
    assert isinstance(await error_of(fake.address, resumable=False), SessionLost)
    assert len(fake.calls) == 1


async def test_a_plain_open_that_was_refused_for_now_is_repeated(fake_server: FakeServes) -> None:
    fake = await fake_server(refuse("SESSION_LIMIT", "REOPEN", STATUSES.RESOURCE_EXHAUSTED, attached=False), end_plain)
    assert await talk(fake.address, resumable=False) == WELL


@pytest.mark.parametrize("retry", ["RESUME", "REOPEN"])
async def test_a_plain_session_that_breaks_is_lost(fake_server: FakeServes, retry: str) -> None:
    fake = await fake_server(refuse("INTERNAL", retry, STATUSES.INTERNAL), end_plain)
    error = await error_of(fake.address, resumable=False)
    assert isinstance(error, SessionLost)
    assert error.taken_over == 0
    assert len(fake.calls) == 1


async def test_a_plain_session_that_is_refused_says_why(fake_server: FakeServes) -> None:
    fake = await fake_server(refuse("PAYLOAD_INVALID", "NEVER", STATUSES.INVALID_ARGUMENT))
    error = await error_of(fake.address, resumable=False)
    assert isinstance(error, SessionRefused)
    assert error.reason == "PAYLOAD_INVALID"
