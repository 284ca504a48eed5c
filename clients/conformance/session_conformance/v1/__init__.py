"""How the runner talks to a client under test; generated from protos/session_service/conformance/v1."""
