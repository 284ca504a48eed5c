"""What a session tells its backend: whoever hands events in and takes commands out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from .home import Home
from .tasks import Owner, Task

if TYPE_CHECKING:
    from .contract import AbstractSession

__all__ = ["Around", "Backend", "SessionHook"]

logger = logging.getLogger(__name__)

SessionHook = Callable[["AbstractSession"], object]
Around = Callable[[Task], AbstractContextManager[object]]

NOTHING: AbstractContextManager[None] = nullcontext()


def no_context(_: Task) -> AbstractContextManager[None]:
    """Return what changes nothing."""
    return NOTHING


class Backend:
    """The backend's hooks; one that raises is logged.

    Attributes:
        around: what each task runs in.
    """

    __slots__ = ("_home", "_on_close", "_on_command", "_on_room", "_owner", "around")

    def __init__(
        self,
        owner: Owner,
        home: Home,
        on_command: SessionHook | None,
        on_close: SessionHook | None,
        on_room: SessionHook | None,
        around: Around | None,
    ) -> None:
        self._owner = owner
        self._home = home
        self._on_command = on_command
        self._on_close = on_close
        self._on_room = on_room
        self.around = around or no_context

    def commands_wait(self) -> None:
        """There are commands, and were none; from any thread."""
        if threading.get_ident() == self._home.thread:
            self._tell(self._on_command)
        else:
            self._home.call_soon(self._tell, self._on_command)

    def room_is_free(self) -> None:
        """Events that were refused can be offered again; from any thread. Told in a turn to come."""
        self._home.call_soon(self._tell, self._on_room)

    def session_ended(self) -> None:
        """Everything has run; on the loop's thread."""
        self._tell(self._on_close)

    def drop(self) -> None:
        """Tell nothing any more, and let go of whom it would be told."""
        self._on_command = self._on_close = self._on_room = None
        self.around = no_context

    def _tell(self, hook: SessionHook | None) -> None:
        if hook is None or (session := self._owner()) is None:
            return
        try:
            hook(session)
        except Exception:
            logger.exception("session %s: %r failed", session.id, hook)
