"""The states of a session and of its stream, as tables.

Theory of operation, after h11's ``_state.py``. Two machines say where a session is, and nothing else does:

- `APP` is the app's code: does it run, is it to end, is it unwinding, are its deferred calls made, is it over?
- `LINK` is the client's stream: is one attached, which, and will anybody ask again?

Each has an enum of states, an enum of inputs, and a table with a cell for each pair. A cell says which state is next
and which act is due; `IGNORED` changes nothing, `DEFECT` raises a `LocalError`, since only a mistake of ours leads
there, and `UNKNOWN` tells a stream that it has come too late. `AppMachine` and `next_link` decide and do nothing:
whoever gives them an input does the act that they return, and holds a lock where inputs come from several threads.

What the two mean together stands in `JOINT`: what ends a session of which nobody hears any more, and what lets go of
one that has ended. With `session_service.wire` it is where sequenced streams (protocol D1-D8) and plain ones (P1-P4)
part.

Pure: no clock, no IO, no thread. docs/design.md shows the tables, and a test holds the two together.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from .errors import LocalError, SessionUnknown

__all__ = [
    "APP",
    "DEFECT",
    "IGNORED",
    "JOINT",
    "LINK",
    "UNKNOWN",
    "Act",
    "App",
    "AppCell",
    "AppInput",
    "AppMachine",
    "CloseReason",
    "Consequence",
    "Fixed",
    "Link",
    "LinkAct",
    "LinkCell",
    "LinkInput",
    "Standing",
    "Trigger",
    "Whose",
    "consequences",
    "next_link",
    "standing",
]


class CloseReason(enum.Enum):
    """Why a session ended (protocol E4)."""

    COMPLETED = "the main task returned"
    CLIENT = "the client closed it"
    SERVER = "the app or an operator closed it"
    EXPIRED = "no client came back within the resume window"
    FAILED = "an exception left the main task"
    SHUTDOWN = "the server shut down"


class Fixed(enum.Enum):
    """What a table does without a next state."""

    IGNORED = "."
    DEFECT = "!"
    UNKNOWN = "! SessionUnknown"


IGNORED = Fixed.IGNORED
DEFECT = Fixed.DEFECT
UNKNOWN = Fixed.UNKNOWN


# --- the app ----------------------------------------------------------------------------------------------------------


class App(enum.Enum):
    """Where the app's code is.

    Attributes:
        closed: the end has begun: what the app asks for is refused.
        last_event: no event will come any more.
        ended: everything has run.
    """

    RUNNING = "it runs", False, False, False
    FINISHING = "it runs, and no event will come any more", False, True, False
    CLOSING = "its tasks unwind", True, True, False
    DEFERRING = "its deferred calls are made", True, True, False
    ENDED = "everything has run", True, True, True

    closed: bool
    last_event: bool
    ended: bool

    def __init__(self, _: str, closed: bool, last_event: bool, ended: bool) -> None:
        # Attributes and no properties: they are asked for each message, and cost no call.
        self.closed = closed
        self.last_event = last_event
        self.ended = ended


class AppInput(enum.Enum):
    """What happens to an app."""

    END_EVENTS = "no event will come any more"
    QUIET = "nothing runs, nothing holds it open"
    MAIN_FAILED = "an exception left the main task"
    CLOSE = "somebody closes it"
    UNWOUND = "the tasks have ended, or the grace is over"
    NO_CALL_LEFT = "the last deferred call was made"


class Act(enum.Enum):
    """What is to be done when an app has come to its next state."""

    NOTHING = ""
    END_MAILBOXES = "end mailboxes"
    UNWIND = "wake waiters, interrupt the rest, start grace"
    DEFER = "abandon the rest"
    REPORT = "report once"


class Whose(enum.Enum):
    """Who says why a session ends, where the table does not."""

    GIVEN = "reason"
    ENDERS = "the ender's reason if main met the end, else COMPLETED"


class AppCell(NamedTuple):
    """What an input does to an app.

    Attributes:
        state: the next one.
        act: what is due then.
        reason: why the session ends, where this is the beginning of its end.
    """

    state: App
    act: Act
    reason: CloseReason | Whose | None = None


def _closing(reason: CloseReason | Whose) -> AppCell:
    return AppCell(App.CLOSING, Act.UNWIND, reason)


APP: Mapping[App, Mapping[AppInput, AppCell | Fixed]] = {
    App.RUNNING: {
        AppInput.END_EVENTS: AppCell(App.FINISHING, Act.END_MAILBOXES),
        AppInput.QUIET: _closing(CloseReason.COMPLETED),
        AppInput.MAIN_FAILED: _closing(CloseReason.FAILED),
        AppInput.CLOSE: _closing(Whose.GIVEN),
        AppInput.UNWOUND: DEFECT,
        AppInput.NO_CALL_LEFT: DEFECT,
    },
    App.FINISHING: {
        AppInput.END_EVENTS: IGNORED,
        AppInput.QUIET: _closing(Whose.ENDERS),
        AppInput.MAIN_FAILED: _closing(CloseReason.FAILED),
        AppInput.CLOSE: _closing(Whose.GIVEN),
        AppInput.UNWOUND: DEFECT,
        AppInput.NO_CALL_LEFT: DEFECT,
    },
    App.CLOSING: {
        AppInput.END_EVENTS: IGNORED,
        AppInput.QUIET: IGNORED,
        AppInput.MAIN_FAILED: IGNORED,
        AppInput.CLOSE: IGNORED,  # the first reason counts
        AppInput.UNWOUND: AppCell(App.DEFERRING, Act.DEFER),
        AppInput.NO_CALL_LEFT: DEFECT,
    },
    App.DEFERRING: {
        AppInput.END_EVENTS: IGNORED,
        AppInput.QUIET: IGNORED,  # a task that was abandoned ends
        AppInput.MAIN_FAILED: IGNORED,
        AppInput.CLOSE: IGNORED,
        AppInput.UNWOUND: IGNORED,
        AppInput.NO_CALL_LEFT: AppCell(App.ENDED, Act.REPORT),
    },
    App.ENDED: dict.fromkeys(AppInput, IGNORED),
}


class AppMachine:
    """Where one app is.

    Attributes:
        state: that.
        reason: why its session ends; None before `App.CLOSING`.
        message: what to tell the client about that.
    """

    __slots__ = ("_end", "message", "reason", "state")

    def __init__(self) -> None:
        self.state = App.RUNNING
        self.reason: CloseReason | None = None
        self.message = ""
        self._end: tuple[CloseReason, str] | None = None  # what who ended the events gave

    def step(
        self,
        given: AppInput,
        *,
        reason: CloseReason = CloseReason.SERVER,
        message: str = "",
        met_end: bool = False,
    ) -> Act:
        """Go to the next state; return what is to be done.

        Args:
            given: what has happened.
            reason: with END_EVENTS and CLOSE.
            message: for the client, with END_EVENTS, MAIN_FAILED and CLOSE.
            met_end: with QUIET: it was the end of its events that ended the main task.

        Raises:
            LocalError: this cannot happen in this state.
        """
        cell = APP[self.state][given]
        if cell is IGNORED:
            return Act.NOTHING
        if not isinstance(cell, AppCell):
            raise LocalError(f"{given.name} in {self.state.name}: a session cannot come to this")
        if given is AppInput.END_EVENTS:
            self._end = reason, message
        elif cell.reason is not None:
            ender, told = self._end or (CloseReason.COMPLETED, "")
            if cell.reason is Whose.ENDERS:
                self.reason = ender if met_end else CloseReason.COMPLETED
                self.message = told
            else:
                self.reason = reason if cell.reason is Whose.GIVEN else cell.reason
                self.message = message
        self.state = cell.state
        return cell.act


# --- the link ---------------------------------------------------------------------------------------------------------


class Link(enum.Enum):
    """Whether a session has a stream."""

    DETACHED = "no stream is attached"
    ATTACHED = "one is"
    FORGOTTEN = "nobody will ask for it again"


class LinkInput(enum.Enum):
    """What happens to a link."""

    ATTACH = "a stream attaches"
    DETACH = "the stream that is attached is lost"
    DETACH_OLDER = "one that was fenced is lost"
    FORGET = "let go of it"


class LinkAct(enum.Enum):
    """What is to be done when a link has come to its next state."""

    NOTHING = ""
    BIND = "generation + 1"
    TAKE_OVER = "generation + 1, fence the older with TakenOver"
    END_STREAM = "end the stream (OK or ENDED_UNDELIVERED)"


class LinkCell(NamedTuple):
    """What an input does to a link: its next state, and what is due then."""

    state: Link
    act: LinkAct = LinkAct.NOTHING


# An older stream's end changes nothing: identity is the fence.
LINK: Mapping[Link, Mapping[LinkInput, LinkCell | Fixed]] = {
    Link.DETACHED: {
        LinkInput.ATTACH: LinkCell(Link.ATTACHED, LinkAct.BIND),
        LinkInput.DETACH: IGNORED,
        LinkInput.DETACH_OLDER: IGNORED,
        LinkInput.FORGET: LinkCell(Link.FORGOTTEN),
    },
    Link.ATTACHED: {
        LinkInput.ATTACH: LinkCell(Link.ATTACHED, LinkAct.TAKE_OVER),
        LinkInput.DETACH: LinkCell(Link.DETACHED),
        LinkInput.DETACH_OLDER: IGNORED,
        LinkInput.FORGET: LinkCell(Link.FORGOTTEN, LinkAct.END_STREAM),
    },
    Link.FORGOTTEN: {
        LinkInput.ATTACH: UNKNOWN,
        LinkInput.DETACH: IGNORED,
        LinkInput.DETACH_OLDER: IGNORED,
        LinkInput.FORGET: IGNORED,
    },
}


def next_link(link: Link, given: LinkInput) -> LinkCell:
    """Return where an input leads a link to, and what is to be done then.

    Raises:
        SessionUnknown: the session was forgotten before the stream could attach.
    """
    match LINK[link][given]:
        case LinkCell() as cell:
            return cell
        case Fixed.UNKNOWN:
            raise SessionUnknown("no session here of this id and token: it has ended, or never was")
        case _:
            return LinkCell(link)


# --- both -------------------------------------------------------------------------------------------------------------


class Trigger(enum.Enum):
    """What may come about while a session and its link are as they are."""

    AT_ONCE = "at once"
    RESUME_WINDOW = "resume window"  # has passed detached or, once it has ended, without an ack
    LIFETIME = "lifetime"
    IDLE = "idle"
    ALL_ACKED = "all acked"
    ALL_WRITTEN = "all written"


class Consequence(enum.Enum):
    """What follows."""

    EXPIRE = "CLOSE(EXPIRED)"
    HANG_UP = "CLOSE(CLIENT)"
    END_STREAM = "end the stream"
    FORGET = "FORGET"


_LIMITS = {Trigger.LIFETIME: Consequence.EXPIRE, Trigger.IDLE: Consequence.EXPIRE}

# By whether the app has ended, the link, and whether the stream is sequenced.
JOINT: Mapping[tuple[bool, Link, bool], Mapping[Trigger, Consequence]] = {
    (False, Link.DETACHED, True): {Trigger.RESUME_WINDOW: Consequence.EXPIRE, **_LIMITS},
    (False, Link.DETACHED, False): {Trigger.AT_ONCE: Consequence.HANG_UP},
    (False, Link.ATTACHED, True): _LIMITS,
    (False, Link.ATTACHED, False): _LIMITS,
    (True, Link.ATTACHED, True): {
        Trigger.ALL_ACKED: Consequence.FORGET,
        Trigger.RESUME_WINDOW: Consequence.FORGET,
    },
    (True, Link.ATTACHED, False): {Trigger.ALL_WRITTEN: Consequence.END_STREAM},  # and then it is detached
    (True, Link.DETACHED, True): {Trigger.RESUME_WINDOW: Consequence.FORGET},
    (True, Link.DETACHED, False): {Trigger.AT_ONCE: Consequence.FORGET},
}


def consequences(app: App, link: Link, *, sequenced: bool) -> Mapping[Trigger, Consequence]:
    """Return what ends a session in these states, or lets go of it; nothing once it is forgotten."""
    return {} if link is Link.FORGOTTEN else JOINT[app.ended, link, sequenced]


class Standing(enum.Enum):
    """Where a session stands, as people are told."""

    ATTACHED = "a client is attached"
    DETACHED = "none is"
    ENDED = "its app has ended, and its client may still have to hear of it"


def standing(app: App, link: Link) -> Standing:
    """Return in short what both states say."""
    if app.ended:
        return Standing.ENDED
    return Standing.ATTACHED if link is Link.ATTACHED else Standing.DETACHED
