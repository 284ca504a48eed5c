"""How long the client goes on, and at what pace (D7): tables of what happens, with a clock that the test moves."""

from __future__ import annotations

import random
from typing import Any

import pytest
from session_client import RetryPolicy
from session_client.patience import DOUBTS, HOLD, LAST, LONG_LIFE, SUSPICION, Patience


class Path:
    """A patience, its clock, and steps in the words of the tables."""

    def __init__(self, heartbeat: float = 25.0) -> None:
        self.now = 1000.0
        self.first = 1
        self.heartbeat = heartbeat
        self.patience = Patience(RetryPolicy(initial=0.2, maximum=10.0), self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def attach(self, *, unacked: bool = True) -> None:
        self.patience.attached(self.now, self.heartbeat, unacked)

    def write(self) -> None:
        self.patience.wrote(self.now)

    def ack(self, *, written: bool = False) -> None:
        self.first += 1
        self.patience.acked(self.now, written)

    def command(self) -> None:
        self.patience.received(self.now)

    def fail(self, *, ours: bool = False) -> None:
        self.patience.broke(self.now, self.first, ours)

    def take(self, steps: str) -> None:
        """Take steps such as ``attach write 0.1 fail``; a number waits."""
        steps_by_name: dict[str, Any] = {
            "attach": self.attach,
            "idle": lambda: self.attach(unacked=False),
            "write": self.write,
            "ack": self.ack,
            "command": self.command,
            "fail": self.fail,
            "refuse": lambda: self.fail(ours=True),
        }
        for step in steps.split():
            if step in steps_by_name:
                steps_by_name[step]()
            else:
                self.wait(float(step))

    @property
    def spent(self) -> float:
        return self.patience.spent(self.now)


# --- patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "spent"),
    [
        ("10", 10),
        ("fail 10 fail", 10),
        ("attach 0.05 fail 10 attach 0.05 fail", 10.1),  # to be attached is no progress
        ("idle 0.05 fail 10 idle 0.05 fail", 0.05),  # but where nothing is unacknowledged
        ("10 attach 1 ack 2 fail 3", 5),
        ("10 attach 1 command 2 fail 3", 5),
        ("10 attach 24.9 fail", 34.9),
        ("10 attach 25 fail 3", 3),  # it has lived
        ("10 attach 300 fail 3", 3),  # from its end, else it were lost at once
        ("10 attach write 100 refuse 3", 3),
    ],
)
def test_patience_starts_anew_at_progress(steps: str, spent: float) -> None:
    path = Path()
    path.take(steps)
    assert path.spent == pytest.approx(spent)


@pytest.mark.parametrize(("heartbeat", "lives"), [(0.2, 0.2), (7.5, 7.5), (25.0, 25.0), (600.0, LONG_LIFE)])
def test_a_stream_has_lived_after_an_interval_of_heartbeats_and_at_most_25_seconds(
    heartbeat: float, lives: float
) -> None:
    for life, spent in ((lives - 0.01, 10 + lives - 0.01), (lives, 0.0)):
        path = Path(heartbeat)
        path.take("10 attach")
        path.wait(life)
        path.fail()
        assert path.spent == pytest.approx(spent)


def test_time_before_the_first_attachment_is_no_life() -> None:
    path = Path()
    path.take("30 fail 30 fail")
    assert path.spent == 60


# --- back-off ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each delay its bound."""
    monkeypatch.setattr(random, "uniform", lambda _, most: most)


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize(
    ("between", "starts_anew"),
    [
        ("fail", False),
        ("attach 0.05 fail", False),
        ("idle 0.05 fail", False),
        ("attach write 0.05 fail", False),
        ("attach 0.05 ack fail", True),
        ("attach 0.05 command fail", True),
        ("attach 25 fail", True),
    ],
)
def test_back_off_starts_anew_at_progress_and_at_nothing_else(between: str, starts_anew: bool) -> None:
    path, delays = Path(), []
    for _ in range(5):
        path.take(between)
        delays.append(path.patience.next_delay())
    assert delays == ([0.2] * 5 if starts_anew else [0.2, 0.4, 0.8, 1.6, 3.2])


# --- a poisoned event -------------------------------------------------------------------------------------------------

BREAK = " attach write 0.1 fail"
HELD = f" attach {HOLD} write 0.1 fail"


@pytest.mark.parametrize(
    ("steps", "hold", "poisoned"),
    [
        (BREAK * 2, 0, False),
        (BREAK * 3, HOLD, False),
        (BREAK * 3 + HELD, 0, False),
        (BREAK * 3 + HELD + BREAK, 0, True),
        # what does not count, neither way
        (BREAK * 2 + " fail 10 fail" + BREAK, HOLD, False),
        (BREAK * 3 + " fail fail", HOLD, False),
        (BREAK * 3 + HELD + " fail" + BREAK, 0, True),
        (BREAK * 2 + " attach write 0.1 command fail", HOLD, False),  # though commands come
        # what begins the row anew
        (BREAK * 2 + " attach write 5.1 fail" + BREAK, 0, False),
        (BREAK * 2 + " attach write 0.1 refuse" + BREAK, 0, False),
        (BREAK * 2 + " attach 0.1 fail" + BREAK, 0, False),
        (BREAK * 3 + " attach 4.9 fail", 0, False),  # held back, and it breaks all the same: it is the path
        (BREAK * 3 + " attach 4.9 fail" + BREAK * 2, 0, False),
        (BREAK * 3 + " attach 4.9 fail" + BREAK * 3, HOLD, False),
        (BREAK * 2 + " attach write 0.1 ack fail" + BREAK * 2, 0, False),  # another event is the first
        (BREAK * 2 + " attach write 0.1 ack fail" + BREAK * 3, HOLD, False),
        (BREAK * 3 + HELD + " attach write 0.1 ack 0.1 fail" + BREAK, 0, False),
    ],
)
def test_an_event_is_suspected_held_back_and_given_up(steps: str, hold: float, poisoned: bool) -> None:
    path = Path()
    path.take(steps)
    assert (path.patience.hold, path.patience.poisoned) == (hold, poisoned)
    assert path.patience.suspects == (hold > 0 or poisoned or steps.endswith(HELD))


def test_an_event_that_became_the_first_by_an_ack_counts_as_written_then() -> None:
    path = Path()
    for _ in range(DOUBTS):
        path.take("attach write 60")
        if path.first == 1:
            path.ack(written=True)
        path.take("0.1 fail")
    assert path.patience.hold == 0.0  # the later streams broke long after they had written it
    path.take(BREAK * 3)
    assert path.patience.hold == HOLD


def test_a_path_that_cuts_each_second_is_never_taken_for_a_poisoned_event() -> None:
    path = Path()
    for _ in range(100):
        path.attach()
        if not path.patience.hold:
            path.write()
        path.wait(1.0)
        path.fail()
        assert not path.patience.poisoned


@pytest.mark.parametrize("seed", range(20))
def test_a_path_that_breaks_at_random_is_given_up_only_after_five_in_a_row(seed: int) -> None:
    chance, path, row = random.Random(seed), Path(), 0
    for _ in range(300):
        hold, life = path.patience.hold, chance.choice([0.1, 3.0, 6.0, 12.0])
        path.attach()
        written = life >= hold
        if written:
            path.wait(hold)
            path.write()
        path.wait(life - hold if written else life)
        path.fail()
        row = row + 1 if written and life - hold <= SUSPICION else 0
        assert path.patience.poisoned == (row >= LAST)
