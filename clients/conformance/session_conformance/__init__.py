"""The conformance kit of session-service: is this a client, is this a server, of the protocol in docs/protocol.md?"""

import os

# gRPC writes a line to stderr for each connection that a client ends in its own way. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
