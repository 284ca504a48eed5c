"""Rates and quotas, by a clock of their own."""

from __future__ import annotations

import pytest

from session_service.config import Config
from session_service.errors import SessionLimit
from session_service.host.quota import LEAST_SWEEP, Quotas, Rate


class Clock:
    """Time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_second_of_a_rate_is_had_at_once_and_then_the_rate(clock: Clock) -> None:
    rate = Rate(3, clock)
    assert [rate.try_take() for _ in range(5)] == [True, True, True, False, False]
    clock.now += 1 / 3
    assert [rate.try_take() for _ in range(2)] == [True, False]
    clock.now += 3600  # no more than a second's worth is saved up
    assert [rate.try_take() for _ in range(4)] == [True, True, True, False]


def test_a_rate_below_one_a_second_gives_one_at_a_time(clock: Clock) -> None:
    rate = Rate(0.1, clock)
    assert [rate.try_take() for _ in range(2)] == [True, False]
    clock.now += 9.9
    assert not rate.try_take()
    clock.now += 0.1
    assert rate.try_take()


def test_what_is_taken_beyond_the_rate_is_waited_for_in_turn(clock: Clock) -> None:
    rate = Rate(100, clock)
    assert [rate.take(100), rate.take(50), rate.take(50)] == pytest.approx([0, 0.5, 1])
    clock.now += 1
    assert rate.take(10) == pytest.approx(0.1)


def test_one_that_is_larger_than_a_second_of_the_rate_waits_for_the_rest(clock: Clock) -> None:
    rate = Rate(100, clock)
    assert rate.take(1000) == pytest.approx(9)


def test_what_is_given_back_can_be_taken_by_others(clock: Clock) -> None:
    rate = Rate(100, clock)
    rate.take(1000)
    rate.give_back(1000)
    assert rate.take(100) == pytest.approx(0)


def test_a_rate_is_full_when_a_second_has_passed_in_which_nothing_was_owed(clock: Clock) -> None:
    rate = Rate(100, clock)
    assert rate.full
    rate.take(150)
    clock.now += 1.4
    assert not rate.full
    clock.now += 0.11
    assert rate.full


def test_each_principal_has_a_quota_of_its_own(clock: Clock) -> None:
    quotas = Quotas(Config(max_principal_sessions=1, principal_open_rate=1), clock)
    ada, bob = quotas.of("ada"), quotas.of("bob")
    ada.check_open()
    ada.sessions += 1
    with pytest.raises(SessionLimit, match="you have 1 sessions"):
        ada.check_open()
    bob.check_open()
    with pytest.raises(SessionLimit, match="more than 1 sessions a second"):
        bob.check_open()
    assert quotas.of("ada") is ada


def test_an_open_that_the_number_of_sessions_refuses_costs_nothing_of_the_rate(clock: Clock) -> None:
    quota = Quotas(Config(max_principal_sessions=1, principal_open_rate=1), clock).of("ada")
    quota.sessions = 1
    with pytest.raises(SessionLimit):
        quota.check_open()
    quota.sessions = 0
    quota.check_open()


def test_without_limits_nothing_is_limited(clock: Clock) -> None:
    quota = Quotas(Config(), clock).of("ada")
    quota.sessions = 1_000_000
    quota.check_open()
    assert quota.events is None


def test_principals_that_use_nothing_are_forgotten_and_what_is_owed_is_not(clock: Clock) -> None:
    quotas = Quotas(Config(principal_event_rate=100, principal_open_rate=1), clock)
    holder, debtor = quotas.of("holder"), quotas.of("debtor")
    holder.sessions = 1
    assert debtor.events is not None
    for number in range(10 * LEAST_SWEEP):
        quotas.of(f"passing by {number}")
        debtor.events.take(100)
    assert len(quotas) <= LEAST_SWEEP
    assert (quotas.of("holder"), quotas.of("debtor")) == (holder, debtor)
