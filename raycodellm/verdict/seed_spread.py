"""The noise between training seeds, arm by arm, and whether it depends on the code ratio."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raycodellm.config import SweepFile
from raycodellm.statistics import (
    ERROR,
    FEWEST_SEEDS,
    Interval,
    Variance,
    deviation,
    deviation_ratio,
    seed_noise,
)
from raycodellm.tables import formats
from raycodellm.tables.trials import Row, params_of
from raycodellm.verdict.counted import counted_rows
from raycodellm.verdict.looks import Looks

_MOST_VALUES = 6
"""Different values of a code ratio that are groups of their own; more are put into thirds of their range."""
Scores = Mapping[int, Mapping[int, float]]
"""Maps each arm to its scores by seed."""


@dataclass(frozen=True)
class ArmSpread:
    """The noise of one arm."""

    arm: int
    params: dict[str, Any]
    num_seeds: int
    deviation: Interval
    """Standard deviation of the score between seeds, with its 95 % interval."""


@dataclass(frozen=True)
class SpreadRatio:
    """The noise of some arms beside that of others."""

    parameter: str
    """The code ratio that tells the two apart."""
    values: str
    """Its values in the one group, in words."""
    arms: tuple[int, ...]
    others: tuple[int, ...]
    ratio: Interval
    """Standard deviation of the one group over that of the other; the ends are NaN with too few seeds. The interval
    holds for all rows of the same question at once."""
    is_of_ends: bool = False
    """True for the lowest and the highest value against those between; else one value is compared with all others."""

    @property
    def word(self) -> Literal["larger", "smaller", "not known"]:
        if self.ratio.low > 1:
            return "larger"
        return "smaller" if self.ratio.high < 1 else "not known"


@dataclass(frozen=True)
class SeedSpreads:
    """The noise between seeds of a sweep."""

    metric: str
    pooled: Interval
    """Standard deviation of one seed's score, pooled over the arms, with its 95 % interval."""
    arms: tuple[ArmSpread, ...]
    """The arms with two or more seeds."""
    ratios: tuple[SpreadRatio, ...]

    def __str__(self) -> str:
        """The answer, in sentences."""
        seed_counts = sorted({spread.num_seeds for spread in self.arms})
        seeds = f"{seed_counts[0]}" if len(seed_counts) == 1 else f"{seed_counts[0]} to {seed_counts[-1]}"
        scope = f"over {len(self.arms)} arms" if len(self.arms) > 1 else f"by arm {self.arms[0].arm}"
        sentence = (
            f"From seed to seed {self.metric} varies by a standard deviation of {_with_ends(self.pooled, '95 %: ')}"
        )
        sentence = f"{sentence}, {scope} with {seeds} seeds."
        return " ".join(
            [
                sentence,
                *map(_ends_sentence, (comparison for comparison in self.ratios if comparison.is_of_ends)),
                *self._by_value(),
            ]
        )

    def _by_value(self) -> list[str]:
        """The sentences that say if the noise depends on a code ratio."""
        compared = [comparison for comparison in self.ratios if not comparison.is_of_ends]
        if not compared:
            return []
        known = [comparison for comparison in compared if comparison.word != "not known"]
        if known:
            clauses = [
                f"{comparison.word} at {comparison.parameter} {comparison.values}, {_times(comparison.ratio)}"
                for comparison in known
            ]
            return [f"It differs between code ratios: {'; '.join(clauses)} that of all other arms."]
        if all(math.isnan(comparison.ratio.low) for comparison in compared):
            return [f"Whether it differs between code ratios is not known: that takes {FEWEST_SEEDS} seeds."]
        return ["Whether it differs between code ratios is not known: no value stands out from the other arms."]


