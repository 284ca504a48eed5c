"""The messages of `typed`, generated from ``protos/session_service/examples/v1`` by ``make generate``."""
