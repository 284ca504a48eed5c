"""What happened in one session, as both sides saw it, and a checker of the guarantees in docs/guarantees.md.

A history is a list of records in the order of time::

    history: list[Record] = []
    history.append(Send("client", 1, "hello"))
    history.append(Deliver("server", 1, "hello"))
    check(history, complete=True)

Record what a side is about to say (`Send`, `Ack`, `Close`, `Restart`) before it says it, and what a side has come to
know (all else) after it does. Then a cause stands before its effect, also where the records of two processes are merged
by a clock that both can read. What a recorder cannot see it leaves out; the records say what depends on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from session_service.window import Window

__all__ = [
    "Ack",
    "Acked",
    "Attach",
    "Broken",
    "Checker",
    "Close",
    "Closed",
    "Defer",
    "Deferred",
    "Deliver",
    "Detach",
    "Direction",
    "Forgotten",
    "Guarantee",
    "Held",
    "Record",
    "Refused",
    "Restart",
    "Send",
    "Side",
    "Stop",
    "TakeOver",
    "check",
]

Side: TypeAlias = Literal["client", "server"]
Direction: TypeAlias = Literal["events", "commands"]
Guarantee: TypeAlias = Literal["Ordered", "Unique", "Reliable", "Resumable", "Fenced", "Bounded", "Closed"]

OTHER: dict[Side, Side] = {"client": "server", "server": "client"}
SENDS: dict[Side, Direction] = {"client": "events", "server": "commands"}
RECEIVES: dict[Side, Direction] = {"client": "commands", "server": "events"}

UNTIL_ATTACHED = Window(16, 65_536)  # what a client may send before it knows its window (D5)


# --- records ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attach:
    """A side has a stream for the session: the client was answered, or the server let it in.

    Attributes:
        attachment: names the stream; the same at both sides where both can tell, else counted by each.
        received: what the other side said it has, in `Resume` or `Resumed`; None where the recorder does not see it.
        events: the window in force on this stream; `Held` is measured by the largest so far.
        commands: likewise.
    """

    side: Side
    attachment: int
    received: int | None = None
    events: Window = field(default_factory=Window)
    commands: Window = field(default_factory=Window)


@dataclass(frozen=True, slots=True)
class Detach:
    """A side has lost its stream, or given it up. None of the attachment where the recorder cannot tell which."""

    side: Side
    attachment: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The client wanted to come back and was told that it cannot: `RESUME_IMPOSSIBLE`, `SESSION_NOT_FOUND`."""

    attachment: int
    reason: str


@dataclass(frozen=True, slots=True)
class Restart:
    """A new client process goes on from a saved position.

    Attributes:
        received: the last command of that position.
        sent: the last event that the server has taken over, as it told this process. Those after it died with the old
            process, and their sequences begin anew.
    """

    received: int
    sent: int


@dataclass(frozen=True, slots=True)
class Send:
    """The application of a side sends its ``sequence``-th element of ``size`` bytes (0: not known)."""

    side: Side
    sequence: int
    value: object = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class TakeOver:
    """A side will never need this element from the other again. Leave it out, and `Ack`, where it cannot be seen.

    Attributes:
        attachment: the stream that brought it, at the server; None at the client, whose buffer outlives streams.
    """

    side: Side
    sequence: int
    attachment: int | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """The application of a side has the element; ``sequence`` as it came, or else counted."""

    side: Side
    sequence: int
    value: object = None


@dataclass(frozen=True, slots=True)
class Ack:
    """A side says that it has taken over everything up to ``sequence``, in an ack or in `Resumed.received`."""

    side: Side
    sequence: int


@dataclass(frozen=True, slots=True)
class Acked:
    """A side has learned that, and forgets its elements up to ``sequence``."""

    side: Side
    sequence: int
    attachment: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What a side keeps of a direction, in all its buffers together."""

    side: Side
    direction: Direction
    messages: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """The application of a side will ask for nothing more, so what it has not asked for is not owed to it."""

    side: Side


@dataclass(frozen=True, slots=True)
class Close:
    """The client asks for the session's end; ``now`` drops the events that are not yet delivered."""

    now: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """``closed``, the last of the commands: the server lined it up, or the client's application has it."""

    side: Side
    sequence: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class Defer:
    """The app registered a deferred call; ``call`` names it."""

    call: object


