"""Bearer tokens, known by their digests in a file.

The file has one line a token: the SHA-256 of the token in hex, and the name of its principal. A principal may have
several, so that they can be changed one after the other. Blank lines, and lines that begin with ``#``, say nothing::

    # made by: session-service token tokens.txt ada
    f2ca1bb6c7e907d06dafe4687e579fce76b37e4e93b7605022da52e6ccc26fd2 ada

A digest without salt and stretching is enough for a token that is 256 random bits: there is nothing to guess. It is not
for passwords.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import Unauthenticated
from ...session import Principal
from .authenticator import Peer, bearer_token, checked_name
from .reload import Reloading

__all__ = ["TokenFile", "add_token"]

logger = logging.getLogger(__name__)

LINE = re.compile(r"([0-9a-fA-F]{64})\s+(\S.*)")

Token = tuple[bytes, Principal]


class TokenFile:
    """Lets in whoever has one of the tokens of a file.

    A file that becomes empty lets nobody in, and that is an error in the log. One that cannot be read, or has a line
    that is none, changes nothing.

    Attributes:
        files: the file.
    """

    def __init__(self, path: str) -> None:
        """Load the file.

        Raises:
            OSError, ValueError: it cannot be read, or has a line that is none.
        """
        self._path = path
        self.files = Reloading("tokens", [path], self._load)

    def __call__(self, metadata: Mapping[str, str], peer: Peer) -> Principal:
        """Return the principal of the call's token; see `Authenticator`."""
        digest = hashlib.sha256(bearer_token(metadata).encode()).digest()
        found: Principal | None = None
        for known, principal in self.files.value:  # to the end: the time tells nothing
            if hmac.compare_digest(known, digest):
                found = principal
        if found is None:
            raise Unauthenticated("this token is not known here, or not any more")
        return found

    def _load(self) -> list[Token]:
        tokens: list[Token] = []
        for number, line in enumerate(Path(self._path).read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = LINE.fullmatch(line.strip())
            if match is None:  # what it holds is not shown: it may be a token
                raise ValueError(f"{self._path}, line {number}: a line is the SHA-256 of a token in hex, and a name")
            try:
                tokens.append((bytes.fromhex(match[1]), Principal(checked_name(match[2]))))
            except Unauthenticated:
                raise ValueError(f"{self._path}, line {number}: the name is not printable, or too long") from None
        if not tokens:
            logger.error("%s holds no token: nobody is let in", self._path)
        return tokens


def add_token(path: str, name: str, show: Callable[[str], object] = lambda _: None) -> str:
    """Make a token for a principal, show it, add its digest to a file, and return it.

    Args:
        path: the file; it is made if there is none.
        name: of the principal.
        show: is called with the token first: one that nobody has seen must let nobody in.

    Raises:
        OSError: the file cannot be written, and is as it was.
        ValueError: there can be no principal of this name.
    """
    try:
        if checked_name(name) != name.strip():
            raise ValueError("a name begins and ends with a character that can be seen")
    except Unauthenticated as error:
        raise ValueError(str(error)) from None
    token = secrets.token_urlsafe(32)
    line = f"{hashlib.sha256(token.encode()).hexdigest()} {name}\n".encode()
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line
        show(token)
        if os.write(file, line) < len(line):  # the disk is full; half a line would be none
            os.ftruncate(file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(file)
    return token
