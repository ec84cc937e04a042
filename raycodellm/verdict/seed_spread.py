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
        counts = sorted({one.num_seeds for one in self.arms})
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        what = f"over {len(self.arms)} arms" if len(self.arms) > 1 else f"by arm {self.arms[0].arm}"
        said = f"From seed to seed {self.metric} varies by a standard deviation of {_with_ends(self.pooled, '95 %: ')}"
        said = f"{said}, {what} with {seeds} seeds."
        return " ".join([said, *map(_ends_told, (one for one in self.ratios if one.is_of_ends)), *self._by_value()])

    def _by_value(self) -> list[str]:
        """The sentences that say if the noise depends on a code ratio."""
        compared = [one for one in self.ratios if not one.is_of_ends]
        if not compared:
            return []
        told = [one for one in compared if one.word != "not known"]
        if told:
            each = [f"{one.word} at {one.parameter} {one.values}, {_times(one.ratio)}" for one in told]
            return [f"It differs between code ratios: {'; '.join(each)} that of all other arms."]
        if all(math.isnan(one.ratio.low) for one in compared):
            return [f"Whether it differs between code ratios is not known: that takes {FEWEST_SEEDS} seeds."]
        return ["Whether it differs between code ratios is not known: no value stands out from the other arms."]


def seed_spreads(file: SweepFile, rows: Sequence[Row], looks: Looks | None = None) -> SeedSpreads | None:
    """The noise between seeds in the first objective; None where no arm has two seeds.

    `rows`: of `trials.parquet`; `looks`: of a sweep with a confirmation, whose arms count by their fresh seeds.
    """
    metric = file.example().search.objectives[0].metric
    complete, confirmed = counted_rows(rows, metric, looks.counted if looks is not None else None)
    kept = {arm: done for arm, done in complete.items() if len(done) > 1 and (not confirmed or arm in confirmed)}
    if not kept:
        return None
    scores = {arm: {row["seed"]: float(row[f"metrics.{metric}"]) for row in done} for arm, done in kept.items()}
    params = {arm: params_of(done[0]) for arm, done in kept.items()}
    arms = tuple(ArmSpread(arm, params[arm], len(of_arm), _own(of_arm)) for arm, of_arm in sorted(scores.items()))
    pooled = deviation(seed_noise(dict(scores.items())).single)
    return SeedSpreads(metric, pooled, arms, (*_ratios(file, scores, params, True), *_ratios(file, scores, params)))


def _own(scores: Mapping[int, float]) -> Interval:
    return deviation(Variance(statistics.variance(scores.values()), len(scores) - 1.0))


def _ratios(
    file: SweepFile, scores: Scores, params: Mapping[int, Mapping[str, Any]], of_ends: bool = False
) -> list[SpreadRatio]:
    """The comparisons along each searched code ratio, corrected for their number (Bonferroni)."""
    compared: list[tuple[str, str, tuple[int, ...], tuple[int, ...]]] = []
    for name in (one for one in file.domains if one.endswith("code_ratio")):
        groups = _groups({arm: point.get(name) for arm, point in params.items()})
        if of_ends and len(groups) > 2:
            (first, *_), (last, *_) = (groups[0], groups[-1])
            between = tuple(arm for _, arms in groups[1:-1] for arm in arms)
            compared.append((name, f"{first} and {last}", (*groups[0][1], *groups[-1][1]), between))
        elif not of_ends and len(groups) > 1:
            # Of two values the second one against the first is the only comparison.
            for words, arms in groups[1:] if len(groups) == 2 else groups:
                compared.append(
                    (name, words, arms, tuple(arm for _, some in groups for arm in some if arm not in arms))
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
    known = {arm: float(value) for arm, value in values.items() if isinstance(value, (int, float))}
    different = sorted(set(known.values()))
    if len(different) <= _MOST_VALUES:
        return [(formats.value(one), tuple(arm for arm in known if known[arm] == one)) for one in different]
    third = (different[-1] - different[0]) / 3
    found = []
    for place in range(3):
        low, high = different[0] + place * third, different[0] + (place + 1) * third
        inside = tuple(arm for arm, one in known.items() if min(int((one - different[0]) / third), 2) == place)
        if inside:
            found.append((f"{formats.value(low)} to {formats.value(high)}", inside))
    return found


# ------------------------------------------------------------------------------------------------- words


def _ends_told(one: SpreadRatio) -> str:
    where = f"at the ends of {one.parameter} ({one.values}) than between"
    if math.isnan(one.ratio.value):
        return f"Whether it is larger {where} is not known."
    if math.isnan(one.ratio.low):
        return f"Whether it is larger {where} is not known: that takes {FEWEST_SEEDS} seeds per group."
    if one.word == "not known":
        return f"Whether it is larger {where} is not known: {_times(one.ratio)}."
    return f"It is {one.word} {where}: {_times(one.ratio)}."


def _times(ratio: Interval) -> str:
    return f"{ratio.value:.2f} times ({formats.interval(ratio.low, ratio.high, decimals=2)})"


def _with_ends(one: Interval, level: str = "") -> str:
    return f"{one.value:.3f} ({level}{formats.interval(one.low, one.high)})"
