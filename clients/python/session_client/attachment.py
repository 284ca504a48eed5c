"""What becomes of the stream of a session, as an application is told of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import ClientSession

__all__ = ["Attachment", "AttachmentState"]


class AttachmentState(enum.Enum):
    """What happens to the stream of a session."""

    ATTACHED = "attached"
    RESUMED = "resumed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A change, as the ``on_attachment`` hook is told of it.

    Attributes:
        session: whose.
        state: what happened.
        error: why it was lost; empty otherwise.
        retry_in: seconds until the next try, if it was lost; None where there will be none.
    """

    session: ClientSession
    state: AttachmentState
    error: str = ""
    retry_in: float | None = None
