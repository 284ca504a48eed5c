"""Which addresses others can reach."""

from __future__ import annotations

import pytest

from session_service.address import is_local


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1:1", "127.1.2.3:0", "localhost:1", "[::1]:1"),
        *("unix:/run/socket", "unix:///run/socket", "unix-abstract:name"),
        *("dns:///localhost:1", "dns:localhost:1", "dns://192.0.2.1/localhost:1", "ipv4:127.0.0.1:1", "ipv6:[::1]:1"),
    ],
)
def test_only_this_machine_reaches_these(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1", "example.org:1", "localhost.example.org:1"),
        *("dns:///example.org:1", "dns://127.0.0.1/example.org:1", "ipv4:192.0.2.1:1", "xds:///localhost:1"),
    ],
)
def test_others_reach_these(address: str) -> None:
    assert not is_local(address)
