"""95 % intervals of shares, of means, of unweighted means over several samples, and of paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raycodellm.statistics.samples import Sample, numbers_of, share_an_item


class Interval(NamedTuple):
    """An estimate with its 95 % interval; the ends are NaN where they are not known."""

    value: float
    low: float
    high: float


Z95 = statistics.NormalDist().inv_cdf(0.975)


def wilson_interval(correct: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of the share `correct` of `n` (Wilson 1927): within 0 to 1, and never of width 0. `n` may
    be a fraction: the number of independent items that say as much as dependent ones.

    Raises ValueError where `correct` of `n` is no share.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} right of {n} is not a share")
    share, z2 = correct / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At 0 and at n the formula gives the end of the interval up to rounding only.
    return (0.0 if correct == 0 else middle - half), (1.0 if correct == n else middle + half)


def student_quantile(degrees: float, level: float = 0.95) -> float:
    """Number of standard errors on either side that hold with probability `level`, by Student's t.

    Raises ValueError for 0 degrees of freedom or fewer.
    """
    if degrees <= 0:
        raise ValueError(f"{degrees} degrees of freedom; more than 0 are needed")
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and its 95 % interval by Student's t; infinite for a single value. Raises ValueError for no values."""
    if not values:
        raise ValueError("there is no mean of no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean, -math.inf, math.inf)
    half = student_quantile(len(values) - 1) * math.sqrt(statistics.variance(values, mean) / len(values))
    return Interval(mean, mean - half, mean + half)


class Variance(NamedTuple):
    """An estimated variance of a mean or of a difference."""

    value: float
    degrees: float
    """Degrees of freedom; 0 where the variance is not known."""

    def times(self, factor: float) -> Variance:
        return Variance(self.value * factor, self.degrees)


UNKNOWN = Variance(0.0, 0.0)


def correlations(samples: Sequence[Sample]) -> np.ndarray:
    """Correlation matrix of the samples' means: 0 for two samples without a common item, 1 for equal samples."""
    matrix = np.eye(len(samples))
    for i, mine in enumerate(samples):
        for j, other in enumerate(samples[:i]):
            if share_an_item(mine, other):
                left, right = _deviations(mine), _deviations(other)
                matrix[i, j] = matrix[j, i] = math.fsum(left[item] * right[item] for item in left.keys() & right.keys())
    return matrix


def _deviations(sample: Sample) -> Sample:
    """Each item's deviation from the mean, in units of the root of their sum of squares."""
    values = numbers_of(sample)
    gaps = values - values.mean()
    return dict(zip(sample, (gaps / (math.sqrt(gaps @ gaps) or 1.0)).tolist(), strict=True))


def mean_of_intervals(intervals: Sequence[Interval], correlation: np.ndarray | None = None) -> Interval:
    """Unweighted mean of estimates, which are independent unless a `correlation` matrix is given.

    The distances to the low ends add up in squares, and so do those to the high ends: an asymmetric interval stays so.
    """
    n = len(intervals)
    correlation = np.eye(n) if correlation is None else correlation
    mean = math.fsum(value for value, _, _ in intervals) / n
    below = _half_width_of_sum([value - low for value, low, _ in intervals], correlation) / n
    above = _half_width_of_sum([high - value for value, _, high in intervals], correlation) / n
    return Interval(mean, mean - below, mean + above)


def _half_width_of_sum(widths: Sequence[float], correlation: np.ndarray) -> float:
    """Half-width of a sum of estimates from their half-widths. Skips correlations of 0: 0 times infinity is NaN."""
    pairs = zip(*np.nonzero(correlation), strict=True)
    return math.sqrt(max(0.0, math.fsum(correlation[i, j] * widths[i] * widths[j] for i, j in pairs)))


def mean_variance(samples: Sequence[Sample]) -> Variance:
    """Variance of the unweighted mean of the samples' means; UNKNOWN where a sample has a single item."""
    if not samples or min(map(len, samples)) < 2:
        return UNKNOWN
    errors = [float(np.std(numbers_of(sample), ddof=1)) / math.sqrt(len(sample)) for sample in samples]
    value = (_half_width_of_sum(errors, correlations(samples)) / len(samples)) ** 2
    return Variance(value, sum(map(len, samples)) - len(samples))


def paired_difference(base: Sequence[Sample], other: Sequence[Sample]) -> Interval | None:
    """Mean of `other` minus mean of `base`, each sample over the items that both have, unweighted over the samples.

    Where no item differs and all values are shares, the interval is the score interval of two paired shares without a
    discordant pair (Tango 1998): so many equal items do not show that the shares are exactly equal. None where a sample
    has no item in both, or the numbers of samples differ.
    """
    if len(base) != len(other) or any(not a.keys() & b.keys() for a, b in zip(base, other, strict=True)):
        return None
    pairs = zip(base, other, strict=True)
    gaps = [{item: b[item] - a[item] for item in sorted(a.keys() & b.keys())} for a, b in pairs]
    intervals = []
    for gap, sample in zip(gaps, base, strict=True):
        equal_shares = not any(gap.values()) and all(0 <= sample[item] <= 1 for item in gap)
        half = Z95**2 / (len(gap) + Z95**2)
        intervals.append(Interval(0.0, -half, half) if equal_shares else mean_interval([*gap.values()]))
    return mean_of_intervals(intervals, correlations(gaps))
