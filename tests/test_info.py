"""What a client's headers say (docs/design.md: the session information)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from session_service import SessionInfo, get_session_info_from_headers

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)

HEADERS = {
    "User-Agent": FIREFOX,
    "Accept-Language": "de-CH,de;q=0.9,en;q=0.5",
    "Host": "api.example.org",
    "Origin": "https://www.example.org",
}

copies: dict[str, Callable[[SessionInfo], SessionInfo]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda info: pickle.loads(pickle.dumps(info)),
}


def origin(page: str, host: str) -> str:
    return get_session_info_from_headers({"Origin": page, "Host": host}).origin


def test_headers_say_who_is_at_the_other_end() -> None:
    info = get_session_info_from_headers(HEADERS, peer="ipv4:192.0.2.1:50722")
    assert info.user_agent.browser.family == "Firefox"
    assert info.user_agent.is_pc
    assert info.user_language == "de-CH"
    assert info.server_host == "api.example.org"
    assert info.origin == "https://www.example.org"
    assert info.peer == "ipv4:192.0.2.1:50722"


@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase])
def test_names_of_headers_are_case_insensitive(change: Callable[[str], str]) -> None:
    changed = get_session_info_from_headers({change(name): value for name, value in HEADERS.items()})
    assert changed == get_session_info_from_headers(HEADERS)


def test_absent_headers_give_empty_values() -> None:
    info = get_session_info_from_headers({})
    assert (info.user_language, info.server_host, info.origin, info.peer) == ("", "", "", "")
    assert info.user_agent.ua_string == ""
    assert info.user_agent.browser.family == "Other"
    assert info == SessionInfo()


# --- user_language ---


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("en", "en"),
        ("en-GB,en;q=0.9", "en-GB"),
        ("de;q=0.8,en", "de"),
        ("fr, en", "fr"),
        ("zh-Hant-TW ;q=1", "zh-Hant-TW"),
        ("*", "*"),
        ("", ""),
        (",en", ""),
        (";q=1", ""),
        ("a;b c,d", "a"),
        ("a b;c,d", "a"),
    ],
)
def test_the_language_is_what_stands_before_the_first_comma_space_or_semicolon(header: str, language: str) -> None:
    assert get_session_info_from_headers({"Accept-Language": header}).user_language == language


# --- origin ---


@pytest.mark.parametrize(
    ("page", "host"),
    [
        pytest.param("https://example.org", "example.org", id="same"),
        pytest.param("https://example.org:8443", "example.org:8443", id="same port"),
        pytest.param("https://example.org", "example.org:443", id="the host names the default port of https"),
        pytest.param("https://example.org:443", "example.org", id="the page names the default port of https"),
        pytest.param("http://example.org", "example.org:80", id="the host names the default port of http"),
        pytest.param("http://example.org:80", "example.org", id="the page names the default port of http"),
        pytest.param("HTTPS://Example.ORG", "exaMple.org", id="case"),
        pytest.param("http://[::1]:8080", "[::1]:8080", id="IPv6"),
        pytest.param("http://[2001:DB8::1]", "[2001:db8::1]:80", id="IPv6 with the default port"),
        pytest.param("https://user:secret@example.org", "example.org", id="userinfo"),
    ],
)
def test_a_page_under_the_server_s_host_has_no_origin(page: str, host: str) -> None:
    assert origin(page, host) == ""


@pytest.mark.parametrize(
    ("page", "host"),
    [
        pytest.param("https://other.org", "example.org", id="another host"),
        pytest.param("https://example.org.evil.org", "example.org", id="the host as a prefix"),
        pytest.param("https://evil-example.org", "example.org", id="the host as a suffix"),
        pytest.param("https://example.org", "www.example.org", id="a parent domain"),
        pytest.param("https://example.org:8443", "example.org", id="another port"),
        pytest.param("https://example.org", "example.org:80", id="the default port of another scheme"),
        pytest.param("http://example.org", "example.org:443", id="the default port of another scheme, the other way"),
        pytest.param("http://[::1]:8080", "[::1]:9090", id="IPv6 with another port"),
        pytest.param("http://[::1]", "[::2]", id="another IPv6 address"),
        pytest.param("https://example.org", "", id="no host"),
        pytest.param("app://example.org:1", "example.org", id="a scheme without a default port"),
    ],
)
def test_a_page_from_elsewhere_has_its_scheme_host_and_port_as_origin(page: str, host: str) -> None:
    assert origin(page, host) == page


@pytest.mark.parametrize(
    "page", ["https://user:secret@other.org:8443", "https://a@b@other.org:8443", "https://other.org:8443/path?q#f"]
)
def test_an_origin_is_scheme_host_and_port_and_nothing_else(page: str) -> None:
    assert origin(page, "example.org") == "https://other.org:8443"


def test_a_host_in_the_userinfo_does_not_make_a_page_one_of_ours() -> None:
    assert origin("https://example.org@evil.org", "example.org") == "https://evil.org"


@pytest.mark.parametrize(
    "page",
    [
        "null",
        "",
        " ",
        "other.org",
        "//other.org",
        "https://",
        "https://:443",
        "https:///path",
        "file://",
        "https://other.org:port",
        "https://other.org:99999",
        "https://other.org:-1",
        "https://[::1",
        "https://[other.org]",
        "https://other\u2100.org",
        "\x00",
        ":",
        "x" * 200_000,
    ],
    ids=lambda page: repr(page)[:30],
)
def test_an_origin_that_makes_no_sense_is_empty(page: str) -> None:
    assert origin(page, "example.org") == ""


@pytest.mark.parametrize("host", ["example.org:port", "example.org:99999", "[::1", "[x]", "\u2100", "a b", "\x00", "/"])
def test_a_host_that_makes_no_sense_is_no_error(host: str) -> None:
    info = get_session_info_from_headers({"Host": host, "Origin": "https://other.org"})
    assert info.server_host == host
    assert info.origin in {"", "https://other.org"}


# --- user_agent ---


def test_a_user_agent_is_cut_at_2_kib_before_it_is_parsed() -> None:
    hostile = "Mozilla/5.0 (" + "Android " * 25_000
    info = get_session_info_from_headers({"User-Agent": hostile})
    assert info.user_agent_text == hostile[:2048]
    assert info.user_agent.ua_string == hostile[:2048]


def test_a_user_agent_of_2_kib_is_not_cut() -> None:
    assert get_session_info_from_headers({"User-Agent": "x" * 2048}).user_agent_text == "x" * 2048


def test_a_user_agent_is_parsed_once_and_only_when_it_is_read() -> None:
    info = get_session_info_from_headers(HEADERS)
    assert "user_agent" not in vars(info)
    assert info.user_agent is info.user_agent


@pytest.mark.parametrize("read", [False, True], ids=["before user_agent was read", "after user_agent was read"])
@pytest.mark.parametrize("duplicate", copies.values(), ids=copies)
def test_a_copy_says_the_same(duplicate: Callable[[SessionInfo], SessionInfo], read: bool) -> None:
    info = get_session_info_from_headers(HEADERS, peer="unix:")
    if read:
        assert info.user_agent.browser.family == "Firefox"
    duplicated = duplicate(info)
    assert duplicated is not info
    assert duplicated == info
    assert (duplicated.headers, duplicated.peer) == (info.headers, "unix:")
    assert duplicated.user_agent.browser.family == "Firefox"


@pytest.mark.parametrize("read", [False, True], ids=["before user_agent was read", "after user_agent was read"])
def test_asking_for_what_is_not_there_is_no_more_than_a_no(read: bool) -> None:
    info = get_session_info_from_headers(HEADERS)
    if read:
        assert info.user_agent
    assert not hasattr(info, "nothing")
    assert not hasattr(info, "__fspath__")
    assert hasattr(info, "user_agent")
    assert not hasattr(SessionInfo.__new__(SessionInfo), "nothing")


def test_information_cannot_be_changed() -> None:
    info = get_session_info_from_headers(HEADERS)
    with pytest.raises(AttributeError):
        info.origin = "https://evil.org"  # type: ignore[misc] # that it is refused is the point


def test_headers_that_change_later_change_nothing() -> None:
    headers = dict(HEADERS)
    info = get_session_info_from_headers(headers)
    headers["Host"] = "changed.example.org"
    assert info.headers["host"] == "api.example.org"
    assert info == get_session_info_from_headers(HEADERS)


# --- updated ---


def test_an_attach_brings_new_information() -> None:
    info = get_session_info_from_headers(HEADERS, peer="ipv4:192.0.2.1:1")
    assert info.user_agent.is_pc
    updated = info.updated({"USER-AGENT": IPHONE, "accept-language": "en"}, peer="ipv4:192.0.2.2:2")
    assert updated.user_agent.device.family == "iPhone"
    assert updated.user_language == "en"
    assert updated.peer == "ipv4:192.0.2.2:2"


def test_what_an_attach_does_not_say_stays_as_it_was_known() -> None:
    info = get_session_info_from_headers(HEADERS, peer="ipv4:192.0.2.1:1")
    assert info.updated({}) == info
    updated = info.updated({"accept-language": "en"})
    assert updated.user_language == "en"
    assert (updated.server_host, updated.origin, updated.user_agent_text, updated.peer) == (
        info.server_host,
        info.origin,
        info.user_agent_text,
        info.peer,
    )


def test_an_origin_is_judged_by_the_host_that_was_known() -> None:
    info = get_session_info_from_headers({"Host": "example.org"})
    assert info.updated({"Origin": "https://example.org"}).origin == ""
    assert info.updated({"Origin": "https://other.org"}).origin == "https://other.org"


def test_an_update_leaves_what_it_came_from_alone() -> None:
    info = get_session_info_from_headers(HEADERS)
    info.updated({"Host": "other.example.org"})
    assert info == get_session_info_from_headers(HEADERS)
