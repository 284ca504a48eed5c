"""What the server makes of a client's headers: ParseSessionInfo, and `session.info` in an app."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from session_service import SessionInfo, get_current_session
from session_service.v1 import info_pb2

from .peer import PATIENCE, Serve, Service

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 16_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/16.3 Mobile/15E148 Safari/604.1"
)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
METADATA = [
    ("x-user-agent", IPHONE),
    ("accept-language", "de-CH,de;q=0.9,en;q=0.5"),
    ("x-forwarded-host", "app.example.org"),
    ("origin", "https://page.example.com"),
]


async def nothing() -> None:
    pass


async def parse(service: Service, headers: dict[str, str], metadata: Any = ()) -> info_pb2.SessionInfo:
    request = info_pb2.ParseSessionInfoRequest(headers=headers)
    async with asyncio.timeout(PATIENCE):
        response = await service.stub.ParseSessionInfo(request, metadata=tuple(metadata))
    assert response.HasField("info")
    return response.info


def without_peer(info: info_pb2.SessionInfo) -> info_pb2.SessionInfo:
    assert info.peer.startswith("ipv4:127.0.0.1:")
    info.ClearField("peer")
    return info


IPHONE_AGENT = info_pb2.UserAgent(
    text=IPHONE,
    browser="Mobile Safari",
    browser_version="16.3",
    os="iOS",
    os_version="16.3",
    device="iPhone",
    device_brand="Apple",
    device_model="iPhone",
    mobile=True,
    touch=True,
)


# --- ParseSessionInfo -------------------------------------------------------------------------------------------------


async def test_headers_of_any_case_are_parsed(serve: Serve) -> None:
    service = await serve({"nothing": nothing})
    headers = {
        "USER-AGENT": IPHONE,
        "Accept-Language": "fr;q=0.8, en-GB",
        "host": "example.org:8080",
        "Origin": "http://elsewhere.example.org:8080",
        "X-Unknown": "is ignored",
    }
    assert without_peer(await parse(service, headers)) == info_pb2.SessionInfo(
        user_agent=IPHONE_AGENT,
        user_language="en-GB",
        server_host="example.org:8080",
        origin="http://elsewhere.example.org:8080",
    )


async def test_without_headers_the_metadata_are_parsed(serve: Serve) -> None:
    service = await serve({"nothing": nothing})
    assert without_peer(await parse(service, {}, METADATA)) == info_pb2.SessionInfo(
        user_agent=IPHONE_AGENT,
        user_language="de-CH",
        server_host="app.example.org",
        origin="https://page.example.com",
    )


async def test_with_headers_the_metadata_do_not_count(serve: Serve) -> None:
    service = await serve({"nothing": nothing})
    info = await parse(service, {"User-Agent": FIREFOX}, METADATA)
    assert info.user_agent.browser == "Firefox"
    assert info.user_agent.pc
    assert (info.user_language, info.server_host, info.origin) == ("", "", "")


async def test_without_anything_the_user_agent_is_the_grpc_library_and_the_rest_empty(serve: Serve) -> None:
    service = await serve({"nothing": nothing})
    info = await parse(service, {})
    assert info.user_agent.text.startswith("grpc-python-asyncio/")
    assert (info.user_language, info.server_host, info.origin) == ("", "", "")


async def test_the_host_of_the_metadata_counts_where_nothing_was_forwarded(serve: Serve) -> None:
    service = await serve({"nothing": nothing})
    metadata = [("host", "example.org"), ("origin", "https://example.org")]
    info = await parse(service, {}, metadata)
    assert (info.server_host, info.origin) == ("example.org", "")
    info = await parse(service, {}, [*metadata, ("x-forwarded-host", "proxy.example.org")])
    assert (info.server_host, info.origin) == ("proxy.example.org", "https://example.org")


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        ("https://example.org", "example.org", ""),
        ("https://example.org", "example.org:443", ""),
        ("https://example.org:443", "example.org", ""),
        ("http://example.org", "example.org:80", ""),
        ("http://example.org", "example.org:443", "http://example.org"),
        ("https://example.org:8443", "example.org", "https://example.org:8443"),
        ("https://EXAMPLE.org", "example.ORG", ""),
        ("https://[::1]:8080", "[::1]:8080", ""),
        ("https://other.org", "", "https://other.org"),
        ("null", "example.org", "null"),
        ("tauri://localhost", "localhost", "tauri://localhost"),
        ("https://[half", "example.org", ""),
        ("https://example.org:port", "example.org", ""),
        ("", "example.org", ""),
    ],
)
async def test_an_origin_is_told_only_when_it_is_not_under_the_host(
    serve: Serve, origin: str, host: str, expected: str
) -> None:
    service = await serve({"nothing": nothing})
    info = await parse(service, {"Origin": origin, "Host": host})
    assert (info.origin, info.server_host) == (expected, host)


@pytest.mark.parametrize("text", ["x" * 200_000, "Mozilla/5.0 (" * 20_000, "\x00grüße", "VLC/3.0.²", ""])
async def test_a_hostile_user_agent_is_cut_and_no_error(serve: Serve, text: str) -> None:
    service = await serve({"nothing": nothing})
    info = await parse(service, {"User-Agent": text})
    assert info.user_agent.text == text[:512]


async def test_a_request_that_cannot_be_decoded_is_refused(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    service = await serve({"nothing": nothing})
    parse_bytes: Any = service.channel.unary_unary("/session_service.v1.SessionService/ParseSessionInfo")
    call = parse_bytes(b"\xff\xff")
    async with asyncio.timeout(PATIENCE):
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


# --- session.info -----------------------------------------------------------------------------------------------------


class Told:
    """An app that tells its session's info at each attach."""

    def __init__(self) -> None:
        self.infos: asyncio.Queue[SessionInfo] = asyncio.Queue()

    async def app(self) -> None:
        session = get_current_session()

        @session.on_attach
        def attached(session: Any, resumed: bool) -> None:
            self.infos.put_nowait(session.info)

        await session.next_client_event()

    async def next(self) -> SessionInfo:
        async with asyncio.timeout(PATIENCE):
            return await self.infos.get()


