"""Settings that a server refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest

from session_service import Window
from session_service.config import Config


@pytest.mark.parametrize(
    "settings",
    [
        {"tls_cert": "cert.pem"},
        {"tls_key": "key.pem"},
        {"tls_client_ca": "ca.pem"},
        {"token_file": "tokens", "jwt_keys": "keys", "jwt_issuer": "issuer", "jwt_audience": "here"},
        {"jwt_keys": "keys"},
        {"jwt_keys": "keys", "jwt_issuer": "issuer"},
        {"jwt_keys": "keys", "jwt_audience": "here"},
        {"jwt_issuer": "issuer", "jwt_audience": "here"},
        {"max_sessions": 0},
        {"max_principal_sessions": -1},
        {"principal_open_rate": -0.1},
        {"principal_open_rate": math.nan},
        {"principal_event_rate": math.inf},
        {"max_connection_streams": 0},
        {"max_connection_streams": 2**31},
        {"max_threads": -1},
        {"session_lifetime": -1.0},
        {"session_lifetime": math.nan},
        {"idle_timeout": math.inf},
        {"deferred_timeout": 0.0},
        {"block_warning": 0.0},
        {"max_message_bytes": 65535},
        {"max_metadata_bytes": 4095},
        {"max_metadata_bytes": 2**31},
        {"max_message_bytes": 2**31},
        {"event_window": Window(15, 1 << 20)},
        {"event_window": Window(1024, 65535)},
        {"command_window": Window(0, 1)},
        {"command_window": Window(1, 0)},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_meant_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=" "):
        Config(**settings)


def test_what_is_off_by_default() -> None:
    config = Config()
    assert (config.insecure, config.debug) == (False, False)
    assert not any((config.tls_cert, config.tls_client_ca, config.token_file, config.jwt_keys))
    assert (config.max_principal_sessions, config.principal_open_rate, config.principal_event_rate) == (0, 0, 0)
    assert (config.session_lifetime, config.idle_timeout) == (0, 0)