@dataclass(frozen=True, slots=True)
class Deferred:
    """A deferred call ran."""

    call: object


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The server has let go of the session, since all was acknowledged or a resume window had passed (A1, A7)."""


Record: TypeAlias = (
    Attach
    | Detach
    | Refused
    | Restart
    | Send
    | TakeOver
    | Deliver
    | Ack
    | Acked
    | Held
    | Stop
    | Close
    | Closed
    | Defer
    | Deferred
    | Forgotten
)


# --- the checker ------------------------------------------------------------------------------------------------------


class Broken(AssertionError):
    """A history that a guarantee rules out.

    Attributes:
        guarantee: its name.
        index: the entry that breaks it; at the end of a complete run, the entry that was never made good.
        explanation: what is wrong.
    """

    def __init__(self, guarantee: Guarantee, index: int, explanation: str) -> None:
        super().__init__(f"{guarantee} is broken by entry {index}: {explanation}")
        self.guarantee = guarantee
        self.index = index
        self.explanation = explanation


def check(history: Iterable[Record], complete: bool = False) -> None:
    """Check all guarantees.

    Args:
        history: one session's.
        complete: the run ended attached, or with the session's end, and both applications had taken what there was; so
            nothing may be outstanding.

    Raises:
        Broken: one does not hold.
    """
    checker = Checker()
    for record in history:
        checker.feed(record)
    if complete:
        checker.finish()


@dataclass(slots=True)
class _Line:
    """One direction, from the application that sends to the one that receives.

    Attributes:
        sent: each element's value and the entry that sent it; ``closed`` is an element too.
        taken: the last one taken over.
        delivered: the last one delivered.
        told: the highest ack that was said; said: on the current stream, to which acks belong (D8).
        acked: the highest ack that was learned.
        largest: the size of the largest element.
        window: the largest granted so far, None before the first attachment.
        stopped: the receiving application asks for no more.
        records_takes: take-overs are recorded, so deliveries must follow them.
    """

    sent: list[tuple[object, int]] = field(default_factory=list)
    taken: int = 0
    delivered: int = 0
    told: int = 0
    said: int = 0
    acked: int = 0
    largest: int = 0
    window: Window | None = None
    stopped: bool = False
    records_takes: bool = False

    def grant(self, window: Window) -> None:
        granted = self.window or window
        self.window = Window(max(granted.messages, window.messages), max(granted.size, window.size))


class Checker:
    """Checks a history as it grows: `feed` each record, and `finish` when the run is complete."""

    def __init__(self) -> None:
        self._index = -1
        self._lines: dict[Direction, _Line] = {"events": _Line(), "commands": _Line()}
        self._current: dict[Side, int | None] = {"client": None, "server": None}
        self._attachments: dict[Side, set[int]] = {"client": set(), "server": set()}
        self._taken_at_attach: dict[int, int] = {}  # attachment -> events taken over when the server let it in
        self._detached_at: int | None = None  # the entry that left the client without a stream
        self._close_at: int | None = None
        self._closed_at: dict[Side, int] = {}
        self._closed_size = 0
        self._deferred: dict[object, int | None] = {}  # call -> the entry that registered it; None: it has run
        self._forgotten = False

    def feed(self, record: Record) -> None:
        """Check one more record.

        Raises:
            Broken: with the records before it, it breaks a guarantee.
        """
        self._index += 1
        match record:
            case Attach():
                self._on_attach(record)
            case Detach():
                self._on_detach(record)
            case Refused():
                self._on_refused(record)
            case Restart():
                self._on_restart(record)
            case Send():
                self._on_send(record)
            case TakeOver():
                self._on_take_over(record)
            case Deliver():
                self._on_deliver(record)
            case Ack():
                self._on_ack(record)
            case Acked():
                self._on_acked(record)
            case Held():
                self._on_held(record)
            case Stop():
                self._lines[RECEIVES[record.side]].stopped = True
            case Close():
                self._on_close(record)
            case Closed():
                self._on_closed(record)
            case Defer():
                self._on_defer(record)
            case Deferred():
                self._on_deferred(record)
            case Forgotten():
                self._forgotten = True

    def finish(self) -> None:
        """Check what a complete run owes.

        Raises:
            Broken: something was never made good.
        """
        for line in self._lines.values():
            if line.delivered < len(line.sent) and not line.stopped:
                _, index = line.sent[line.delivered]
                if index != self._closed_at.get("server"):
                    self._break("Reliable", f"{line.delivered + 1} was sent and never delivered", index)
        end = self._closed_at.get("server", self._close_at)
        if end is not None and "client" not in self._closed_at:
            self._break("Closed", "the client never learned that the session ended", end)
        if self._closed_at:
            for call, deferred_at in self._deferred.items():
                if deferred_at is not None:
                    self._break("Closed", f"the deferred call {call!r} never ran", deferred_at)
        elif self._detached_at is not None:
            self._break("Resumable", "the client never came back", self._detached_at)

    def _break(self, guarantee: Guarantee, explanation: str, index: int | None = None) -> None:
        raise Broken(guarantee, self._index if index is None else index, explanation)

    # --- attachments --------------------------------------------------------------------------------------------------

    def _on_attach(self, record: Attach) -> None:
        side, attachment = record.side, record.attachment
        if attachment in self._attachments[side]:
            self._break("Fenced", f"attachment {attachment} came back at the {side}")
        if record.received is not None:
            self._check_position(record, record.received)
        if side == "server":
            self._taken_at_attach[attachment] = self._lines["events"].taken
        else:
            self._detached_at = None
        self._lines[RECEIVES[side]].said = 0
        self._attachments[side].add(attachment)
        self._current[side] = attachment
        self._lines["events"].grant(record.events)
        self._lines["commands"].grant(record.commands)

    def _check_position(self, record: Attach, received: int) -> None:
        """A stream goes on from what the other side has: no earlier than what was let go of, no later than what was."""
        line = self._lines[SENDS[record.side]]
        if received < line.acked:
            self._break("Resumable", f"it goes on after {received}, but all up to {line.acked} was let go of")
        if received > len(line.sent):
            self._break("Resumable", f"it goes on after {received}, but only {len(line.sent)} were sent")
        taken = self._taken_at_attach.get(record.attachment, received) if record.side == "client" else received
        if line.records_takes and received != taken:
            self._break("Resumable", f"it goes on after {received}, but the server had taken over {taken}")

    def _on_detach(self, record: Detach) -> None:
        current = self._current[record.side]
        if current is None or record.attachment not in (None, current):
            self._break("Fenced", f"attachment {record.attachment} ended at the {record.side}, where {current} holds")
        self._current[record.side] = None
        if record.side == "client":
            self._detached_at = self._index

    def _on_refused(self, record: Refused) -> None:
        if not self._forgotten:
            self._break("Resumable", f"attachment {record.attachment} was refused with {record.reason}")

    def _on_restart(self, record: Restart) -> None:
        commands, events = self._lines["commands"], self._lines["events"]
        if not commands.acked <= record.received <= max(commands.delivered, commands.taken):
            self._break("Resumable", f"no client can go on after command {record.received}")
        if not max(events.taken, events.delivered) <= record.sent <= len(events.sent):
            self._break("Resumable", f"the server had not taken over just {record.sent} events")
        commands.delivered = commands.taken = record.received
        commands.said = 0
        events.acked = record.sent
        del events.sent[record.sent :]

    def _check_fence(self, side: Side, attachment: int | None) -> None:
        if attachment is not None and attachment != self._current[side]:
            self._break("Fenced", f"attachment {attachment} acts at the {side}, where {self._current[side]} holds")

    # --- elements -----------------------------------------------------------------------------------------------------

    def _on_send(self, record: Send) -> None:
        if record.side == "server" and self._closed_at:
            self._break("Closed", f"command {record.sequence} was sent after closed")
        line = self._lines[SENDS[record.side]]
        if record.sequence <= len(line.sent):
            self._break("Unique", f"sequence {record.sequence} is used again")
        if record.sequence > len(line.sent) + 1:
            self._break("Ordered", f"sequence {record.sequence} follows {len(line.sent)}")
        line.sent.append((record.value, self._index))
        line.largest = max(line.largest, record.size)

    def _on_take_over(self, record: TakeOver) -> None:
        sequence, side = record.sequence, record.side
        line = self._lines[RECEIVES[side]]
        line.records_takes = True
        self._check_fence(side, record.attachment)
        if sequence > len(line.sent):
            self._break("Unique", f"{sequence} was taken over and never sent")
        if sequence <= line.taken:
            self._break("Unique", f"{sequence} was taken over before")
        if sequence > line.taken + 1:
            self._break("Ordered", f"{sequence} was taken over after {line.taken}")
        if side == "client" and sequence > line.delivered and self._close_at is None:
            self._break("Reliable", f"{sequence} was taken over, and the application had {line.delivered}")
        if side == "server" and sequence <= line.delivered:
            self._break("Reliable", f"{sequence} was taken over after it was delivered")
        line.taken = sequence

    def _on_deliver(self, record: Deliver) -> None:
        sequence = record.sequence
        line = self._lines[RECEIVES[record.side]]
        if sequence > len(line.sent):
            self._break("Unique", f"{sequence} was delivered and never sent")
        if sequence <= line.delivered:
            self._break("Unique", f"{sequence} was delivered before")
        if sequence > line.delivered + 1:
            self._break("Ordered", f"{sequence} was delivered after {line.delivered}")
        if record.value != line.sent[sequence - 1][0]:
            self._on_wrong_value(line, record)
        if record.side == "server" and line.records_takes and sequence > line.taken:
            self._break("Reliable", f"{sequence} was delivered and not taken over: it would be sent again")
        line.delivered = sequence

    def _on_wrong_value(self, line: _Line, record: Deliver) -> None:
        """Name what happened where a recorder counts deliveries: a repeat and a swap show by their values only."""
        for other, (value, _) in enumerate(line.sent, 1):
            if value == record.value:
                guarantee: Guarantee = "Unique" if other <= line.delivered else "Ordered"
                self._break(guarantee, f"what was sent as {other} was delivered as {record.sequence}")
        self._break("Unique", f"{record.sequence} was delivered with a value that was never sent: {record.value!r}")

    def _on_ack(self, record: Ack) -> None:
        line = self._lines[RECEIVES[record.side]]
        if record.sequence > line.taken:
            self._break("Reliable", f"{record.sequence} is acknowledged, and {line.taken} are taken over")
        if record.sequence < line.said:
            self._break("Reliable", f"{record.sequence} is acknowledged after {line.said}: an ack never shrinks")
        line.said = record.sequence
        line.told = max(line.told, record.sequence)

    def _on_acked(self, record: Acked) -> None:
        line = self._lines[SENDS[record.side]]
        self._check_fence(record.side, record.attachment)
        if record.sequence > line.told:
            self._break("Reliable", f"all up to {record.sequence} is let go of, and {line.told} are acknowledged")
        if record.sequence < line.acked:
            self._break("Reliable", f"the last ack went from {line.acked} back to {record.sequence}")
        line.acked = record.sequence

    def _on_held(self, record: Held) -> None:
        line = self._lines[record.direction]
        window = line.window or UNTIL_ATTACHED
        most = _most_held(record.side, record.direction, window, line.largest, self._closed_size)
        if record.messages > most.messages or record.size > most.size:
            self._break(
                "Bounded",
                f"the {record.side} holds {record.messages} {record.direction} of {record.size} bytes, more than"
                f" {most.messages} and {most.size}",
            )

    # --- the end ------------------------------------------------------------------------------------------------------

    def _on_close(self, record: Close) -> None:
        if self._close_at is None:
            self._close_at = self._index
        if record.now:
            self._lines["events"].stopped = True

    def _on_closed(self, record: Closed) -> None:
        sequence, side = record.sequence, record.side
        line = self._lines["commands"]
        if side in self._closed_at:
            self._break("Closed", f"closed came twice at the {side}")
        if side == "server" and self._closed_at:
            self._break("Closed", "closed reached the client before the server had ended")
        if not self._closed_at:
            line.sent.append((record, self._index))
            line.largest = max(line.largest, record.size)
            self._closed_size = record.size
        if sequence != len(line.sent):
            self._break("Closed", f"closed has sequence {sequence} after {len(line.sent) - 1} commands")
        if side == "client":
            if sequence != line.delivered + 1:
                self._break("Closed", f"closed came after {line.delivered} of {sequence - 1} commands")
            line.delivered = sequence
        self._closed_at[side] = self._index

    def _on_defer(self, record: Defer) -> None:
        self._deferred.setdefault(record.call, self._index)

    def _on_deferred(self, record: Deferred) -> None:
        if self._deferred.get(record.call) is None:
            self._break("Closed", f"the deferred call {record.call!r} ran a second time, or was never registered")
        if self._closed_at:
            self._break("Closed", f"the deferred call {record.call!r} ran after closed")
        self._deferred[record.call] = None


def _most_held(side: Side, direction: Direction, window: Window, largest: int, closed: int) -> Window:
    """The bound of docs/guarantees.md: each buffer's window, and one element that may be larger or go beyond it."""
    alone = max(window.size, largest)  # a buffer that takes a first element whatever its size, and else what fits
    beyond = window.size + largest  # one that takes elements while anything is free
    if direction == "events":
        if side == "client":
            return Window(window.messages, beyond)  # outbox
        return Window(2 * window.messages, 2 * alone)  # inbox, mailboxes
    if side == "client":
        return Window(window.messages + 1, alone + closed)  # inbox
    return Window(9 * window.messages + 1, beyond + 8 * window.size + largest + closed)  # outbox, command buffer