async def test_an_app_sees_the_headers_of_open(serve: Serve) -> None:
    told = Told()
    service = await serve({"app": told.app})
    headers = {"User-Agent": IPHONE, "Accept-Language": "fr-CA", "Host": "example.org", "Origin": "https://else.org"}
    await service.open("app", headers=headers, metadata=METADATA)
    info = await told.next()
    assert info.user_agent.browser.family == "Mobile Safari"
    assert info.user_agent.is_mobile
    assert (info.user_language, info.server_host, info.origin) == ("fr-CA", "example.org", "https://else.org")
    assert info.peer.startswith("ipv4:127.0.0.1:")


async def test_an_app_sees_the_metadata_where_open_has_no_headers(serve: Serve) -> None:
    told = Told()
    service = await serve({"app": told.app})
    await service.open("app", metadata=METADATA)
    info = await told.next()
    assert info.user_agent_text == IPHONE
    assert (info.user_language, info.server_host) == ("de-CH", "app.example.org")
    assert info.origin == "https://page.example.com"


async def test_an_app_in_a_thread_sees_it_at_its_start(serve: Serve) -> None:
    languages: list[str] = []

    def app() -> None:
        languages.append(get_current_session().info.user_language)

    service = await serve({"app": app})
    await (await service.open("app", headers={"accept-language": "it"})).receive_all()
    assert languages == ["it"]


async def test_resume_headers_are_read_again_and_what_they_do_not_say_stays(serve: Serve) -> None:
    told = Told()
    service = await serve({"app": told.app})
    peer = await service.open("app", resumable=True, headers={"User-Agent": IPHONE, "Accept-Language": "fr-CA"})
    first = await told.next()
    async with service.connect() as elsewhere:
        again = await elsewhere.resume(peer, headers={"user-agent": FIREFOX, "Host": "example.org"}, metadata=METADATA)
        second = await told.next()
        assert second.user_agent.browser.family == "Firefox"
        assert (second.user_language, second.server_host, second.origin) == ("fr-CA", "example.org", "")
        assert second.peer != first.peer
        await elsewhere.resume(again)
        third = await told.next()
        assert third.user_agent_text == FIREFOX
        assert (third.user_language, third.server_host) == ("fr-CA", "example.org")


