"""Somebody at a terminal: a pty, what stands on its screen, and a keyboard.

::

    person = await program.at_terminal("attach", served.address, "app")
    await person.sees("ask 1\\n> ")        # the screen ends with that
    person.types("one\\n")
    assert await person.exit_code() == 0
    assert person.screen == "ask 1\\n> one\\n..."
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys

__all__ = ["CTRL_C", "CTRL_D", "ON_TERMINAL", "PATIENCE", "Person"]

# Seconds that a process has to start, or to end: more than E3 allows it with a short grace.
PATIENCE = 40.0

CTRL_C = "\x03"
CTRL_D = "\x04"

# Makes the terminal on stdin that of the session, so that Ctrl-C is a signal, and becomes the command that follows.
_CONTROL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
ON_TERMINAL = (sys.executable, "-c", _CONTROL)


class Person:
    """What a person sees and types.

    Attributes:
        tty: the program's side of the terminal.
    """

    def __init__(self) -> None:
        self._keyboard, self.tty = os.openpty()
        os.set_blocking(self._keyboard, False)
        self._output = b""
        self._changed = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    def sit_down(self, process: asyncio.subprocess.Process) -> None:
        """Begin to look; the process has the other side."""
        self._process = process
        os.close(self.tty)
        asyncio.get_running_loop().add_reader(self._keyboard, self._look)

    def leave(self) -> None:
        """Close the terminal."""
        if self._keyboard < 0:
            return
        asyncio.get_running_loop().remove_reader(self._keyboard)
        os.close(self._keyboard)
        self._keyboard = -1

    @property
    def screen(self) -> str:
        """What stands there: lines that were erased are gone."""
        lines = self._output.decode(errors="replace").replace("\r\n", "\n").split("\n")
        return "\n".join(line.rpartition("\r\x1b[K")[2] for line in lines)

    async def sees(self, text: str) -> None:
        """Wait until the screen ends with that."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not self.screen.endswith(text):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.screen!r} does not end with {text!r}") from None

    @property
    def output(self) -> bytes:
        """All that has been written to the terminal."""
        return self._output

    def types(self, text: str | bytes) -> None:
        """Press these keys; as bytes, on a terminal that is not UTF-8."""
        os.write(self._keyboard, text.encode() if isinstance(text, str) else text)

    async def exit_code(self) -> int:
        """Wait for the end; then everything has been seen."""
        assert self._process is not None
        async with asyncio.timeout(PATIENCE):
            code = await self._process.wait()
        self._look()
        return code

    def _look(self) -> None:
        try:
            while data := os.read(self._keyboard, 65536):
                self._output += data
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:  # nobody has the other side any more
                raise
            asyncio.get_running_loop().remove_reader(self._keyboard)
        self._changed.set()
