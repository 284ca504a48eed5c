"""What a row of the table holds, and how sides are compared: medians over rounds in which they took turns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

__all__ = ["Comparison", "Result", "Sample", "Target", "alternate", "at_least", "at_most", "figure", "table"]

Sample = Mapping[str, float]
"""What one run of one side gave, by the name of what was measured."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for our figure, relative to another side's: ``factor * theirs + plus``.

    Attributes:
        least: it is a lower bound.
        factor: of their figure.
        plus: in the unit of the figures.
    """

    least: bool
    factor: float
    plus: float = 0.0

    def met(self, ours: list[float], theirs: list[float]) -> bool:
        """Tell whether most pairs keep it, going by the median pair."""
        excess = median(mine - (self.factor * other + self.plus) for mine, other in zip(ours, theirs, strict=True))
        return excess >= 0 if self.least else excess <= 0

    def __str__(self) -> str:
        bound = f"{'≥' if self.least else '≤'} {self.factor:g} ×"  # noqa: RUF001 - no letter x
        return bound + (f" + {_number(self.plus)}" if self.plus else "")


def at_most(factor: float, plus: float = 0.0) -> Target:
    """Return the target ``≤ factor * theirs + plus``."""
    return Target(False, factor, plus)


def at_least(factor: float) -> Target:
    """Return the target ``≥ factor * theirs``."""
    return Target(True, factor)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours and one other side.

    Attributes:
        side: the other.
        ratio: ours to theirs in the median pair; None where theirs is 0.
        spread: the least and the greatest ratio of a pair.
    """

    side: str
    ratio: float | None
    spread: tuple[float, float] | None
    target: Target | None
    met: bool | None


@dataclass(frozen=True, slots=True)
class Result:
    """One figure of all sides that have it.

    Attributes:
        what: was done and measured.
        unit: of the figures.
        samples: by side, ours under ``ours``; the n-th of each were taken in one round.
        targets: by the side that ours is held against.
    """

    what: str
    unit: str
    samples: Mapping[str, list[float]]
    targets: Mapping[str, Target] = field(default_factory=dict)

    def median(self, side: str = "ours") -> float:
        """Return the median of one side."""
        return median(self.samples[side])

    def comparisons(self) -> list[Comparison]:
        """Hold ours against each of the others."""
        found = []
        ours = self.samples["ours"]
        for side, theirs in self.samples.items():
            if side == "ours":
                continue
            ratios = [mine / other for mine, other in zip(ours, theirs, strict=True) if other]
            target = self.targets.get(side)
            found.append(
                Comparison(
                    side,
                    median(ratios) if ratios else None,
                    (min(ratios), max(ratios)) if ratios else None,
                    target,
                    target.met(ours, theirs) if target is not None else None,
                )
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return it for the file, with what was made of it."""
        return {
            **asdict(self),
            "medians": {side: self.median(side) for side in self.samples},
            "comparisons": [
                {**asdict(comparison), "target": str(comparison.target or "")} for comparison in self.comparisons()
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """Return what `to_json` was made of."""
        targets = {side: Target(**target) for side, target in data["targets"].items()}
        return cls(data["what"], data["unit"], data["samples"], targets)


async def alternate(
    rounds: int, sides: Mapping[str, Callable[[], Awaitable[Sample]]], *, warm_up: bool = True
) -> dict[str, list[Sample]]:
    """Run the sides in turn, A B A B; to warm up, first once without counting."""
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for run in sides.values() if warm_up else ():
        await run()
    for _ in range(rounds):
        for name, run in sides.items():
            samples[name].append(await run())
    return samples


def figure(samples: Mapping[str, list[Sample]], name: str) -> dict[str, list[float]]:
    """Return one of the figures that `alternate` has collected."""
    return {side: [sample[name] for sample in runs] for side, runs in samples.items()}


def table(results: list[Result]) -> str:
    """Return Markdown."""
    lines = [
        "| what | unit | ours | the others | ratio (least to greatest) | target | |",
        "|---|---|---:|---:|---|---|---|",
    ]
    for result in results:
        head = [result.what, result.unit, _number(result.median())]
        for comparison in result.comparisons():
            ratio = ""
            if comparison.ratio is not None and comparison.spread is not None:
                ratio = f"{comparison.ratio:.2f} ({comparison.spread[0]:.2f} to {comparison.spread[1]:.2f})"
            theirs = f"{comparison.side} {_number(result.median(comparison.side))}"
            target = str(comparison.target or "")
            if comparison.target is not None and comparison.target.plus:
                target += f" {result.unit}"
            verdict = "" if comparison.met is None else "met" if comparison.met else "**missed**"
            lines.append("| " + " | ".join([*head, theirs, ratio, target, verdict]) + " |")
            head = ["", "", ""]
        if head[0]:
            lines.append("| " + " | ".join([*head, "", "", "", ""]) + " |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
