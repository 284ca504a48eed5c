"""Takes a file in pieces, as bytes, and says what it has: an upload, written as a plain function in a thread."""

import hashlib
import tempfile
from typing import IO, Any

from session_service import get_current_session

__all__ = ["upload"]

LARGEST = 1 << 30


def upload() -> None:
    """Store the ``chunk`` events up to ``end``, and answer with ``stored``, or at the first fault with ``refused``.

    The client may open it with the ``sha256`` that the file shall have.
    """
    session = get_current_session()
    with tempfile.TemporaryFile() as file:
        try:
            stored = receive(file, session.params.get("sha256"))
        except ValueError as fault:
            session.send_task_command({"command": "refused", "spec": str(fault)})
        else:
            session.send_task_command({"command": "stored", "spec": stored})


def receive(file: IO[bytes], expected: object) -> dict[str, Any]:
    """Write the chunks; return the size and the digest of all of them."""
    session = get_current_session()
    digest, size = hashlib.sha256(), 0
    # Nothing is done for backpressure: while this thread writes it takes no event, so the window fills, and the client
    # waits.
    while (event := session.next_client_event())["event"] != "end":
        chunk = event["data"]
        if not isinstance(chunk, bytes):
            raise ValueError("a chunk is bytes")
        size += len(chunk)
        if size > LARGEST:
            raise ValueError(f"that is more than {LARGEST} bytes")
        file.write(chunk)
        digest.update(chunk)
    if expected not in (None, digest.hexdigest()):
        raise ValueError(f"that is {digest.hexdigest()}, not {expected}")
    return {"size": size, "sha256": digest.hexdigest()}
