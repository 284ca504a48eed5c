"""The arithmetic of a window (docs/protocol.md D5)."""

from __future__ import annotations

import dataclasses

import pytest

from session_service.window import Window


def test_a_window_is_1024_elements_and_1_mib_by_default() -> None:
    assert Window() == Window(messages=1024, size=1024 * 1024)


def test_the_first_element_fits_however_large_it_is() -> None:
    assert Window(messages=1, size=10).fits(0, 0, 1_000_000)


def test_further_elements_fit_until_they_are_as_many_as_the_window_says() -> None:
    window = Window(messages=2, size=100)
    assert window.fits(1, 1, 1)
    assert not window.fits(2, 2, 1)


def test_further_elements_fit_until_their_sizes_sum_to_the_window() -> None:
    window = Window(messages=10, size=100)
    assert window.fits(1, 60, 40)
    assert not window.fits(1, 60, 41)


def test_nothing_fits_behind_an_element_larger_than_the_window() -> None:
    assert not Window(messages=10, size=100).fits(1, 101, 1)


@pytest.mark.parametrize(("messages", "size", "room"), [(1, 99, True), (2, 1, False), (1, 100, False), (0, 0, True)])
def test_there_is_room_while_neither_number_is_reached(messages: int, size: int, room: bool) -> None:
    assert Window(messages=2, size=100).has_room(messages, size) is room


def test_a_window_cannot_be_changed_behind_the_back_of_who_uses_it() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Window().messages = 1  # type: ignore[misc] # that it is refused is the point
