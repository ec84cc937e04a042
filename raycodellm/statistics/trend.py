"""A smooth mean of scores along a number, with the band in which the mean lies with 95 % probability."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raycodellm.statistics.intervals import Interval, student_quantile

FEWEST_PLACES, FEWEST_DEGREES = 3, 3
"""Different numbers on which scores must lie to hold a parabola, and scores beyond its three coefficients, which show
how far it is off."""


def quadratic_band(
    places: Sequence[float], scores: Sequence[float], weights: Sequence[float], at: Sequence[float]
) -> list[Interval]:
    """The mean score at each number in `at`, by a parabola fitted to `scores` at `places` by weighted least squares.

    `weights`: of each score, such as the number of its seeds. Whatever moves scores beside the parabola counts as noise
    that is independent from score to score. Empty with too few scores (`FEWEST_PLACES`, `FEWEST_DEGREES`).
    """
    degrees = len(places) - 3
    if len(set(places)) < FEWEST_PLACES or degrees < FEWEST_DEGREES:
        return []
    middle, span = min(places) + (max(places) - min(places)) / 2, (max(places) - min(places)) / 2

    def columns(numbers: Sequence[float]) -> np.ndarray:
        return np.vander((np.asarray(numbers, dtype=float) - middle) / span, 3)

    design, share = columns(places), np.asarray(weights, dtype=float) / np.mean(weights)
    inverse = np.linalg.inv(design.T @ (design * share[:, None]))
    coefficients = inverse @ (design.T @ (share * np.asarray(scores, dtype=float)))
    residuals = np.asarray(scores, dtype=float) - design @ coefficients
    variance = float(share @ residuals**2) / degrees
    rows, quantile = columns(at), student_quantile(degrees)
    means = rows @ coefficients
    halves = quantile * np.sqrt(variance * np.einsum("ij,jk,ik->i", rows, inverse, rows))
    return [
        Interval(float(mean), float(mean - half), float(mean + half))
        for mean, half in zip(means, halves, strict=True)
        if math.isfinite(half)
    ]
