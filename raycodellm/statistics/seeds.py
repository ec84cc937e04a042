"""Noise between training seeds, and differences between arms that hold it. All intervals at 95 %."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from raycodellm.statistics.intervals import UNKNOWN, Variance, student_quantile

Scores = Mapping[Hashable, Mapping[int, float]]
"""Arm -> seed -> score. Arms with the same seed share what that seed decides: first weights and order of data."""


class SeedNoise(NamedTuple):
    """How much the choice of seeds moves scores, pooled over all arms of a sweep."""

    single: Variance
    """Variance of one score about its arm's mean."""
    paired: Variance
    """Variance of one score about its arm's mean once what the seed does to all arms alike is taken out."""


def seed_noise(scores: Scores) -> SeedNoise:
    """Pools the seeds' spread over arms: each arm is taken to have its own mean and one common spread.

    `paired` is the residual of score = arm + seed. Arms that share seeds move together, so that `single` has no more
    degrees of freedom than there are seed effects to tell apart, however many arms there are.
    """
    arms = [one for one in scores.values() if one]
    column = {seed: place for place, seed in enumerate(sorted({seed for one in arms for seed in one}))}
    own, design = [], []
    for one in arms:
        values = np.array(list(one.values()))
        chosen = np.zeros((len(one), len(column)))
        chosen[np.arange(len(one)), [column[seed] for seed in one]] = 1.0
        own.append(values - values.mean())
        design.append(chosen - chosen.mean(axis=0))
    if not arms:
        return SeedNoise(UNKNOWN, UNKNOWN)
    deviations, effects = np.concatenate(own), np.concatenate(design)
    fitted, _, rank, _ = np.linalg.lstsq(effects, deviations, rcond=None)
    within = len(deviations) - len(arms)
    rest = within - int(rank)
    residual = deviations - effects @ fitted
    return SeedNoise(
        Variance(float(deviations @ deviations) / within, float(rank)) if within else UNKNOWN,
        Variance(float(residual @ residual) / rest, float(rest)) if rest else UNKNOWN,
    )


@functools.lru_cache(maxsize=1024)
def range_quantile(num_means: int, degrees: float) -> float:
    """Standard errors of a difference that all differences among `num_means` equal means stay within, 95 % of times.

    Tukey's studentized range over √2: it holds for the best against each other arm although the best was chosen by
    looking. Of two means it is Student's t.
    """
    if num_means <= 2:
        return student_quantile(degrees)
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(0.95, num_means, degrees)) / math.sqrt(2)


def half_width(parts: Iterable[Variance], num_means: int = 2) -> float:
    """Half the 95 % interval of a difference among `num_means`, or of a score, whose variance is the sum of `parts`.

    Each part has its own quantile, and the half-widths add up in squares: never too narrow, also where a part has a
    single degree of freedom (Banerjee 1960). Satterthwaite's degrees are too many there: two seeds that agree by chance
    would leave the items' many.
    """
    found = [part for part in parts if part.degrees]
    return math.hypot(*(range_quantile(num_means, part.degrees) * math.sqrt(part.value) for part in found))


class Difference(NamedTuple):
    value: float
    variance: Variance
    """That the seeds give it; unknown where no arm says anything of the seeds."""
    seeds: tuple[int, ...]
    """The seeds that both have, and that the difference was taken over; empty where it is one of separate means."""


def seed_difference(mine: Mapping[int, float], other: Mapping[int, float], noise: SeedNoise) -> Difference:
    """Score of `mine` less that of `other`: seed by seed over the seeds that both have, where the spread of such
    differences is known; else of their means, as if independent."""
    shared = sorted(mine.keys() & other.keys())
    if shared and noise.paired.degrees:
        value = statistics.fmean(mine[seed] - other[seed] for seed in shared)
        return Difference(value, noise.paired.times(2 / len(shared)), tuple(shared))
    value = statistics.fmean(mine.values()) - statistics.fmean(other.values())
    return Difference(value, noise.single.times(1 / len(mine) + 1 / len(other)), ())
