"""The difference between an arm and the reference: its size, its variances, its p-value and its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycodellm.statistics.arms import ArmMeasurements, gaps, mean_of_each
from raycodellm.statistics.intervals import UNKNOWN, Interval, Variance, mean_variance
from raycodellm.statistics.samples import Sample, numbers_of, with_numbers
from raycodellm.statistics.seed_variance import SeedScores, variance_between_seeds

_LEAST_LOG_P = -140.0
"""Natural logarithm of the least p-value; smaller ones count as 0."""
_MOST_SQUARED = 1e300


@dataclass(frozen=True)
class Difference:
    """An arm's score minus the reference's, with the variances that make it uncertain."""

    value: float
    """In the metric's unit."""
    seeds: Variance
    """Variance of the difference over training seeds; UNKNOWN where no arm has two seeds: then nothing is claimed."""
    items: Variance
    """Variance over the evaluation's items; UNKNOWN, and left out, where no item and no recorded interval is known."""
    both: float = 0.0
    """Part of `seeds` and of `items` alike: answers that change from seed to seed, item by item, show in either."""
    num_seeds: int = 0
    """Seeds of the arm in the difference: those that pair it with the reference, or all its own."""
    num_items: int = 0
    """Items, or clusters of items, that both arms answered; 0 where they are not known."""
    paired: bool = False
    """True if the difference is the mean over shared seeds; False if it is the difference of two separate means."""

    @property
    def is_known(self) -> bool:
        """True if the noise between seeds is known, so that there is a p-value and an interval."""
        return self.seeds.degrees > 0

    @property
    def standard_error(self) -> float:
        """NaN while the seeds' noise is unknown."""
        if not self.is_known:
            return math.nan
        return math.sqrt(max(self.seeds.value + max(self.items.value - self.both, 0.0), self.items.value))

    def half_width(self, alpha: float) -> float:
        """Half the interval that holds the true difference with probability 1 - `alpha`; NaN while not known.

        Each variance has its own quantile of Student's t, and the half-widths add up in squares (Banerjee 1960): at
        least 1 - `alpha` whatever the ratio of the variances. Satterthwaite's degrees of freedom for their sum are too
        many where few seeds agree by chance: at the worst ratio his interval at 95 % misses in 12.9 % of cases with one
        degree of freedom between seeds, in 6.5 % with three; that at 99.75 % in 6.4 % and 1.1 %. The interval is never
        narrower than that of the items alone.
        """
        if not self.is_known:
            return math.nan
        over_seeds = _squared_quantile(self.seeds.degrees, alpha) * self.seeds.value
        if not self.items.degrees:
            return math.sqrt(over_seeds)
        squared = _squared_quantile(self.items.degrees, alpha)
        items_alone = squared * max(self.items.value - self.both, 0.0)
        return math.sqrt(max(over_seeds + items_alone, squared * self.items.value))

    def interval(self, alpha: float = 0.05) -> Interval:
        """The difference with its interval at 1 - `alpha`; it excludes 0 exactly if `p_value()` is below `alpha`."""
        half = self.half_width(alpha)
        return Interval(self.value, self.value - half, self.value + half)

    def p_value(self) -> float:
        """Two-sided p-value of no difference: the `alpha` at which the interval ends at 0; NaN while not known."""
        if not self.is_known:
            return math.nan
        if self.value == 0:
            return 1.0
        from scipy.optimize import brentq

        def excess(log_alpha: float) -> float:
            return self.half_width(math.exp(log_alpha)) - abs(self.value)

        if excess(_LEAST_LOG_P) < 0:
            return 0.0
        return math.exp(float(brentq(excess, _LEAST_LOG_P, 0.0, xtol=1e-10)))


def _squared_quantile(degrees: float, alpha: float) -> float:
    """Square of the number of standard errors on either side that hold with probability 1 - `alpha`, by Student's t;
    exact for the least `alpha` too, and finite, so that a variance of 0 stays without effect."""
    from scipy.special import stdtrit

    quantile = float(stdtrit(degrees, alpha / 2))
    return min(quantile * quantile, _MOST_SQUARED)


def difference(arm: ArmMeasurements, reference: ArmMeasurements, pool: Sequence[ArmMeasurements] = ()) -> Difference:
    """`arm` minus `reference` in one metric, over the seeds that both have where these pair them, else of their means.

    `pool`: all measurements of the metric in the sweep that tell the noise between seeds. `arm` and `reference` count
    once, whether they stand in it or not. An arm's search and its confirmation are two measurements, since a mean that
    was chosen for being the best is not the mean of fresh seeds.
    """
    pool_scores = [
        SeedScores(measured.scores, measured.place)
        for measured in pool
        if measured is not arm and measured is not reference
    ]
    mine, theirs = SeedScores(arm.scores, arm.place), SeedScores(reference.scores, reference.place)
    noise = variance_between_seeds(mine, theirs, pool_scores)
    my_seeds, their_seeds = noise.seeds or tuple(arm.scores), noise.seeds or tuple(reference.scores)
    value = float(np.mean([arm.scores[seed] for seed in my_seeds]))
    value -= float(np.mean([reference.scores[seed] for seed in their_seeds]))
    mean_gaps = gaps(arm.mean_samples(my_seeds), reference.mean_samples(their_seeds))
    if mean_gaps:
        items = mean_variance(mean_gaps)
        both = _interaction_variance(arm, reference, noise.seeds) if items.degrees else 0.0
    else:  # the items differ or are not known: as two independent scores
        items, both = _sum_of_variances(arm.item_variance(my_seeds), reference.item_variance(their_seeds)), 0.0
    return Difference(
        value=value,
        seeds=noise.variance,
        items=items,
        both=min(both, items.value),
        num_seeds=len(my_seeds),
        num_items=sum(map(len, mean_gaps)),
        paired=bool(noise.seeds),
    )


def _sum_of_variances(one: Variance, other: Variance) -> Variance:
    if not (one.degrees and other.degrees):
        return UNKNOWN
    return Variance(one.value + other.value, min(one.degrees, other.degrees))


def _interaction_variance(arm: ArmMeasurements, reference: ArmMeasurements, seeds: Sequence[int]) -> float:
    """The variance of the mean difference that answers which change from seed to seed, item by item, give it."""
    if seeds:
        return _interaction([gaps(arm.samples[seed], reference.samples[seed]) for seed in seeds])
    return sum(_interaction([one.samples[seed] for seed in one.scores]) for one in (arm, reference))


def _interaction(by_seed: Sequence[Sequence[Sample]]) -> float:
    """The part of a mean over seeds and items that is the interaction of both (two-way analysis of variance)."""
    means = mean_of_each(*by_seed)
    if len(by_seed) < 2 or not means:
        return 0.0
    total = 0.0
    for samples in by_seed:
        pairs = zip(samples, means, strict=True)
        total += mean_variance([with_numbers(mean, numbers_of(sample) - numbers_of(mean)) for sample, mean in pairs])[0]
    return total / (len(by_seed) * (len(by_seed) - 1))
