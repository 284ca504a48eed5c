"""What a client's headers say (docs/design.md: the session information)."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ua_parser
import user_agents

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

# The file says where they are from.
REAL = [line for line in Path(__file__).with_name("user_agents.txt").read_text().splitlines() if line[:1] != "#"]

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
        ("fr, en", "fr"),
        ("zh-Hant-TW ;q=1", "zh-Hant-TW"),
        ("x-klingon", "x-klingon"),
        ("i-navajo", "i-navajo"),
        pytest.param("", "", id="none"),
        pytest.param(",en", "en", id="an empty element first"),
        pytest.param(" , ,\t fr ", "fr", id="spaces, tabs and empty elements"),
        pytest.param(";q=1", "", id="no language"),
        pytest.param("de;q=0.8,en", "en", id="a higher weight later"),
        pytest.param("de;q=0.8, en;q=0.8", "de", id="equal weights"),
        pytest.param("en ; Q = 0.5 ,de;q=0.600", "de", id="spaces around weights"),
        pytest.param("en;q=0, de;q=0.001", "de", id="not acceptable, says q=0"),
        pytest.param("en;q=0.000", "", id="nothing is acceptable"),
        pytest.param("en;q=1.5, fr;q=0.1", "fr", id="a weight above 1"),
        pytest.param("en;q=-1, fr;q=0.1", "fr", id="a weight below 0"),
        pytest.param("en;q=nan, de;q=inf, fr;q=0.1", "fr", id="weights that are none"),
        pytest.param("en;level=1;q=0.1, fr;q=0.2", "fr", id="other parameters"),
        pytest.param("*", "", id="any"),
        pytest.param("*;q=1, fr;q=0.5", "fr", id="any, or rather one"),
        pytest.param("de-*-DE, fr;q=0.5", "fr", id="a range that is no tag"),
        pytest.param("a;b c,d", "a", id="parameters that are none"),
        pytest.param("a b;c,fr", "fr", id="a space in a language"),
        pytest.param("<script>, ../../etc, 1337, en_GB, de", "de", id="no tags"),
        pytest.param("\u0434\u0435, de-\u0660", "", id="letters and digits of other scripts"),
        pytest.param("abcdefghi, de-abcdefghi", "", id="subtags that are too long"),
        pytest.param("en" + "-abcdefgh" * 1000 + ", fr", "", id="a tag without end"),
        pytest.param("xx;q=0.1," * 100_000 + "fr", "xx", id="a megabyte"),
        pytest.param("\x00en", "", id="a control character"),
    ],
)
def test_the_language_is_the_tag_of_the_highest_weight(header: str, language: str) -> None:
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
        pytest.param("wss://example.org", "example.org:443", id="the default port of wss"),
        pytest.param("ws://example.org:80", "example.org", id="the default port of ws"),
        pytest.param(" https://example.org\t", " example.org ", id="spaces"),
        pytest.param("https://example.org, https://example.org", "example.org", id="joined values"),
        pytest.param("https://example.org", "example.org, proxy.internal", id="joined hosts"),
        pytest.param("https://example.org", "example.org.", id="the host ends with the dot of the root"),
        pytest.param("https://example.org.", "example.org", id="the page ends with the dot of the root"),
        pytest.param("http://[2001:db8:0:0::1]", "[2001:0db8::1]", id="an IPv6 address written in two ways"),
        pytest.param("https://xn--mnchen-3ya.example", "m\xfcnchen.example", id="a host in letters"),
        pytest.param("https://M\xdcNCHEN.example", "xn--mnchen-3ya.example", id="a page in capital letters"),
        pytest.param("https://example.org:", "example.org", id="an empty port"),
        pytest.param("https://under_score.example", "under_score.example", id="a name that is no host name"),
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
        pytest.param("tauri://localhost", "localhost", id="an app on the user's machine, and a server there"),
        pytest.param("chrome-extension://abcdef", "abcdef", id="an extension"),
        pytest.param("capacitor://localhost:8080", "localhost:8080", id="an app on a telephone"),
        pytest.param("file://", "", id="a file"),
        pytest.param("file://", "example.org", id="a file, and a host"),
        pytest.param("null", "example.org", id="a page that hides where it is from"),
        pytest.param("null", "", id="a page that hides, and no host"),
        pytest.param("null", "null", id="a page that hides, and a host of that name"),
        pytest.param("wss://example.org", "example.org:80", id="the default port of ws for wss"),
        pytest.param("https://example.org", "exa mple.org", id="a host that is none"),
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
        "",
        " ",
        "other.org",
        "//other.org",
        "https://",
        "https://:443",
        "https:///path",
        "https://other.org:port",
        "https://other.org:0",
        "https://other.org:65536",
        "https://other.org:+80",
        "https://other.org:\u0668\u0660",
        "https://other.org:99999",
        "https://other.org:-1",
        "https://[::1",
        "https://[other.org]",
        "https://other\u2100.org",
        "https://oth\x00er.org",
        "https://oth\\er.org",
        "https://-\xad-" + "a" * 300,
        "\x00",
        ":",
        "x" * 200_000,
    ],
    ids=lambda page: repr(page)[:30],
)
def test_an_origin_that_makes_no_sense_is_empty(page: str) -> None:
    assert origin(page, "example.org") == ""


def test_of_joined_origins_the_first_that_is_foreign_counts() -> None:
    assert origin("https://example.org, https://other.org https://third.org", "example.org") == "https://other.org"
    assert origin("https://example.org, null", "example.org") == "null"


# --- server_host ---


@pytest.mark.parametrize(
    ("headers", "host"),
    [
        ({"Host": "example.org:8080"}, "example.org:8080"),
        ({"Host": " [::1]:8080 "}, "[::1]:8080"),
        ({":authority": "example.org"}, "example.org"),
        ({"Host": "inner", "X-Forwarded-Host": "outer.org"}, "outer.org"),
        ({"Host": "inner", "X-Forwarded-Host": "outer.org:8443, proxy.internal"}, "outer.org:8443"),
        ({"Host": "inner", "X-Forwarded-Host": ""}, "inner"),
        ({"Host": "inner", "X-Forwarded-Host": "no host at all"}, "inner"),
        ({"Host": "inner", "Forwarded": "host=outer.org"}, "outer.org"),
        (
            {"Host": "inner", "Forwarded": "For=1.2.3.4;HOST=outer.org;proto=https, for=5.6.7.8;host=second"},
            "outer.org",
        ),
        ({"Host": "inner", "Forwarded": 'for="[2001:db8::1]:47011"; host="outer.org:8080"'}, "outer.org:8080"),
        ({"Host": "inner", "Forwarded": 'for=unknown, host="[2001:db8::2]:80"'}, "[2001:db8::2]:80"),
        ({"Host": "inner", "Forwarded": 'for="a;host=evil.org";host="out\\er.org"'}, "outer.org"),
        ({"Host": "inner", "Forwarded": 'for="never closed;host=evil.org'}, "inner"),
        ({"Host": "inner", "Forwarded": "for=1.2.3.4;proto=https"}, "inner"),
        ({"Host": "inner", "Forwarded": "host=;,=, host"}, "inner"),
        ({"Host": "inner", "Forwarded": "for=1;" * 100_000}, "inner"),
        ({"Host": "inner", "Forwarded": "host=second", "X-Forwarded-Host": "outer.org"}, "outer.org"),
        ({"Host": "inner", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "8443"}, "inner"),
    ],
)
def test_the_host_is_what_the_outermost_proxy_was_called(headers: dict[str, str], host: str) -> None:
    assert get_session_info_from_headers(headers).server_host == host


@pytest.mark.parametrize(
    "host",
    [
        *("example.org:port", "example.org:99999", "example.org:65536", "example.org:0", "example.org:-1", ":80"),
        *(
            "[::1",
            "::1",
            "[x]",
            "[::1]x",
            "[fe80::1%eth0]",
            "\u2100",
            "a b",
            "\x00",
            "exam\nple.org",
            "/",
            "a/b",
            "a\\b",
        ),
        *("https://example.org", "user@example.org", "a..b", ".", "a" * 64, "a." * 130 + "org", "x" * 1_000_000),
        *('"', "<b>", "a?b", "a#b", "a%20b", "*", ""),
    ],
    ids=lambda host: repr(host)[:30],
)
def test_a_host_that_is_none_is_empty(host: str) -> None:
    info = get_session_info_from_headers({"Host": host, "Origin": "https://other.org"})
    assert (info.server_host, info.origin) == ("", "https://other.org")


# --- user_agent ---


def test_a_user_agent_is_cut_at_512_characters_before_it_is_parsed() -> None:
    hostile = "Mozilla/5.0 (" + "Android " * 25_000
    info = get_session_info_from_headers({"User-Agent": hostile})
    assert info.user_agent_text == hostile[:512]
    assert info.user_agent.ua_string == hostile[:512]


@pytest.mark.parametrize("real", [*REAL, FIREFOX, IPHONE, "curl/8.5.0", ""])
def test_a_user_agent_is_what_the_package_user_agents_says(real: str) -> None:
    agent, expected = get_session_info_from_headers({"User-Agent": real}).user_agent, user_agents.parse(real)
    assert isinstance(agent, user_agents.parsers.UserAgent)
    assert vars(agent) == vars(expected)
    assert str(agent) == str(expected)


@pytest.mark.parametrize(
    "text",
    [
        *("VLC/3.0.\xb2", "VLC/\xb3.\xb9.\xb2 LibVLC/3", "Firefox/\u0968.\u2460", "Mozilla/5.0 (Android \xb2; Mobile)"),
        *("Chrome/" + "9" * 500, "\ud800", "\x00", "\n", "(" * 512, "$1 $2 \\1", "{}%s", "\u202e", "\U0001f600" * 512),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_every_user_agent_gets_an_answer_and_keeps_its_text(text: str) -> None:
    info = get_session_info_from_headers({"User-Agent": text})
    agent = info.user_agent
    assert info.user_agent_text == agent.ua_string == text
    assert str(agent)
    for family in (agent.browser.family, agent.os.family, agent.device.family):
        assert family
    assert {agent.is_mobile, agent.is_tablet, agent.is_pc, agent.is_touch_capable, agent.is_bot} <= {True, False}


def test_a_user_agent_that_cannot_be_parsed_is_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: str) -> None:
        raise RecursionError(text)

    monkeypatch.setattr(ua_parser, "parse", fail)
    agent = get_session_info_from_headers({"User-Agent": FIREFOX}).user_agent
    assert (agent.browser.family, agent.os.family, agent.device.family) == ("Other", "Other", "Other")
    assert (agent.browser.version_string, agent.os.version_string, agent.ua_string) == ("", "", FIREFOX)


@pytest.mark.parametrize(
    "library",
    [
        *("grpc-web-javascript/0.1", "grpc-node-js/1.12.6", "grpc-python/1.76.0 grpc-c/49.0.0 (linux; chttp2)"),
        *("connect-es/2.0.0", "@connectrpc/connect-web", "grpcurl/v1.9.1 grpc-go/1.57.0", "tonic/0.12", ""),
    ],
)
def test_a_library_never_hides_the_browser(library: str) -> None:
    def agent(headers: dict[str, str]) -> str:
        return get_session_info_from_headers(headers).user_agent_text

    for text in (FIREFOX, "VLC/3.0", "MyApp/1.0"):
        assert agent({"User-Agent": text, "X-User-Agent": library}) == text
        assert agent({"User-Agent": library, "X-User-Agent": text}) == text
    assert agent({"User-Agent": library}) == agent({"X-User-Agent": library}) == library
    assert agent({"User-Agent": "some-library/1", "X-User-Agent": FIREFOX}) == FIREFOX
    assert agent({"User-Agent": FIREFOX, "X-User-Agent": "some-library/1"}) == FIREFOX
    known = get_session_info_from_headers({"User-Agent": FIREFOX})
    assert known.updated({"X-User-Agent": library, "User-Agent": library}).user_agent_text == FIREFOX
    assert known.updated({"X-User-Agent": "curl/8.5.0"}).user_agent_text == "curl/8.5.0"


# --- headers ---


def test_only_the_headers_that_count_are_kept() -> None:
    secrets = {"Cookie": "secret", "Authorization": "secret", "X-Api-Key": "secret", "X-Forwarded-Host": "outer.org"}
    info = get_session_info_from_headers({**HEADERS, **secrets})
    assert info.headers == {
        "user-agent": FIREFOX,
        "accept-language": HEADERS["Accept-Language"],
        "host": "outer.org",
        "origin": HEADERS["Origin"],
    }


@pytest.mark.parametrize("letter", ["x", "\xe9", "\u20ac", "\U0001f600"], ids=ascii)
def test_headers_take_16_kib_at_most_whatever_comes(letter: str) -> None:
    names = [*HEADERS, "X-User-Agent", "X-Forwarded-Host", "Forwarded", "X-Forwarded-For", "Cookie", letter]
    for size in (200, 250, 500, 512, 999, 1000, 1999, 2000, 4000, 1_000_000):
        info = get_session_info_from_headers(dict.fromkeys(names, letter * size), "unix:")
        for attach in range(3):
            info = info.updated({f"X-{attach}": letter * size, **dict.fromkeys(names, f"{letter * size}.{attach}")})
        texts = [*info.headers, *info.headers.values()]
        assert sum(len(text.encode()) for text in texts) <= 16 * 1024
        assert len((info.user_agent_text + info.user_language + info.server_host + info.origin).encode()) <= 16 * 1024


def test_of_many_languages_those_that_are_kept_are_whole() -> None:
    languages = "fr;q=0.1, " * 200
    assert (
        get_session_info_from_headers({"Accept-Language": languages + "de"}).headers["accept-language"]
        == languages[:1999].rpartition(",")[0]
    )


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


@pytest.mark.parametrize(("module", "loaded"), [("session_service", False), ("session_service.server", True)])
def test_a_server_loads_the_rules_for_user_agents_before_it_serves_and_a_client_never(
    module: str, loaded: bool
) -> None:
    code = f"import sys, {module}; print('parser' in vars(sys.modules.get('ua_parser', sys)))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout == f"{loaded}\n"
