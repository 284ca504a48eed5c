"""The protocol, generated from ``protos/session_service/v1`` by ``make generate``."""
