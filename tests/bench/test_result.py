"""How sides are compared."""

from __future__ import annotations

import json
from functools import partial

import pytest

from bench.result import Result, Sample, Target, alternate, at_least, at_most, figure, table


@pytest.mark.parametrize(
    ("target", "ours", "met"),
    [
        (at_most(1.25), [125.0], True),
        (at_most(1.25), [126.0], False),
        (at_most(1, plus=8), [108.0], True),
        (at_most(1, plus=8), [109.0], False),
        (at_least(0.9), [90.0], True),
        (at_least(0.9), [89.0], False),
    ],
)
def test_a_target_is_a_bound_relative_to_the_other_side(target: Target, ours: list[float], met: bool) -> None:
    assert target.met(ours, [100.0]) is met


def test_the_median_pair_decides_and_a_round_that_was_slow_for_both_sides_does_not_count_against_us() -> None:
    result = Result("trip", "us", {"ours": [11, 110, 12], "bare": [10, 100, 20]}, {"bare": at_most(1.1)})

    [comparison] = result.comparisons()

    assert comparison.ratio == pytest.approx(1.1)
    assert comparison.spread == (0.6, 1.1)
    assert comparison.met


def test_a_side_that_needed_nothing_has_no_ratio_but_can_still_be_compared() -> None:
    [comparison] = Result("idle", "ms/s", {"ours": [2], "none": [0]}, {"none": at_most(1, plus=1)}).comparisons()

    assert comparison.ratio is None
    assert comparison.met is False


def test_the_table_has_a_line_for_each_side_that_ours_is_held_against() -> None:
    samples = {"ours": [2000.0], "bare": [1000.0], "PyWebIO": [4000.0]}

    lines = table([Result("push", "1/s", samples, {"bare": at_least(3)}), Result("alone", "s", {"ours": [1.5]})])

    assert lines.splitlines()[2:] == [
        "| push | 1/s | 2,000 | bare 1,000 | 2.00 (2.00 to 2.00) | ≥ 3 × | **missed** |",  # noqa: RUF001
        "|  |  |  | PyWebIO 4,000 | 0.50 (0.50 to 0.50) |  |  |",
        "| alone | s | 1.5 |  |  |  |  |",
    ]


def test_a_result_survives_the_file() -> None:
    result = Result("trip", "us", {"ours": [1.0, 2.0], "bare": [1.0, 1.0]}, {"bare": at_most(2, plus=0.5)})

    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


async def test_the_sides_take_turns_and_the_first_turn_of_each_does_not_count() -> None:
    turns: list[str] = []

    async def turn(side: str) -> Sample:
        turns.append(side)
        return {"number": len(turns)}

    samples = await alternate(2, {side: partial(turn, side) for side in "AB"})

    assert "".join(turns) == "ABABAB"
    assert figure(samples, "number") == {"A": [3, 5], "B": [4, 6]}
