"""The trend of an effect over the logarithm of a size, with an interval that holds the seeds' spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycodellm.statistics.differences import Difference
from raycodellm.statistics.intervals import Interval

FEWEST_SIZES = 3
"""Sizes below which a line through the effects leaves nothing over that could contradict it."""


@dataclass(frozen=True)
class SizeTrend:
    """A straight line through the effects at several sizes, over the logarithm of the size."""

    slope: Interval
    """Change of the effect for a size ten times as large, in the metric's unit."""
    is_straight: bool
    """False where an effect lies off the line by more than its noise: then the slope is no summary of them."""


def size_trend(sizes: Sequence[float], effects: Sequence[Difference], alpha: float = 0.05) -> SizeTrend | None:
    """The line by least squares, each effect weighted by its number of seeds; None with fewer than `FEWEST_SIZES` sizes
    or where the noise between seeds is unknown at one of them.

    The weights are those of the plan, not the inverse of the estimated variances: these would draw the line to the size
    whose few seeds agree by chance. Noise at different sizes is taken as independent. What the sizes share, such as the
    evaluation's items, moves all effects alike and the slope less, so the interval is rather too wide. Each effect's
    half-width enters in squares (Banerjee 1960; see `Difference.half_width`).
    """
    if len(set(sizes)) < FEWEST_SIZES or len(set(sizes)) < len(sizes) or not all(effect.is_known for effect in effects):
        return None
    weights = np.array([max(1, effect.num_seeds) for effect in effects], dtype=float)
    places, values = np.log10(np.asarray(sizes, dtype=float)), np.array([effect.value for effect in effects])
    design = np.column_stack([np.ones_like(places), places])
    solve = np.linalg.solve(design.T @ (design * weights[:, None]), (design * weights[:, None]).T)
    value, half = float(solve[1] @ values), _half_width(solve[1], effects, alpha)
    residual = np.eye(len(places)) - design @ solve
    bounds = [_half_width(row, effects, 0.05 / len(places)) for row in residual]
    is_straight = all(abs(gap) <= bound for gap, bound in zip(residual @ values, bounds, strict=True))
    return SizeTrend(Interval(value, value - half, value + half), is_straight)


def _half_width(coefficients: np.ndarray, effects: Sequence[Difference], alpha: float) -> float:
    """Half the interval, at 1 - `alpha`, of the sum of the effects times the coefficients."""
    return math.hypot(*(c * effect.half_width(alpha) for c, effect in zip(coefficients, effects, strict=True)))
