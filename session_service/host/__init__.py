"""What outlives a stream: the sessions of one server, with what is known of them; knows no gRPC."""

from __future__ import annotations
