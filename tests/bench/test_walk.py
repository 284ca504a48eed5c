"""The walk of a round trip: which files it enters, and that it tells moves from calls within a file."""

from __future__ import annotations

from bench.walk import LEGS, walk


def test_an_event_and_its_command_are_followed_from_file_to_file() -> None:
    legs = walk()

    assert legs.keys() == set(LEGS)
    assert "session/mailbox.py" in legs["event"][-3:], "the last that happens to an event is that its waiter takes it"
    assert "delivery/outbox.py" in legs["command"]


def test_it_is_the_same_each_time() -> None:
    assert walk() == walk()
