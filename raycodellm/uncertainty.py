"""How sure one can be: intervals of shares and means, differences over the same evaluation items, and differences of
arms, whose seeds are a second source of noise. All at 95 %."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Interval = tuple[float, float, float]
"""Value, and the low and high end of its 95 % interval."""

Z95 = statistics.NormalDist().inv_cdf(0.975)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share: `correct` of `n`. Never outside 0 to 1, and never of no width, also at 0 and at `n`."""
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} right of {n} is not a share")
    share, z2 = correct / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends the formula gives the end itself up to rounding.
    return (0.0 if correct == 0 else middle - half), (1.0 if correct == n else middle + half)


def student_quantile(degrees: float) -> float:
    """97.5 % quantile of Student's t."""
    if degrees <= 0:
        raise ValueError(f"{degrees} degrees of freedom; more than 0 are needed")
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and its 95 % interval by Student's t. One value says nothing of its spread: the interval is infinite."""
    if not values:
        raise ValueError("there is no mean of no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, -math.inf, math.inf
    half = student_quantile(len(values) - 1) * math.sqrt(statistics.variance(values, mean) / len(values))
    return mean, mean - half, mean + half


class Variance(NamedTuple):
    value: float
    degrees: float
    """Degrees of freedom; 0 where the variance is not known."""

    def times(self, factor: float) -> Variance:
        return Variance(self.value * factor, self.degrees)


UNKNOWN = Variance(0.0, 0.0)

# --------------------------------------------------------------------------------------------- items and tasks

Sample = Mapping[Hashable, float]
"""The value of each item that was scored, by what names the item."""


def correlations(samples: Sequence[Sample]) -> np.ndarray:
    """Correlations of the samples' means: 0 where two have no item in common, 1 where they are the same."""
    deviations = []
    for sample in samples:
        mean = math.fsum(sample.values()) / len(sample)
        norm = math.sqrt(math.fsum((value - mean) ** 2 for value in sample.values())) or 1.0
        deviations.append({item: (value - mean) / norm for item, value in sample.items()})
    found = np.eye(len(samples))
    for i, mine in enumerate(deviations):
        for j, other in enumerate(deviations[:i]):
            found[i, j] = found[j, i] = math.fsum(mine[item] * other[item] for item in mine.keys() & other.keys())
    return found


def mean_of_intervals(intervals: Sequence[Interval], correlation: np.ndarray | None = None) -> Interval:
    """Unweighted mean of estimates, independent unless a `correlation` is given; each side's distances add up in
    squares, so that lopsided intervals stay so."""
    n = len(intervals)
    correlation = np.eye(n) if correlation is None else correlation
    mean = math.fsum(value for value, _, _ in intervals) / n
    below = _summed([value - low for value, low, _ in intervals], correlation) / n
    above = _summed([high - value for value, _, high in intervals], correlation) / n
    return mean, mean - below, mean + above


def _summed(widths: Sequence[float], correlation: np.ndarray) -> float:
    """Half-width of a sum of estimates with these half-widths; an infinite one times a correlation of 0 is nothing."""
    pairs = zip(*np.nonzero(correlation), strict=True)
    return math.sqrt(max(0.0, math.fsum(correlation[i, j] * widths[i] * widths[j] for i, j in pairs)))


def mean_variance(samples: Sequence[Sample]) -> Variance:
    """Variance of the unweighted mean of the samples' means; unknown where a sample has a single item."""
    if not samples or min(map(len, samples)) < 2:
        return UNKNOWN
    errors = [math.sqrt(statistics.variance(sample.values()) / len(sample)) for sample in samples]
    value = (_summed(errors, correlations(samples)) / len(samples)) ** 2
    return Variance(value, sum(map(len, samples)) - len(samples))


# ---------------------------------------------------------------------------------------------- seeds and arms

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
