"""The checker of guarantees is checked: by histories that are broken on purpose, one way each, and by good ones."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_service.window import Window

from .history import (
    Ack,
    Acked,
    Attach,
    Broken,
    Close,
    Closed,
    Defer,
    Deferred,
    Deliver,
    Detach,
    Forgotten,
    Guarantee,
    Held,
    Record,
    Refused,
    Restart,
    Send,
    Side,
    Stop,
    TakeOver,
    check,
)

A1, A2, A3 = Send("client", 1, "a"), Send("client", 2, "b"), Send("client", 3, "c")
C1, C2 = Send("server", 1, "x"), Send("server", 2, "y")
SMALL = Window(2, 100)


def at_server(sequence: int, value: str, attachment: int | None = None) -> list[Record]:
    """An event arrives as it should."""
    return [TakeOver("server", sequence, attachment), Deliver("server", sequence, value)]


GOOD: dict[str, list[Record]] = {
    "nothing happened": [],
    "only what both applications see": [
        A1,
        A2,
        Deliver("server", 1, "a"),
        C1,
        Deliver("server", 2, "b"),
        Deliver("client", 1, "x"),
    ],
    "an event's whole way": [A1, *at_server(1, "a"), Ack("server", 1), Acked("client", 1)],
    "a command's whole way": [
        C1,
        Deliver("client", 1, "x"),
        TakeOver("client", 1),
        Ack("client", 1),
        Acked("server", 1),
    ],
    "an ack is said again": [
        A1,
        *at_server(1, "a"),
        Ack("server", 1),
        Ack("server", 1),
        Acked("client", 1),
        Acked("client", 1),
    ],
    "an ack belongs to its stream": [
        A1,
        A2,
        Attach("server", 1),
        *at_server(1, "a", 1),
        *at_server(2, "b", 1),
        Ack("server", 2),
        Attach("server", 2),
        Ack("server", 1),
    ],
    "a newer attachment goes on where the older was": [
        Attach("server", 1),
        Attach("client", 1),
        A1,
        A2,
        *at_server(1, "a", 1),
        Attach("server", 2, received=0),
        Ack("server", 1),
        Detach("client", 1),
        Attach("client", 2, received=1),
        Acked("client", 1, 2),
        *at_server(2, "b", 2),
    ],
    "attachments that only the hooks of an app count": [
        Attach("server", 1),
        Detach("server"),
        Attach("server", 2),
        Attach("server", 3),
    ],
    "an app that stops is owed nothing": [
        A1,
        A2,
        Deliver("server", 1, "a"),
        Stop("server"),
        C1,
        Deliver("client", 1, "x"),
    ],
    "close now drops the events behind it": [A1, Close(now=True), Closed("server", 1), Closed("client", 1)],
    "a client that closes acknowledges at once": [
        C1,
        Close(),
        TakeOver("client", 1),
        Ack("client", 1),
        Closed("server", 2),
        Deliver("client", 1, "x"),
        Closed("client", 2),
    ],
    "a session ends and is forgotten": [
        Defer("call"),
        C1,
        Deferred("call"),
        Closed("server", 2),
        Deliver("client", 1, "x"),
        Closed("client", 2),
        Forgotten(),
        Refused(7, "SESSION_NOT_FOUND"),
    ],
    "an end of which the server's part is not seen": [C1, Deliver("client", 1, "x"), Closed("client", 2)],
    "a session that ended while nobody was attached": [
        Attach("client", 1),
        Detach("client", 1),
        C1,
        Closed("server", 2),
        Attach("client", 2),
        Deliver("client", 1, "x"),
        Closed("client", 2),
        Detach("client", 2),
    ],
    "a new process goes on from a saved position": [
        A1,
        A2,
        C1,
        C2,
        *at_server(1, "a"),
        Deliver("client", 1, "x"),
        TakeOver("client", 1),
        Deliver("client", 2, "y"),
        Restart(received=1, sent=1),
        Deliver("client", 2, "y"),
        Send("client", 2, "again"),
        *at_server(2, "again"),
    ],
    "as much as may be held": [
        Attach("server", 1, events=SMALL, commands=SMALL),
        Held("server", "events", 4, 200),
        Held("server", "commands", 19, 900),
        Held("client", "events", 2, 100),
        Held("client", "commands", 3, 100),
    ],
    "what an older and larger window let in": [
        Attach("server", 1, events=SMALL, commands=SMALL),
        Attach("server", 2, events=Window(1, 10), commands=Window(1, 10)),
        Held("server", "events", 4, 200),
    ],
    "before it knows its window": [Held("client", "events", 16, 65_536)],
    "one message larger than a window in each place": [
        Attach("server", 1, events=SMALL, commands=SMALL),
        Send("client", 1, "a", 300),
        Deliver("server", 1, "a"),
        Held("server", "events", 2, 600),
    ],
}

Case = tuple[Guarantee, int, list[Record]]

# A guarantee, the entry that breaks it, and a history.
BROKEN: dict[str, Case] = {
    # --- Ordered ---
    "an event overtakes another": ("Ordered", 3, [A1, A2, A3, Deliver("server", 2, "b"), Deliver("server", 1, "a")]),
    "a command is left out": ("Ordered", 3, [C1, C2, Send("server", 3, "z"), Deliver("client", 2, "y")]),
    "two commands are swapped, and deliveries counted": ("Ordered", 2, [C1, C2, Deliver("client", 1, "y")]),
    "events are taken over out of order": ("Ordered", 2, [A1, A2, TakeOver("server", 2)]),
    "a sender leaves a sequence out": ("Ordered", 1, [A1, A3]),
    # --- Unique ---
    "an event is delivered twice": ("Unique", 2, [A1, Deliver("server", 1, "a"), Deliver("server", 1, "a")]),
    "a command is delivered twice": ("Unique", 3, [C1, Deliver("client", 1, "x"), C2, Deliver("client", 1, "x")]),
    "a command comes twice, and deliveries are counted": (
        "Unique",
        3,
        [C1, C2, Deliver("client", 1, "x"), Deliver("client", 2, "x")],
    ),
    "an event is taken over twice": ("Unique", 2, [A1, TakeOver("server", 1), TakeOver("server", 1)]),
    "something is delivered that was never sent": ("Unique", 1, [A1, Deliver("server", 2, "b")]),
    "something is taken over that was never sent": ("Unique", 0, [TakeOver("server", 1)]),
    "a value changes on its way": ("Unique", 1, [A1, Deliver("server", 1, "A")]),
    "a sequence is used for something else": ("Unique", 1, [A1, Send("client", 1, "b")]),
    "an event that died with its process arrives": (
        "Unique",
        3,
        [A1, A2, Restart(received=0, sent=0), TakeOver("server", 1)],
    ),
    # --- Reliable ---
    "an event is acknowledged and not taken over": ("Reliable", 1, [A1, Ack("server", 1)]),
    "a command is acknowledged before it was taken": (
        "Reliable",
        2,
        [C1, Deliver("client", 1, "x"), Ack("client", 1)],
    ),
    "a command is taken over before its application has it": ("Reliable", 1, [C1, TakeOver("client", 1)]),
    "an event is let go of and not acknowledged": ("Reliable", 2, [A1, *at_server(1, "a")[:1], Acked("client", 1)]),
    "an ack shrinks": (
        "Reliable",
        5,
        [A1, A2, TakeOver("server", 1), TakeOver("server", 2), Ack("server", 2), Ack("server", 1)],
    ),
    "what was let go of is wanted again": (
        "Reliable",
        6,
        [
            A1,
            A2,
            TakeOver("server", 1),
            TakeOver("server", 2),
            Ack("server", 2),
            Acked("client", 2),
            Acked("client", 1),
        ],
    ),
    "an event is delivered that the server asks for again": (
        "Reliable",
        4,
        [A1, A2, *at_server(1, "a"), Deliver("server", 2, "b")],
    ),
    "the first event is delivered that the server asks for again": (
        "Reliable",
        2,
        [A1, Deliver("server", 1, "a"), TakeOver("server", 1)],
    ),
    # --- Resumable ---
    "a resume is refused": (
        "Resumable",
        2,
        [Attach("client", 1), Detach("client", 1), Refused(2, "RESUME_IMPOSSIBLE")],
    ),
    "a resume goes on after what was let go of": (
        "Resumable",
        5,
        [
            C1,
            Deliver("client", 1, "x"),
            TakeOver("client", 1),
            Ack("client", 1),
            Acked("server", 1),
            Attach("server", 2, 0),
        ],
    ),
    "a resume goes on after what was never sent": ("Resumable", 1, [C1, Attach("server", 2, received=2)]),
    "the server takes back what it had taken over": (
        "Resumable",
        3,
        [A1, TakeOver("server", 1), Attach("server", 2), Attach("client", 2, received=0)],
    ),
    "the server says that it has more than it has": (
        "Resumable",
        4,
        [A1, A2, TakeOver("server", 1), Attach("server", 2), Attach("client", 2, received=2)],
    ),
    "a saved position is behind what was acknowledged": (
        "Resumable",
        5,
        [C1, Deliver("client", 1, "x"), TakeOver("client", 1), Ack("client", 1), Acked("server", 1), Restart(0, 0)],
    ),
    "a server forgets events that it had taken over": ("Resumable", 2, [A1, TakeOver("server", 1), Restart(0, 0)]),
    # --- Fenced ---
    "an event of an older attachment is taken over": (
        "Fenced",
        3,
        [A1, Attach("server", 1), Attach("server", 2), TakeOver("server", 1, 1)],
    ),
    "an ack of an older attachment counts": (
        "Fenced",
        6,
        [
            C1,
            Attach("server", 1),
            Deliver("client", 1, "x"),
            TakeOver("client", 1),
            Ack("client", 1),
            Attach("server", 2),
            Acked("server", 1, 1),
        ],
    ),
    "the end of an older attachment detaches the newer": (
        "Fenced",
        2,
        [Attach("server", 1), Attach("server", 2), Detach("server", 1)],
    ),
    "an attachment ends twice": ("Fenced", 2, [Attach("server", 1), Detach("server"), Detach("server")]),
    "an older attachment comes back": ("Fenced", 2, [Attach("server", 1), Attach("server", 2), Attach("server", 1)]),
    "an event is taken over without an attachment": (
        "Fenced",
        3,
        [A1, Attach("server", 1), Detach("server", 1), TakeOver("server", 1, 1)],
    ),
    # --- Bounded ---
    "too many events": ("Bounded", 1, [Attach("server", 1, events=SMALL), Held("server", "events", 5)]),
    "too many bytes of events": ("Bounded", 1, [Attach("server", 1, events=SMALL), Held("server", "events", 2, 201)]),
    "too many commands": ("Bounded", 1, [Attach("server", 1, commands=SMALL), Held("server", "commands", 20)]),
    "too many bytes of commands": (
        "Bounded",
        1,
        [Attach("server", 1, commands=SMALL), Held("server", "commands", 2, 901)],
    ),
    "a client keeps too many events": ("Bounded", 1, [Attach("client", 1, events=SMALL), Held("client", "events", 3)]),
    "a client keeps too many commands": (
        "Bounded",
        1,
        [Attach("client", 1, commands=SMALL), Held("client", "commands", 4)],
    ),
    "a large message allows for itself alone": (
        "Bounded",
        2,
        [Attach("server", 1, events=SMALL), Send("client", 1, "a", 300), Held("server", "events", 3, 601)],
    ),
    # --- Closed ---
    "closed before the last command": ("Closed", 2, [C1, Closed("server", 2), Closed("client", 2)]),
    "closed twice": ("Closed", 2, [Closed("server", 1), Closed("client", 1), Closed("client", 1)]),
    "closed leaves a command out": ("Closed", 1, [C1, Closed("server", 1)]),
    "a command after closed": ("Closed", 1, [Closed("server", 1), Send("server", 2, "y")]),
    "closed is known before it is": ("Closed", 1, [Closed("client", 1), Closed("server", 1)]),
    "a deferred call runs twice": ("Closed", 2, [Defer("call"), Deferred("call"), Deferred("call")]),
    "a deferred call runs after closed": ("Closed", 2, [Defer("call"), Closed("server", 1), Deferred("call")]),
}

# These are broken only when nothing comes any more.
INCOMPLETE: dict[str, Case] = {
    "an event never arrives": ("Reliable", 1, [A1, A2, Deliver("server", 1, "a")]),
    "a command never arrives": ("Reliable", 0, [C1, Attach("client", 1)]),
    "an acknowledged event never arrives": ("Reliable", 0, [A1, TakeOver("server", 1), Ack("server", 1)]),
    "an event before a close never arrives": ("Reliable", 0, [A1, Close(), Closed("server", 1), Closed("client", 1)]),
    "a command never arrives though the app has stopped": ("Reliable", 1, [Stop("server"), C1]),
    "nobody comes back": ("Resumable", 1, [Attach("client", 1), Detach("client", 1)]),
    "closed never arrives": ("Closed", 0, [Closed("server", 1)]),
    "a close has no answer": ("Closed", 0, [Close()]),
    "a deferred call never runs": ("Closed", 0, [Defer("call"), Closed("server", 1), Closed("client", 1)]),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_a_good_history_passes_and_so_does_each_part_of_it(history: list[Record]) -> None:
    check(history, complete=True)
    for length in range(len(history)):
        check(history[:length])


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_the_guarantee_and_the_entry_that_breaks_it_are_named(case: Case) -> None:
    guarantee, index, history = case
    check(history[:index])
    with pytest.raises(Broken, match=f"^{guarantee} is broken by entry {index}: ") as broken:
        check(history)
    assert (broken.value.guarantee, broken.value.index) == (guarantee, index)


@pytest.mark.parametrize("case", INCOMPLETE.values(), ids=INCOMPLETE)
def test_what_is_outstanding_breaks_a_guarantee_only_in_the_end(case: Case) -> None:
    guarantee, index, history = case
    check(history)
    with pytest.raises(Broken) as broken:
        check(history, complete=True)
    assert (broken.value.guarantee, broken.value.index) == (guarantee, index)


def test_each_guarantee_is_broken_by_some_history() -> None:
    assert {guarantee for guarantee, _, _ in BROKEN.values()} == set(get_args(Guarantee))


# --- a long good history, and what becomes of it when one entry is not as it should be --------------------------------


class Run:
    """Makes up a good history."""

    def __init__(self) -> None:
        self.history: list[Record] = [Defer("call"), Attach("server", 1), Attach("client", 1)]
        self.attachment = 1
        self.sent: dict[Side, int] = {"client": 0, "server": 0}
        self.taken: dict[Side, int] = {"client": 0, "server": 0}  # by this side, of what the other sent
        self.delivered: dict[Side, int] = {"client": 0, "server": 0}
        self.told: dict[Side, int] = {"client": 0, "server": 0}
        self.acked: dict[Side, int] = {"client": 0, "server": 0}  # of what this side sent

    def send(self, side: Side) -> None:
        self.sent[side] += 1
        self.history.append(Send(side, self.sent[side], f"{side} {self.sent[side]}"))

    def receive(self, side: Side) -> None:
        """The next step of an element: a server takes over and then delivers, a client the other way round."""
        sent, taken, delivered = self.sent[other(side)], self.taken[side], self.delivered[side]
        may_deliver = delivered < taken if side == "server" else delivered == taken < sent
        if may_deliver:
            self.delivered[side] += 1
            self.history.append(Deliver(side, delivered + 1, f"{other(side)} {delivered + 1}"))
        elif taken < sent:
            self.taken[side] += 1
            self.history.append(TakeOver(side, taken + 1, self.attachment if side == "server" else None))

    def ack(self, side: Side) -> None:
        """Say it, and then let the other side learn it."""
        if self.told[side] < self.taken[side]:
            self.told[side] = self.taken[side]
            self.history.append(Ack(side, self.told[side]))
        elif self.acked[other(side)] < self.told[side]:
            self.acked[other(side)] = self.told[side]
            self.history.append(Acked(other(side), self.told[side], self.attachment))

    def hold(self, side: Side) -> None:
        self.history.append(Held(side, "events", 2, 200))

    def reattach(self, _: Side) -> None:
        old, self.attachment = self.attachment, self.attachment + 1
        self.told["server"] = self.acked["client"] = self.taken["server"]
        self.history += [
            Detach("server", old),
            Detach("client", old),
            Attach("server", self.attachment, self.delivered["client"]),
            Ack("server", self.told["server"]),
            Attach("client", self.attachment, self.told["server"]),
            Acked("client", self.told["server"], self.attachment),
        ]

    def end(self) -> None:
        for side in ("client", "server"):
            while self.delivered[side] < self.sent[other(side)] or self.taken[side] < self.sent[other(side)]:
                self.receive(side)
        self.reattach("client")
        last = self.sent["server"] + 1
        self.history += [
            Close(),
            Deferred("call"),
            Closed("server", last),
            Closed("client", last),
            TakeOver("client", last),
            Ack("client", last),
            Acked("server", last, self.attachment),
            Forgotten(),
        ]


def other(side: Side) -> Side:
    return "server" if side == "client" else "client"


@st.composite
def good_histories(draw: st.DrawFn) -> list[Record]:
    acts = draw(
        st.lists(
            st.tuples(
                st.sampled_from([Run.send, Run.receive, Run.receive, Run.receive, Run.ack, Run.hold, Run.reattach]),
                st.sampled_from(["client", "server"]),
            ),
            max_size=60,
        )
    )
    run = Run()
    for act, side in acts:
        act(run, side)  # type: ignore[arg-type]  # mypy takes the literals for str
    run.end()
    return run.history


def breaks(history: list[Record]) -> bool:
    try:
        check(history, complete=True)
    except Broken:
        return True
    return False


def is_needed(history: list[Record], index: int) -> bool:
    """Tell whether an ack is what lets the other side let go of something; else a later one says it too."""
    ack = history[index]
    assert isinstance(ack, Ack)
    before = [record.sequence for record in history[:index] if isinstance(record, Ack) and record.side == ack.side]
    for record in history[index + 1 :]:
        if isinstance(record, Ack) and record.side == ack.side:
            return False
        if isinstance(record, Acked) and record.side != ack.side:
            return record.sequence > max(before, default=0)
    return False


def depends(earlier: Record, later: Record) -> bool:
    """Tell whether of two neighbours in a good history one must come first."""
    match earlier, later:
        # What a side does to elements it does in their order; and not to one that was not sent.
        case (
            (Send() as first, Send() as second)
            | (TakeOver() as first, TakeOver() as second)
            | (Deliver() as first, Deliver() as second)
        ):
            return first.side == second.side
        case Send() as sent, TakeOver() | Deliver() as received:
            return sent.side != received.side and sent.sequence == received.sequence
        # A server takes over and then delivers; a client delivers and then takes over.
        case (TakeOver() as one, Deliver() as two) | (Deliver() as one, TakeOver() as two):
            return one.side == two.side and one.sequence == two.sequence
        # Nothing is acknowledged before it is taken over, nor let go of before it is acknowledged.
        case TakeOver() as taken, Ack() as ack:
            return taken.side == ack.side
        case Ack() as ack, Acked() as acked:
            return ack.side != acked.side
        # What a stream brings comes while it is attached.
        case Attach() | Detach() as end, Attach() | Detach() as begin:
            return end.side == begin.side
        case (Attach() as stream, TakeOver() | Acked() as act) | (TakeOver() | Acked() as act, Detach() as stream):
            return stream.side == act.side and act.attachment is not None
        # The end comes last.
        case (Defer(), Deferred()) | (Deferred(), Closed()) | (Closed(), Closed()):
            return True
    return False


@given(good_histories())
def test_a_long_good_history_passes(history: list[Record]) -> None:
    check(history, complete=True)


@given(good_histories(), st.data())
def test_an_entry_that_is_missing_is_missed_unless_nothing_hangs_on_it(
    history: list[Record], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(history) - 1))
    record = history[index]
    harmless = isinstance(record, Detach | Acked | Held | Close | Forgotten)
    if isinstance(record, Ack):
        harmless = not is_needed(history, index)
    elif isinstance(record, Closed):
        harmless = record.side == "server"  # the client's part tells as much
    assert breaks(history[:index] + history[index + 1 :]) is not harmless


@given(good_histories(), st.data())
def test_an_entry_that_comes_again_is_noticed_unless_it_says_only_what_is_known(
    history: list[Record], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(history) - 1))
    record = history[index]
    harmless = isinstance(record, Ack | Acked | Held | Close | Forgotten | Defer)
    assert breaks(history[: index + 1] + history[index:]) is not harmless
    if not harmless:
        later = data.draw(st.integers(index + 1, len(history)))
        assert breaks([*history[:later], record, *history[later:]])


@given(good_histories(), st.data())
def test_neighbours_that_change_places_are_noticed_where_one_depends_on_the_other(
    history: list[Record], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(history) - 2))
    earlier, later = history[index : index + 2]
    assert breaks([*history[:index], later, earlier, *history[index + 2 :]]) is depends(earlier, later)
