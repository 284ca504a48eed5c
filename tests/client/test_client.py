"""The client object: opening, detaching, resuming, credentials, the hook, and what it leaves behind."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import sys
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import session_client
from session_client import (
    AttachmentState,
    CloseReason,
    Position,
    SessionClient,
    SessionEnded,
    SessionLost,
    SessionRefused,
    TakenOver,
)

from session_service import Principal, SessionClosedException, Window, get_current_session
from session_service.config import Config
from session_service.errors import PayloadError, Unauthenticated
from session_service.host import App
from session_service.server import Peer, Server
from tests.session.kinds import eventually

from .served import QUICK, Serve, client_tasks, echo


async def count() -> None:
    """Send ten commands, then whatever comes."""
    session = get_current_session()
    for number in range(10):
        session.send_task_command({"command": "count", "spec": number})
    await echo()


def test_the_public_names_are_these() -> None:
    assert sorted(session_client.__all__) == [
        "Attachment",
        "AttachmentState",
        "ClientSession",
        "CloseReason",
        "Closed",
        "Command",
        "PoisonedEvent",
        "Position",
        "RetryPolicy",
        "SessionClient",
        "SessionClientError",
        "SessionEnded",
        "SessionLost",
        "SessionRefused",
        "SyncClientSession",
        "SyncSessionClient",
        "TakenOver",
    ]


# --- opening ----------------------------------------------------------------------------------------------------------


async def test_an_app_that_is_not_served_is_refused_when_the_session_is_entered(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client:
        session = client.open("nope")
        with pytest.raises(SessionRefused, match="APP_NOT_FOUND") as caught:
            await session.__aenter__()
        assert (caught.value.reason, caught.value.code.name) == ("APP_NOT_FOUND", "NOT_FOUND")
        assert caught.value.taken_over == 0
        with pytest.raises(SessionRefused):
            await session.send_event("say", 1)
        assert client_tasks() == []


@pytest.mark.parametrize("params", [{"n": 2**53 + 1}, {"n": float("nan")}, {"n": {1}}, {1: "n"}])
async def test_params_that_cannot_be_carried_are_refused_at_the_call(params: Any) -> None:
    async with SessionClient("127.0.0.1:1") as client:
        with pytest.raises(PayloadError, match="params"):
            client.open("app", params=params)


async def test_the_app_has_the_params_and_the_headers(serve: Serve) -> None:
    async def app() -> None:
        session = get_current_session()
        spec = [dict(session.params), session.info.user_language]
        session.send_task_command({"command": "told", "spec": spec})

    served = await serve({"app": app})
    params = {"n": 2**53, "list": [1, None, {"a": True}], "text": "é"}
    headers = {"Accept-Language": "fr-CH, fr;q=0.9"}
    async with (
        SessionClient(served.address) as client,
        client.open("app", params=params, headers=headers) as session,
    ):
        assert [command.spec async for command in session] == [[params, "fr-CH"]]


@pytest.mark.parametrize(("asked", "granted"), [(1.5, 1.5), (None, 60.0), (1000.0, 60.0)])
async def test_the_client_asks_for_a_resume_window(serve: Serve, asked: float | None, granted: float) -> None:
    served = await serve({"echo": echo}, resume_window=60.0)
    async with SessionClient(served.address) as client, client.open("echo", resume_window=asked):
        assert served.only.resume_window == granted


async def test_the_same_request_id_finds_the_same_session(serve: Serve) -> None:
    served = await serve({"echo": echo})
    request_id = str(uuid.uuid4())
    async with SessionClient(served.address) as one, SessionClient(served.address) as two:
        with pytest.raises(TakenOver):  # noqa: PT012 - it leaves the session
            async with (
                one.open("echo", request_id=request_id) as first,
                two.open("echo", request_id=request_id) as second,
            ):
                assert first.id == second.id
                await anext(first)


async def test_one_client_has_many_sessions(serve: Serve, echo_app: App) -> None:
    served = await serve({"echo": echo_app})

    async def talk(number: int) -> list[Any]:
        async with client.open("echo", resumable=bool(number % 2)) as session:
            for round_ in range(20):
                await session.send_event("say", [number, round_])
            return [(await anext(session)).spec for _ in range(20)]

    async with SessionClient(served.address) as client:
        heard = await asyncio.gather(*(talk(number) for number in range(20)))
    assert heard == [[[number, round_] for round_ in range(20)] for number in range(20)]
    assert client_tasks() == []


# --- acknowledgement (D4) ---------------------------------------------------------------------------------------------


async def test_the_server_hears_that_a_command_was_taken_when_the_application_asks_for_the_next(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client, client.open("echo") as session:
        outbox = served.only.outbox
        await session.send_event("say", 1)
        await anext(session)
        # an event is written after any ack that were due: the server has taken this one, and heard of no ack
        await session.send_event("say", 2)
        await eventually(lambda: session.taken_over == 2)
        assert outbox.acked == 0
        await anext(session)
        await eventually(lambda: outbox.acked == 1)
        asking = asyncio.ensure_future(anext(session))
        await eventually(lambda: outbox.acked == 2)
        await session.send_event("say", 3)
        await asking


async def test_what_the_library_only_buffers_is_not_acknowledged(serve: Serve) -> None:
    served = await serve({"count": count})
    window = Window(4, 1 << 20)
    async with SessionClient(served.address, command_window=window) as client, client.open("count") as session:
        await eventually(lambda: session._conversation.inbox.expected == 5)
        await session.send_event("say", "x")
        await eventually(lambda: session.taken_over == 1)
        assert served.only.outbox.acked == 0
        assert served.only.outbox.sent == 4
        assert [(await anext(session)).spec for _ in range(11)] == [*range(10), "x"]


# --- detach and resume ------------------------------------------------------------------------------------------------


async def test_another_client_goes_on_where_one_has_detached(serve: Serve, echo_app: App) -> None:
    served = await serve({"echo": echo_app})
    async with SessionClient(served.address) as one:
        async with one.open("echo") as session:
            for number in range(5):
                await session.send_event("say", number)
            assert [(await anext(session)).spec for _ in range(3)] == [0, 1, 2]
            position = await session.detach()
        assert session.closed is None
        assert position == session.position == Position(session.id, position.token, 3, 5)
        assert client_tasks() == []
    await eventually(lambda: served.only.stream is None)
    stored = json.loads(json.dumps(dataclasses.asdict(position)))
    async with SessionClient(served.address) as two, two.resume(Position(**stored)) as session:
        assert session.id == position.id
        assert session.taken_over == 5
        await session.send_event("say", 5)
        assert [(await anext(session)).spec for _ in range(3)] == [3, 4, 5]
        await session.close()
    assert session.closed is not None


async def test_detach_waits_until_the_session_has_taken_over_every_event(serve: Serve) -> None:
    started = asyncio.Event()

    async def app() -> None:
        await started.wait()
        await echo()

    served = await serve({"app": app}, event_window=Window(16, 1 << 16))
    async with SessionClient(served.address) as client:
        async with client.open("app") as session:
            for _ in range(6):
                await session.send_event("say", "x" * 20_000)
            detaching = asyncio.create_task(session.detach())
            await eventually(lambda: served.only.inbox.head)
            assert not detaching.done()
            started.set()
            position = await detaching
            assert session.taken_over == position.sent == 6
        assert served.only.inbox.taken == 6


async def test_nothing_more_is_read_or_sent_after_detach(serve: Serve) -> None:
    served = await serve({"count": count})
    async with SessionClient(served.address) as client:
        async with client.open("count") as session:
            await eventually(lambda: session._conversation.inbox.expected == 11)
            await anext(session)
            position = await session.detach()
            assert [command async for command in session] == []
            for call in (session.send_event("say"), session.close()):
                with pytest.raises(SessionEnded):
                    await call
            assert await session.detach() == position
        assert session.closed is None
        async with client.resume(position) as session:
            assert [(await anext(session)).spec for _ in range(9)] == list(range(1, 10))


async def test_the_command_in_hand_at_a_detach_counts_as_done(serve: Serve) -> None:
    served = await serve({"count": count})
    async with SessionClient(served.address) as client:
        async with client.open("count") as session:
            async for command in session:
                if command.spec == 4:
                    assert session.position.received == 5
                    position = await session.detach()
        assert position.received == 5
        async with client.resume(position) as session:
            assert (await anext(session)).spec == 5


async def test_detach_ends_the_waits_of_others(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client, client.open("echo") as session:
        reading = asyncio.ensure_future(anext(session, None))
        await eventually(lambda: session._waiters)
        await session.detach()
        assert await reading is None


async def test_close_ends_with_an_error_where_another_task_detaches(serve: Serve) -> None:
    may_end = asyncio.Event()

    async def app() -> None:
        try:
            await get_current_session().next_client_event()
        except SessionClosedException:
            await may_end.wait()

    served = await serve({"app": app})
    async with SessionClient(served.address) as client, client.open("app") as session:
        closing = asyncio.create_task(session.close())
        await eventually(lambda: session._waiters)
        await session.detach()
        with pytest.raises(SessionEnded):
            await closing
    may_end.set()


async def test_a_plain_session_cannot_be_detached_and_goes_on(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client, client.open("echo", resumable=False) as session:
        with pytest.raises(SessionEnded, match="resumable=True"):
            await session.detach()
        await session.send_event("say", 1)
        assert (await anext(session)).spec == 1


async def test_a_client_that_died_in_a_command_finds_it_again(serve: Serve) -> None:
    served = await serve({"count": count})
    dying = SessionClient(served.address)
    session = await dying.open("count").__aenter__()
    saved = session.position
    for number in range(3):
        saved = session.position  # when it has done with the one before
        assert (await anext(session)).spec == number
    await eventually(lambda: served.only.outbox.acked == 2)
    await dying.close()
    async with SessionClient(served.address) as client, client.resume(saved) as session:
        assert (await anext(session)).spec == 2


async def test_a_position_can_be_resumed_from_although_the_next_command_was_asked_for(serve: Serve) -> None:
    served = await serve({"count": count})
    dying = SessionClient(served.address)
    session = await dying.open("count").__aenter__()
    await anext(session)
    position = session.position
    await anext(session)
    await eventually(lambda: served.only.outbox.acked == 1)
    await dying.close()
    async with SessionClient(served.address) as client, client.resume(position) as session:
        assert (await anext(session)).spec == 1


async def test_a_session_that_is_resumed_while_attached_is_taken_over(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client:
        async with client.open("echo") as old:
            await old.send_event("say", 1)
            await eventually(lambda: old._conversation.inbox.expected == 2)
            async with client.resume(old.position) as new:
                assert (await anext(old)).spec == 1  # it had that already
                with pytest.raises(TakenOver) as caught:
                    await anext(old)
                assert (caught.value.taken_over, caught.value.reason) == (1, "TAKEN_OVER")
                with pytest.raises(TakenOver):
                    await old.send_event("say", 2)
                with pytest.raises(TakenOver):
                    await old.detach()
                assert (await anext(new)).spec == 1
                await new.send_event("say", 2)
                assert (await anext(new)).spec == 2
            assert new.closed is not None
        assert client_tasks() == []


async def test_leaving_tells_an_error_that_no_call_has_told(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client:
        with pytest.raises(TakenOver):  # noqa: PT012 - it leaves the session
            async with client.open("echo") as old, client.resume(old.position) as new:
                await eventually(lambda: old._error)
                assert new.attached


async def test_leaving_is_quiet_about_an_error_that_the_application_has_caught(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client:
        async with client.open("echo") as old, client.resume(old.position):
            with pytest.raises(TakenOver):
                await anext(old)
        assert old.closed is None
        assert client_tasks() == []


async def test_a_position_of_nothing_is_lost_and_claims_nothing(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client:
        session = client.resume(Position("nothing", "token", 3, 9))
        with pytest.raises(SessionLost, match="SESSION_NOT_FOUND") as caught:
            await session.__aenter__()
        assert caught.value.taken_over == 0


def test_a_position_does_not_show_its_token() -> None:
    assert "secret" not in repr(Position("s-1", "secret", 1, 2))


PROCESS = """
import asyncio, json, sys
from session_client import Position, SessionClient

