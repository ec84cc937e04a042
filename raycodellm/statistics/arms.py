"""The score of an arm, and the difference between two arms, each with its 95 % interval over items and seeds.

A score is uncertain because of the items that the tasks happen to hold, and because of the seeds that the arm was
trained with. All arms answer the same items and share seeds. So a difference is taken item by item and seed by seed,
which cancels what makes an item hard for both arms, and what a seed does to both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raycodellm.statistics.intervals import UNKNOWN, Z95, Interval, Variance, mean_variance
from raycodellm.statistics.samples import Sample, numbers_like, numbers_of, with_numbers
from raycodellm.statistics.seeds import SeedNoise, half_width, seed_difference

RECORDED_DEGREES = 1000.0
"""Degrees of freedom assumed for a recorded interval over items: those of about a thousand items."""


@dataclass(frozen=True)
class ArmMeasurements:
    """One metric of one arm: its scores by seed, and the items that the scores are means of."""

    scores: Mapping[int, float]
    """Maps each seed to its score; at least one."""
    samples: Mapping[int, Sequence[Sample]]
    """Maps each seed to the samples whose means' unweighted mean is the score; no samples where they are not known."""
    recorded: Interval | None
    """The first seed's score with the interval over items that its evaluation recorded."""
    place: float | None = None
    """Where the arm stands among others, such as its mean code ratio from 0 to 1; arms near it have similar noise."""
    _known_means: dict[tuple[int, ...], list[Sample]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def score(self) -> float:
        """Mean score over the seeds."""
        return statistics.fmean(self.scores.values())

    def interval(self, noise: SeedNoise) -> Interval:
        """The score, with an interval over items and seeds; over items alone while the seeds' noise is unknown."""
        if not noise.single.degrees and self.recorded is not None and len(self.scores) == 1:
            return self.recorded  # a Wilson interval, which is better than Student's for shares near 0 and 1
        return _interval(self.score, self.item_variance(self.scores), noise.single.times(1 / len(self.scores)))

    def minus(self, other: ArmMeasurements, noise: SeedNoise, num_arms: int, level: float = 0.95) -> Interval:
        """This score minus the other's. The interval holds with probability `level` for all differences among
        `num_arms` arms at once; its ends are NaN while the seeds' noise is unknown."""
        gap = seed_difference(self.scores, other.scores, noise)
        if not gap.variance.degrees:
            return Interval(gap.value, math.nan, math.nan)
        items = self._item_variance_of_difference(other, gap.seeds)
        return _interval(gap.value, items, gap.variance, num_arms=num_arms, level=level)

    def _item_variance_of_difference(self, other: ArmMeasurements, seeds: Sequence[int]) -> Variance:
        mine, theirs = self.mean_samples(seeds or self.scores), other.mean_samples(seeds or other.scores)
        item_gaps = gaps(mine, theirs)
        if item_gaps:
            return mean_variance(item_gaps)
        separate = self.item_variance(self.scores), other.item_variance(other.scores)  # items differ: as independent
        if not all(variance.degrees for variance in separate):
            return UNKNOWN
        return Variance(sum(variance.value for variance in separate), min(variance.degrees for variance in separate))

    def item_variance(self, seeds: Iterable[int]) -> Variance:
        """Variance over items of the mean over the seeds."""
        variance = mean_variance(self.mean_samples(seeds))
        if not variance.degrees and self.recorded is not None:
            return Variance(((self.recorded.high - self.recorded.low) / (2 * Z95)) ** 2, RECORDED_DEGREES)
        return variance

    def mean_samples(self, seeds: Iterable[int]) -> list[Sample]:
        """Each item's mean over the seeds; no samples where the seeds' items differ."""
        key = tuple(seeds)
        if key not in self._known_means:  # the arm that others are compared with is asked once for each of them
            self._known_means[key] = mean_of_each(*(self.samples[seed] for seed in key))
        return self._known_means[key]


def mean_of_each(first: Sequence[Sample], *rest: Sequence[Sample]) -> list[Sample]:
    """Each item's mean over the seeds' samples; no samples where the seeds' items differ."""
    if any(len(samples) != len(first) for samples in rest):
        return []
    means: list[Sample] = []
    for like, *others in zip(first, *rest, strict=True):
        values = [numbers_of(like)]
        for other in others:
            aligned = numbers_like(other, like)
            if aligned is None:
                return []
            values.append(aligned)
        means.append(with_numbers(like, np.mean(values, axis=0)))
    return means


def gaps(mine: Sequence[Sample], theirs: Sequence[Sample]) -> list[Sample]:
    """The differences item by item; no samples where the items differ."""
    if len(mine) != len(theirs):
        return []
    differences: list[Sample] = []
    for my_sample, their_sample in zip(mine, theirs, strict=True):
        aligned = numbers_like(their_sample, my_sample)
        if aligned is None:
            return []
        differences.append(with_numbers(my_sample, numbers_of(my_sample) - aligned))
    return differences


def mean_of_samples(samples: Sequence[Sample]) -> float:
    """Unweighted mean of the samples' means."""
    return statistics.fmean(float(numbers_of(sample).mean()) for sample in samples)


def pareto_front(points: Mapping[int, Sequence[float]], minimise: Sequence[bool]) -> set[int]:
    """The arms that no other arm beats: better in one objective, and at least as good in all.

    `points` maps each arm to its value of each objective; `minimise` says of each objective whether less is better.
    """
    signed = {
        arm: tuple(value if less else -value for value, less in zip(point, minimise, strict=True))
        for arm, point in points.items()
    }
    return {
        arm
        for arm, mine in signed.items()
        if not any(other != mine and all(b <= a for a, b in zip(mine, other, strict=True)) for other in signed.values())
    }


def _interval(value: float, *parts: Variance, num_arms: int = 2, level: float = 0.95) -> Interval:
    if not any(part.degrees for part in parts):
        return Interval(value, math.nan, math.nan)
    half = half_width(parts, num_arms, level)
    return Interval(value, value - half, value + half)
