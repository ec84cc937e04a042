"""The noise between training seeds itself: how large it is, and whether some arms have more of it than others.

Arms share seeds, and arms that share a stage share a model: their scores move together. A ratio of variances by the F
distribution takes them as independent, and is wrong by far there: where the arms of one group share their
pre-training, its 95 % intervals hold 73 to 84 % of the time (`benchmarks/verdict/seed_spread.py`). So the interval of a
ratio comes from leaving out one seed at a time, of all arms at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from raycodellm.statistics.intervals import Interval, Variance, student_quantile

FEWEST_SEEDS = 4
"""Different seeds of each group from which on a ratio has an interval."""
Group = Sequence[Mapping[int, float]]
"""Arms, each with its scores by seed."""


def deviation(noise: Variance, level: float = 0.95) -> Interval:
    """The standard deviation with its interval by the χ² distribution, which holds for normal scores; NaN where the
    variance is unknown."""
    if not noise.degrees:
        return Interval(math.nan, math.nan, math.nan)
    from scipy.stats import chi2

    ends = (chi2.ppf((1 + sign * level) / 2, noise.degrees) for sign in (1, -1))
    low, high = (math.sqrt(noise.value * noise.degrees / float(end)) for end in ends)
    return Interval(math.sqrt(noise.value), low, high)


def deviation_ratio(some: Group, others: Group, level: float = 0.95) -> Interval:
    """Standard deviation between seeds of the arms `some`, over that of `others`, each pooled over its arms.

    The interval is that of the logarithm, by the jackknife over seeds (Miller 1968, Jackknifing variances) with
    Student's t. Its ends are NaN where a group has fewer than `FEWEST_SEEDS` seeds, or stands on a single one.
    """
    both = [[arm_scores for arm_scores in group if len(arm_scores) > 1] for group in (some, others)]
    seeds = [{seed for arm_scores in group for seed in arm_scores} for group in both]
    value = _log_ratio(both)
    if math.isnan(value):
        return Interval(math.nan, math.nan, math.nan)
    without_ends = Interval(math.exp(value / 2), math.nan, math.nan)
    fewest = min(map(len, seeds))
    if fewest < FEWEST_SEEDS:
        return without_ends
    all_seeds = seeds[0] | seeds[1]
    leave_one_out = np.array(
        [
            _log_ratio([[_without_seed(arm_scores, seed) for arm_scores in group] for group in both])
            for seed in all_seeds
        ]
    )
    if not np.isfinite(leave_one_out).all():
        return without_ends
    error = math.sqrt(float(np.var(leave_one_out)) * (len(all_seeds) - 1))
    half = student_quantile(fewest - 1, level) * error
    return Interval(*(math.exp(end / 2) for end in (value, value - half, value + half)))


def _without_seed(arm_scores: Mapping[int, float], seed: int) -> dict[int, float]:
    return {other: score for other, score in arm_scores.items() if other != seed}


def _log_ratio(groups: Sequence[Group]) -> float:
    """Logarithm of the ratio of the two pooled variances; NaN where one is unknown or 0."""
    logs = []
    for group in groups:
        values = [np.array(list(arm_scores.values())) for arm_scores in group if len(arm_scores) > 1]
        squares = sum(float(((arm_scores - arm_scores.mean()) ** 2).sum()) for arm_scores in values)
        if not squares > 0:
            return math.nan
        logs.append(math.log(squares / sum(len(arm_scores) - 1 for arm_scores in values)))
    return logs[0] - logs[1]