async def main():
    address, position = json.loads(sys.argv[1])
    async with SessionClient(address) as client, client.resume(Position(**position)) as session:
        await session.send_event("say", "from another process")
        async for command in session:
            print(json.dumps(command.spec))
            if command.spec == "from another process":
                break
    print(session.closed.reason.name)

asyncio.run(main())
"""


async def test_another_process_goes_on(serve: Serve) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address) as client, client.open("echo") as session:
        for word in ("one", "two"):
            await session.send_event("say", word)
        await anext(session)
        position = dataclasses.asdict(await session.detach())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", PROCESS, json.dumps([served.address, position])),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert (stdout.decode().split("\n"), stderr.decode()) == (['"two"', '"from another process"', "CLIENT", ""], "")


# --- credentials ------------------------------------------------------------------------------------------------------


def guard(good: set[str]) -> Any:
    def authenticate(metadata: Mapping[str, str], peer: Peer) -> Principal:
        if metadata.get("authorization") not in good:
            raise Unauthenticated("who is calling?")
        return Principal("ada")

    return authenticate


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_credentials_are_asked_for_at_each_attach(serve: Serve, is_async: bool) -> None:
    served = await serve({"echo": echo}, authenticate=guard({"one", "two"}))
    tokens = ["one", "two"]

    def credentials() -> Mapping[str, str]:
        return {"authorization": tokens.pop(0)}

    async def credentials_async() -> Mapping[str, str]:
        await asyncio.sleep(0)
        return credentials()

    async with SessionClient(served.address, credentials=credentials_async if is_async else credentials) as client:
        async with client.open("echo") as session:
            assert tokens == ["two"]
            assert served.only.principal == "ada"
            position = await session.detach()
        async with client.resume(position):
            assert tokens == []


async def test_credentials_that_were_refused_are_asked_for_once_more(serve: Serve) -> None:
    served = await serve({"echo": echo}, authenticate=guard({"fresh"}))
    tokens = ["stale", "fresh"]
    client = SessionClient(served.address, credentials=lambda: {"authorization": tokens.pop(0)})
    async with client, client.open("echo") as session:
        await session.send_event("say", 1)
        assert (await anext(session)).spec == 1
    assert tokens == []


async def test_credentials_that_are_refused_twice_are_refused(serve: Serve) -> None:
    served = await serve({"echo": echo}, authenticate=guard(set()))
    asked: list[int] = []

    def credentials() -> Mapping[str, str]:
        asked.append(1)
        return {"authorization": "bad"}

    async with SessionClient(served.address, credentials=credentials, retry=QUICK) as client:
        with pytest.raises(SessionRefused, match="UNAUTHENTICATED"):
            await client.open("echo").__aenter__()
    # A third time where a refusal overtook the open: grpc.aio then reports INTERNAL, a broken stream like any other.
    assert 2 <= len(asked) <= 3


@pytest.mark.parametrize("error", [ZeroDivisionError("broken"), asyncio.CancelledError()])
async def test_credentials_that_fail_end_the_session_with_their_error(serve: Serve, error: BaseException) -> None:
    served = await serve({"echo": echo})

    async def credentials() -> Mapping[str, str]:
        raise error

    async with SessionClient(served.address, credentials=credentials) as client:
        with pytest.raises(SessionLost, match="credentials") as caught:
            await client.open("echo").__aenter__()
        assert caught.value.__cause__ is error
        assert client_tasks() == []


@pytest.mark.parametrize("metadata", [{"n": 5}, "text", None, {1: "x"}])
async def test_credentials_that_are_no_metadata_are_an_error_that_says_so(serve: Serve, metadata: Any) -> None:
    served = await serve({"echo": echo})
    async with SessionClient(served.address, credentials=lambda: metadata, retry=QUICK) as client:
        with pytest.raises(SessionLost, match="credentials"):
            await client.open("echo").__aenter__()
        assert client_tasks() == []


# --- the hook ---------------------------------------------------------------------------------------------------------


async def test_the_hook_is_told_of_the_attachment_and_what_it_raises_harms_nothing(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve({"echo": echo})
    seen: list[session_client.Attachment] = []

    def hook(change: session_client.Attachment) -> None:
        seen.append(change)
        raise ZeroDivisionError

    async with SessionClient(served.address, on_attachment=hook) as client, client.open("echo") as session:
        await session.send_event("say", 1)
        assert (await anext(session)).spec == 1
    assert [(change.session, change.state) for change in seen] == [(session, AttachmentState.ATTACHED)]
    assert "ZeroDivisionError" in caplog.text


# --- what is left -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resumable", [True, False], ids=["resumable", "plain"])
async def test_closing_the_client_leaves_its_sessions_and_comes_back_to_none(serve: Serve, resumable: bool) -> None:
    served = await serve({"echo": echo})
    client = SessionClient(served.address, retry=QUICK)
    session = client.open("echo", resumable=resumable)
    await session.__aenter__()
    reading = asyncio.ensure_future(anext(session))
    await eventually(lambda: session._waiters)
    await client.close()
    with pytest.raises(SessionEnded):
        await reading
    assert client_tasks() == []
    assert not session.attached
    with pytest.raises(SessionEnded):
        await session.send_event("say", 1)
    with pytest.raises(SessionEnded):
        await client.open("echo").__aenter__()
    await client.close()
    if resumable:
        await eventually(lambda: served.only.stream is None)
        assert not served.only.session.closed()
    else:
        await eventually(lambda: not served.sessions)


async def test_a_client_leaves_no_task_no_socket_and_no_warning_behind(serve: Serve) -> None:
    served = await serve({"echo": echo})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for resumable in (True, False):
            async with SessionClient(served.address) as client, client.open("echo", resumable=resumable) as session:
                await session.send_event("say", 1)
                await anext(session)
            assert client_tasks() == []
            del client, session
        gc.collect()
    await eventually(lambda: not served.sessions)


async def test_a_client_that_was_never_used_is_closed_all_the_same() -> None:
    async with SessionClient("127.0.0.1:1") as client:
        client.open("echo")
    await client.close()


async def test_a_unix_socket_is_an_address_too(tmp_path: Path) -> None:
    server = Server({"echo": echo}, Config(listen=f"unix:{tmp_path}/socket"))
    address = await server.start()
    try:
        async with SessionClient(address) as client, client.open("echo") as session:
            await session.send_event("say", 1)
            assert (await anext(session)).spec == 1
        assert session.closed is not None
        assert session.closed.reason is CloseReason.CLIENT
    finally:
        await server.drain(0)


async def test_no_proxy_is_asked_for_an_address_of_this_machine(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = await serve({"echo": echo})
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    for target in (served.address, f"dns:///{served.address}"):
        async with SessionClient(target, retry=QUICK) as client, client.open("echo") as session:
            assert session.id