async def test_a_resume_without_headers_changes_nothing_but_the_peer(serve: Serve) -> None:
    told = Told()
    service = await serve({"app": told.app})
    peer = await service.open("app", resumable=True, metadata=METADATA)
    first = await told.next()
    await service.resume(peer, metadata=[("accept-language", "pt")])
    second = await told.next()
    assert (second.user_language, second.user_agent_text) == (first.user_language, first.user_agent_text)


async def test_a_hook_in_a_thread_sees_the_headers_of_the_attachment_that_it_is_called_for(serve: Serve) -> None:
    languages: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def app() -> None:
        session = get_current_session()
        session.on_attach(
            lambda session, _: loop.call_soon_threadsafe(languages.put_nowait, session.info.user_language)
        )
        session.next_client_event()

    service = await serve({"app": app})
    peer = await service.open("app", resumable=True, headers={"accept-language": "de-x-0"})
    async with asyncio.timeout(PATIENCE):
        assert await languages.get() == "de-x-0"
        for n in range(1, 30):
            peer = await service.resume(peer, headers={"accept-language": f"de-x-{n}"})
            assert await languages.get() == f"de-x-{n}"


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_a_session_does_not_grow_by_the_headers_of_its_resumes(serve: Serve) -> None:
    told = Told()
    service = await serve({"app": told.app})
    peer = await service.open("app", resumable=True, headers={"User-Agent": IPHONE, "Cookie": "secret"})
    assert set((await told.next()).headers) == {"user-agent"}
    for number in range(20):
        junk = {f"X-{number}-{n}": "x" * 10_000 for n in range(20)}
        peer = await service.resume(
            peer, headers={**junk, "Host": "h" * 1_000_000, "Accept-Language": f"de-x-{number}"}
        )
        info = await told.next()
        assert info.headers == {"user-agent": IPHONE, "accept-language": f"de-x-{number}"}
        assert (info.server_host, info.user_language) == ("", f"de-x-{number}")


async def test_neither_credentials_nor_cookies_reach_an_app(serve: Serve) -> None:
    told = Told()
    service = await serve({"app": told.app})
    secrets = {
        "Authorization": "Bearer secret",
        "Cookie": "secret=1",
        "X-Api-Key": "secret",
        "Proxy-Authorization": "s",
    }
    await service.open("app", headers={**secrets, "Host": "example.org"})
    assert (await told.next()).headers == {"host": "example.org"}
    await service.open("app", metadata=[(name.lower(), text) for name, text in {**secrets, "host": "a.org"}.items()])
    assert set((await told.next()).headers) == {"user-agent", "host"}


async def test_a_megabyte_of_anything_leaves_its_field_empty(serve: Serve) -> None:
    service = await serve({"nothing": nothing})
    names = ("Accept-Language", "Host", "Origin", "X-Forwarded-Host", "Forwarded", "X-User-Agent")
    for letter in ("x", "\u20ac"):
        info = await parse(service, dict.fromkeys(names, letter * 100_000))
        assert (info.user_language, info.server_host, info.origin) == ("", "", "")
        assert info.user_agent.text == letter * 512


async def test_gRPC_Web_does_not_hide_the_browser(serve: Serve) -> None:
    service = await serve({"nothing": nothing})
    headers = {"user-agent": FIREFOX, "x-user-agent": "grpc-web-javascript/0.1"}
    assert (await parse(service, headers)).user_agent.browser == "Firefox"
    assert (await parse(service, {}, [("x-user-agent", FIREFOX)])).user_agent.browser == "Firefox"
    assert (await parse(service, {}, [("x-user-agent", "VLC/3.0.16")])).user_agent.text == "VLC/3.0.16"