def seed_spreads(file: SweepFile, rows: Sequence[Row], looks: Looks | None = None) -> SeedSpreads | None:
    """The noise between seeds in the first objective; None where no arm has two seeds.

    `rows`: of `trials.parquet`; `looks`: of a sweep with a confirmation, whose arms count by their fresh seeds.
    """
    metric = file.example().search.objectives[0].metric
    complete_rows, confirmed = counted_rows(rows, metric, looks.counted if looks is not None else None)
    replicated = {
        arm: arm_rows
        for arm, arm_rows in complete_rows.items()
        if len(arm_rows) > 1 and (not confirmed or arm in confirmed)
    }
    if not replicated:
        return None
    scores = {
        arm: {row["seed"]: float(row[f"metrics.{metric}"]) for row in arm_rows} for arm, arm_rows in replicated.items()
    }
    params = {arm: params_of(arm_rows[0]) for arm, arm_rows in replicated.items()}
    arms = tuple(
        ArmSpread(arm, params[arm], len(arm_scores), _arm_deviation(arm_scores))
        for arm, arm_scores in sorted(scores.items())
    )
    pooled = deviation(seed_noise(dict(scores.items())).single)
    return SeedSpreads(metric, pooled, arms, (*_ratios(file, scores, params, True), *_ratios(file, scores, params)))


def _arm_deviation(scores: Mapping[int, float]) -> Interval:
    return deviation(Variance(statistics.variance(scores.values()), len(scores) - 1.0))


def _ratios(
    file: SweepFile, scores: Scores, params: Mapping[int, Mapping[str, Any]], of_ends: bool = False
) -> list[SpreadRatio]:
    """The comparisons along each searched code ratio, corrected for their number (Bonferroni)."""
    compared: list[tuple[str, str, tuple[int, ...], tuple[int, ...]]] = []
    for name in (parameter for parameter in file.domains if parameter.endswith("code_ratio")):
        groups = _groups({arm: point.get(name) for arm, point in params.items()})
        if of_ends and len(groups) > 2:
            (first, *_), (last, *_) = (groups[0], groups[-1])
            between = tuple(arm for _, arms in groups[1:-1] for arm in arms)
            compared.append((name, f"{first} and {last}", (*groups[0][1], *groups[-1][1]), between))
        elif not of_ends and len(groups) > 1:
            # Two values have one comparison: the second against the first.
            for words, arms in groups[1:] if len(groups) == 2 else groups:
                compared.append(
                    (name, words, arms, tuple(arm for _, members in groups for arm in members if arm not in arms))
                )
    level = 1 - ERROR / max(1, len(compared))
    return [
        SpreadRatio(name, words, arms, others, _ratio(scores, arms, others, level), of_ends)
        for name, words, arms, others in compared
    ]


def _ratio(scores: Scores, arms: Sequence[int], others: Sequence[int], level: float) -> Interval:
    return deviation_ratio([scores[arm] for arm in arms], [scores[arm] for arm in others], level)


def _groups(values: Mapping[int, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """(values in words, arms) of each group along a code ratio, from the least; without arms that have none."""
    ratios = {arm: float(value) for arm, value in values.items() if isinstance(value, (int, float))}
    distinct = sorted(set(ratios.values()))
    if len(distinct) <= _MOST_VALUES:
        return [(formats.value(ratio), tuple(arm for arm in ratios if ratios[arm] == ratio)) for ratio in distinct]
    third = (distinct[-1] - distinct[0]) / 3
    groups = []
    for place in range(3):
        low, high = distinct[0] + place * third, distinct[0] + (place + 1) * third
        members = tuple(arm for arm, ratio in ratios.items() if min(int((ratio - distinct[0]) / third), 2) == place)
        if members:
            groups.append((f"{formats.value(low)} to {formats.value(high)}", members))
    return groups


# ------------------------------------------------------------------------------------------------- words


def _ends_sentence(comparison: SpreadRatio) -> str:
    where = f"at the ends of {comparison.parameter} ({comparison.values}) than between"
    if math.isnan(comparison.ratio.value):
        return f"Whether it is larger {where} is not known."
    if math.isnan(comparison.ratio.low):
        return f"Whether it is larger {where} is not known: that takes {FEWEST_SEEDS} seeds per group."
    if comparison.word == "not known":
        return f"Whether it is larger {where} is not known: {_times(comparison.ratio)}."
    return f"It is {comparison.word} {where}: {_times(comparison.ratio)}."


def _times(ratio: Interval) -> str:
    return f"{ratio.value:.2f} times ({formats.interval(ratio.low, ratio.high, decimals=2)})"


def _with_ends(interval: Interval, level: str = "") -> str:
    return f"{interval.value:.3f} ({level}{formats.interval(interval.low, interval.high)})"
