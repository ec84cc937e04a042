"""Points of a sweep's search space: drawn at random, and between two others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycodellm.config import Domain, SweepFile
from raycodellm.config.simplex import WHOLE, Simplex
from raycodellm.regression.encoding import Point
from raycodellm.search.space import sample

AT_AN_END = 0.1
"""Share of the drawn numbers that are an end of their range, where a best often lies."""


@dataclass(frozen=True)
class RandomAsker:
    """Draws each parameter uniformly from its domain; a share `at_an_end` of the numbers is an end of it."""

    rng: np.random.Generator
    at_an_end: float = AT_AN_END

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        if self.rng.random() < self.at_an_end:
            return (low, high)[int(self.rng.integers(2))]
        share = float(self.rng.random())
        return low * (high / low) ** share if log else low + (high - low) * share


def random_points(file: SweepFile, num_points: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Whole points of the space, without the parameters that have no effect in them."""
    asker = RandomAsker(rng)
    return [sample(file, asker) for _ in range(num_points)]


def between(file: SweepFile, one: Point, other: Point, share: float) -> dict[str, Any] | None:
    """The point `share` of the way from `one` to `other`: again a mixture within its bounds.

    None where the two differ in the parameters that they have, or in a choice.
    """
    if one.keys() != other.keys():
        return None
    point: dict[str, Any] = {}
    for name, value in one.items():
        domain = file.domains[name]
        if domain.kind == "choice":
            if value != other[name]:
                return None
            point[name] = value
        else:
            point[name] = _between(domain, value, other[name], share)
    return point


def _between(domain: Domain, one: float, other: float, share: float) -> float | int:
    if domain.kind == "loguniform":
        return math.exp((1 - share) * math.log(one) + share * math.log(other))
    mixed = (1 - share) * one + share * other
    return round(mixed) if domain.kind == "int" else mixed


def in_round_numbers(file: SweepFile, point: Point) -> dict[str, Any]:
    """The point with weights in thousandths and other numbers in three digits, where the space allows these."""
    rounded = {name: _rounded(file.domains[name], value) for name, value in point.items()}
    for simplex in dict.fromkeys(domain.simplex for domain in file.domains.values() if domain.simplex):
        if all(name in point for name in simplex.names):
            rounded |= _rounded_mixture(simplex, {name: point[name] for name in simplex.names})
    return rounded


def _rounded(domain: Domain, value: Any) -> Any:
    if domain.kind not in ("uniform", "loguniform"):
        return value
    rounded = float(f"{value:.3g}")
    return min(max(rounded, domain.low), domain.high)


def _rounded_mixture(simplex: Simplex, weights: Mapping[str, float]) -> dict[str, float]:
    """Thousandths that add up to 1: the largest remainders are rounded up."""
    thousandths = {name: math.floor(weight * 1000 + 1e-9) for name, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda name: thousandths[name] - weights[name] * 1000)
    for name in by_remainder[: 1000 - sum(thousandths.values())]:
        thousandths[name] += 1
    bounds = zip(simplex.names, simplex.lows, simplex.highs, strict=True)
    if all(low <= thousandths[name] * WHOLE // 1000 <= high for name, low, high in bounds):
        return {name: count / 1000 for name, count in thousandths.items()}
    return dict(weights)
