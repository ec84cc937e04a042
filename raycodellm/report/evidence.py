"""An arm's complete trials on one metric: its score, the difference to another arm, and how sure each is.

Two things make a score uncertain, and both are in an interval or it is said that one is missing: which items the tasks
happen to hold, and which seeds the arm was trained with. Arms are asked the same items and share seeds, so a difference
is taken item by item and seed by seed: what is hard for both, and what a seed does to both, drops out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from raycodellm import evaluation
from raycodellm.statistics import UNKNOWN, Z95, SeedNoise, Variance, half_width, mean_variance, seed_difference

if TYPE_CHECKING:
    import pyarrow as pa

    from raycodellm.evaluation.table import Sample


class Interval(NamedTuple):
    value: float
    low: float
    high: float
    """Ends of the 95 % interval; NaN where it is not known."""


@dataclass(frozen=True)
class Evidence:
    scores: Mapping[int, float]
    """Seed -> score."""
    samples: Mapping[int, Sequence[Sample]]
    """Seed -> the items that the score is made of, as `evaluation.samples` has them; none where they are not known."""
    recorded: Interval | None
    """As the evaluation wrote it, of the first seed: over items alone."""

    @property
    def score(self) -> float:
        return statistics.fmean(self.scores.values())

    @staticmethod
    def of(metric: str, complete: Sequence[Mapping[str, Any]], items: Mapping[int, pa.Table]) -> Evidence:
        """`complete`: rows of `trials.parquet` that have a finite `metric`; `items`: trial number to table of items."""
        scores = {row["seed"]: float(row[f"metrics.{metric}"]) for row in complete}
        ends = [complete[0].get(f"metrics.{metric}_{end}") for end in ("low", "high")]
        known = all(end is not None and math.isfinite(end) for end in ends)
        return Evidence(
            scores=scores,
            samples={row["seed"]: _samples(items.get(row["number"]), metric, scores[row["seed"]]) for row in complete},
            recorded=Interval(float(complete[0][f"metrics.{metric}"]), *map(float, ends)) if known else None,
        )

    def interval(self, noise: SeedNoise) -> Interval:
        """Interval of the score: over items and seeds, or over items alone where nothing is known of the seeds."""
        if not noise.single.degrees and self.recorded is not None and len(self.scores) == 1:
            return self.recorded  # the evaluation's own, which for shares near 0 and 1 is better than Student's
        return _interval(self.score, self._items(self.scores), noise.single.times(1 / len(self.scores)))

    def minus(self, other: Evidence, noise: SeedNoise, num_arms: int) -> Interval:
        """Score less the other's. The interval is one of all differences among `num_arms` at once, and unknown where
        nothing is known of the seeds."""
        found = seed_difference(self.scores, other.scores, noise)
        if not found.variance.degrees:
            return Interval(found.value, math.nan, math.nan)
        items = self._items_of_difference(other, found.seeds)
        return _interval(found.value, items, found.variance, num_arms=num_arms)

    def _items_of_difference(self, other: Evidence, seeds: Sequence[int]) -> Variance:
        mine, theirs = self._mean_samples(seeds or self.scores), other._mean_samples(seeds or other.scores)
        if mine and [one.keys() for one in mine] == [one.keys() for one in theirs]:
            gaps = [{item: a[item] - b[item] for item in a} for a, b in zip(mine, theirs, strict=True)]
            return mean_variance(gaps)
        apart = self._items(self.scores), other._items(other.scores)  # not the same items: as if independent
        if not all(one.degrees for one in apart):
            return UNKNOWN
        return Variance(sum(one.value for one in apart), min(one.degrees for one in apart))

    def _items(self, seeds: Sequence[int] | Mapping[int, float]) -> Variance:
        found = mean_variance(self._mean_samples(seeds))
        if not found.degrees and self.recorded is not None:
            return Variance(((self.recorded.high - self.recorded.low) / (2 * Z95)) ** 2, 1000.0)
        return found

    def _mean_samples(self, seeds: Sequence[int] | Mapping[int, float]) -> list[Sample]:
        """Each item's mean over the seeds, where all of them scored the same items; else none."""
        first, *rest = [self.samples[seed] for seed in seeds]
        if any([one.keys() for one in of] != [one.keys() for one in first] for of in rest):
            return []
        together = zip(first, *rest, strict=True)
        return [{item: statistics.fmean(one[item] for one in ones) for item in ones[0]} for ones in together]


def _samples(table: pa.Table | None, metric: str, score: float) -> Sequence[Sample]:
    """None unless the score is the mean of the samples' means: an interval must be of the estimator that is shown."""
    found = evaluation.samples(table, metric) if table is not None else []
    if found and math.isclose(statistics.fmean(statistics.fmean(one.values()) for one in found), score, rel_tol=1e-6):
        return found
    return []


def _interval(value: float, *parts: Variance, num_arms: int = 2) -> Interval:
    if not any(part.degrees for part in parts):
        return Interval(value, math.nan, math.nan)
    half = half_width(parts, num_arms)
    return Interval(value, value - half, value + half)
