"""Noise between training seeds, and differences between arms that account for this noise, with 95 % intervals."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from raycodellm.statistics.intervals import UNKNOWN, Variance, student_quantile

Scores = Mapping[Hashable, Mapping[int, float]]
"""Maps each arm to its score by seed. Arms with the same seed share their first weights and their order of data."""


class SeedNoise(NamedTuple):
    """Variance between seeds, pooled over all arms of a sweep."""

    single: Variance
    """Variance of one score about its arm's mean."""
    paired: Variance
    """Variance of one score about its arm's mean, after each seed's effect on all arms is subtracted."""


def seed_noise(scores: Scores) -> SeedNoise:
    """Pools the variance between seeds over arms, which are taken to have different means and one common variance.

    `paired` is the residual variance of the linear model score = arm + seed. Arms that share seeds move together, so
    `single` has only as many degrees of freedom as the model has independent seed effects.
    """
    # A lone seed says nothing of the noise.
    arms = [arm_scores for arm_scores in scores.values() if len(arm_scores) > 1]
    column = {seed: place for place, seed in enumerate(sorted({seed for arm_scores in arms for seed in arm_scores}))}
    arm_deviations, design = [], []
    for arm_scores in arms:
        values = np.array(list(arm_scores.values()))
        chosen = np.zeros((len(arm_scores), len(column)))
        chosen[np.arange(len(arm_scores)), [column[seed] for seed in arm_scores]] = 1.0
        arm_deviations.append(values - values.mean())
        design.append(chosen - chosen.mean(axis=0))
    if not arms:
        return SeedNoise(UNKNOWN, UNKNOWN)
    deviations, effects = np.concatenate(arm_deviations), np.concatenate(design)
    fitted, _, rank, _ = np.linalg.lstsq(effects, deviations, rcond=None)
    degrees_within = len(deviations) - len(arms)
    residual_degrees = degrees_within - int(rank)
    residual = deviations - effects @ fitted
    return SeedNoise(
        Variance(float(deviations @ deviations) / degrees_within, float(rank)) if degrees_within else UNKNOWN,
        Variance(float(residual @ residual) / residual_degrees, float(residual_degrees))
        if residual_degrees
        else UNKNOWN,
    )


@functools.lru_cache(maxsize=1024)
def range_quantile(num_means: int, degrees: float, level: float = 0.95) -> float:
    """Number of standard errors within which, at `level`, all differences among `num_means` equal means lie.

    Tukey's studentized range over √2. It covers the differences to the best arm although the best was chosen by its
    score. For two means it is Student's t.
    """
    if num_means <= 2:
        return student_quantile(degrees, level)
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(level, num_means, degrees)) / math.sqrt(2)


def half_width(parts: Iterable[Variance], num_means: int = 2, level: float = 0.95) -> float:
    """Half the interval of a score, or of a difference among `num_means`, whose variance is the sum of `parts`.

    Each part's half-width has its own quantile, and the half-widths add up in squares: at least 95 % also where a part
    has a single degree of freedom (Banerjee 1960). Satterthwaite's degrees of freedom are too many there: with two
    seeds that agree by chance they would be those of the items. Parts of unknown variance are left out.
    """
    known = [part for part in parts if part.degrees]
    return math.hypot(*(range_quantile(num_means, part.degrees, level) * math.sqrt(part.value) for part in known))


class SeedDifference(NamedTuple):
    """Difference of two arms' scores, with its variance between seeds."""

    value: float
    variance: Variance
    """Variance between seeds; UNKNOWN where no arm has two seeds."""
    seeds: tuple[int, ...]
    """The seeds that both arms have and the difference is the mean over; empty for a difference of separate means."""


def seed_difference(mine: Mapping[int, float], other: Mapping[int, float], noise: SeedNoise) -> SeedDifference:
    """Score of `mine` minus that of `other`: the mean over the seeds that both have, where the variance of such
    differences is known; else the difference of their means, taken as independent."""
    shared = sorted(mine.keys() & other.keys())
    if shared and noise.paired.degrees:
        value = statistics.fmean(mine[seed] - other[seed] for seed in shared)
        return SeedDifference(value, noise.paired.times(2 / len(shared)), tuple(shared))
    value = statistics.fmean(mine.values()) - statistics.fmean(other.values())
    return SeedDifference(value, noise.single.times(1 / len(mine) + 1 / len(other)), ())
