"""The effect of each arm against the reference at each size: the sizes' verdicts, arm by arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raycodellm import report, statistics, verdict
from raycodellm.config import Objective
from raycodellm.ladder.folder import LadderFolder, SizeFacts
from raycodellm.statistics import ERROR, Difference, Interval, OrderAgreement, SizeTrend, Word
from raycodellm.tables.trials import params_of
from raycodellm.verdict.arms import mean_score
from raycodellm.verdict.counted import counted_rows
from raycodellm.verdict.measurements import measured_arms
from raycodellm.verdict.verdicts import family_metrics

ArmKey = tuple[tuple[str, str], ...]
"""An arm by its parameters: the same at every size, whatever its number."""


@dataclass(frozen=True)
class Effect:
    """One arm against the reference at one size, in one metric."""

    size: SizeFacts
    difference: Interval
    """The arm's score minus the reference's; the ends, of the size's own family, are NaN where the noise is unknown."""
    word: Word | None
    """The size's verdict; None where it has none."""
    evidence: Difference | None
    """The difference with its variances; None without a verdict."""

    @property
    def is_known(self) -> bool:
        """True if the interval excludes 0."""
        return self.difference.low > 0 or self.difference.high < 0


@dataclass(frozen=True)
class ArmEffects:
    """One arm's effects in one metric, from the smallest size to the largest."""

    number: int
    """The arm's number at the smallest size that has the arm."""
    params: Mapping[str, Any]
    objective: Objective
    """The metric with its good direction."""
    effects: tuple[Effect, ...]
    """One for each size at which both the arm and the reference have a score."""
    trend: SizeTrend | None
    """At an error of `ERROR` for the trends of all arms and metrics together; None where it is not known."""


@dataclass(frozen=True)
class SizeResult:
    """A size, and the records that its run has written so far."""

    facts: SizeFacts
    records: report.Records | None
    """None where the size has not begun."""

    @cached_property
    def arms(self) -> dict[ArmKey, int]:
        """Maps the arms to their numbers at this size."""
        rows = self.records.rows if self.records is not None else []
        numbers: dict[ArmKey, int] = {}
        for row in sorted(rows, key=lambda row: row["arm"]):
            numbers.setdefault(arm_key(params_of(row)), row["arm"])
        return numbers

    @cached_property
    def reference(self) -> int | None:
        """Number of the reference arm; None while it has no trial."""
        return verdict.reference_arm(self.records.file, self.records.rows) if self.records is not None else None

    @cached_property
    def verdicts(self) -> dict[tuple[int, str], verdict.Verdict]:
        """Maps an arm and a metric to the verdict on them."""
        arm_verdicts = self.records.findings.verdicts if self.records is not None else ()
        return {(arm_verdict.arm, arm_verdict.metric): arm_verdict for arm_verdict in arm_verdicts}

    @cached_property
    def counted(self) -> dict[int, list[Any]]:
        """Maps each arm with a score in the first objective to the rows that the score is the mean over. With a
        confirmation these are the confirmed arms by their fresh seeds: scores of the search chose them."""
        if self.records is None:
            return {}
        looks, settings = self.records.findings.looks, self.records.sweep.search
        is_confirmed = settings.confirm is not None
        seeds = looks.counted if is_confirmed else None
        rows_by_arm, confirmed = counted_rows(self.records.rows, settings.objectives[0].metric, seeds)
        return {arm: rows for arm, rows in rows_by_arm.items() if arm in confirmed or not is_confirmed}


def arm_key(params: Mapping[str, Any]) -> ArmKey:
    """Equal for equal parameters. A table may hold a whole number as a float, and a number as text."""
    return tuple(sorted((name, _value_text(value)) for name, value in params.items() if value is not None))


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    try:
        return f"{float(value):.12g}"
    except (TypeError, ValueError):
        return str(value)


@dataclass(frozen=True)
class LadderResult:
    """The results that the sizes of a ladder have written so far."""

    ladder: LadderFolder
    sizes: tuple[SizeResult, ...]
    """From the smallest model to the largest."""

    @property
    def begun(self) -> list[SizeResult]:
        return [size for size in self.sizes if size.records is not None]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Objectives of the first size that has begun; all sizes have the same."""
        return self.begun[0].records.sweep.search.objectives if self.begun else ()  # type: ignore[union-attr]

    @cached_property
    def arms(self) -> dict[ArmKey, tuple[int, Mapping[str, Any]]]:
        """Maps each arm to its number and parameters at the smallest size that has it, the reference left out."""
        arms: dict[ArmKey, tuple[int, Mapping[str, Any]]] = {}
        for size in self.begun:
            assert size.records is not None
            for row in size.records.rows:
                if row["arm"] != size.reference:
                    arms.setdefault(arm_key(params_of(row)), (row["arm"], params_of(row)))
        return dict(sorted(arms.items(), key=lambda item: item[1][0]))

    @cached_property
    def metrics(self) -> dict[str, Objective]:
        """Maps each metric of which a size knows effects to its good direction: the objectives first."""
        directions = {objective.metric: objective for objective in self.objectives}
        for size in self.begun:
            assert size.records is not None
            for metric, objective in family_metrics(size.records.rows, self.objectives).items():
                directions.setdefault(metric, Objective(metric=metric, mode=objective.mode))
        return directions

    @cached_property
    def effects(self) -> list[ArmEffects]:
        """The effects of all arms in all metrics, metric by metric."""
        by_metric_and_arm = {
            (metric, key): effects
            for metric in self.metrics
            for key in self.arms
            if (effects := tuple(effect for size in self.begun if (effect := _effect(size, key, metric)) is not None))
        }
        alpha = ERROR / max(1, sum(_may_have_trend(effects) for effects in by_metric_and_arm.values()))
        return [
            ArmEffects(*self.arms[key], self.metrics[metric], effects, _trend(effects, alpha))
            for (metric, key), effects in by_metric_and_arm.items()
        ]

    @cached_property
    def agreements(self) -> list[tuple[SizeFacts, SizeFacts, OrderAgreement]]:
        """The agreement in the first objective of every two sizes, of the reference and all other arms."""
        if not self.objectives:
            return []
        metric = self.objectives[0].metric
        measurements = [(size, _arm_measurements(size, metric)) for size in self.begun]
        agreements = []
        for index, (large, large_arms) in enumerate(measurements):
            for small, small_arms in measurements[:index]:
                agreement = statistics.order_agreement(small_arms, large_arms)
                if agreement is not None:
                    agreements.append((small.facts, large.facts, agreement))
        return agreements


def _may_have_trend(effects: Sequence[Effect]) -> bool:
    known_effects = [effect for effect in effects if effect.evidence is not None and effect.evidence.is_known]
    return len(known_effects) >= statistics.FEWEST_SIZES


def _trend(effects: Sequence[Effect], alpha: float) -> SizeTrend | None:
    points = [(effect.size.parameters, effect.evidence) for effect in effects if effect.evidence is not None]
    points = [(parameters, evidence) for parameters, evidence in points if evidence.is_known]
    return statistics.size_trend([parameters for parameters, _ in points], [evidence for _, evidence in points], alpha)


def _effect(size: SizeResult, key: ArmKey, metric: str) -> Effect | None:
    """The arm's effect at the size; None where the arm or the reference has no score there."""
    arm, records = size.arms.get(key), size.records
    if arm is None or records is None:
        return None
    if (size_verdict := size.verdicts.get((arm, metric))) is not None:
        if math.isnan(size_verdict.difference.value):
            return None
        return Effect(size.facts, size_verdict.difference, size_verdict.word, size_verdict.evidence)
    scores = [
        mean_score(size.counted.get(number, ()), metric) for number in (arm, size.reference) if number is not None
    ]
    if len(scores) < 2 or scores[0] is None or scores[1] is None:
        return None
    return Effect(size.facts, Interval(scores[0] - scores[1], math.nan, math.nan), None, None)


def _arm_measurements(size: SizeResult, metric: str) -> dict[ArmKey, statistics.ArmMeasurements]:
    if size.records is None:
        return {}
    measured, _ = measured_arms(metric, size.counted, size.records.items)
    return {key: measured[arm] for key, arm in size.arms.items() if arm in measured}


def read_result(ladder: LadderFolder) -> LadderResult:
    """Reads the results that the sizes have written so far."""
    sizes = []
    for facts in ladder.facts.sizes:
        folder = ladder.run_folder(facts)
        has_begun = ladder.has_begun(facts)
        sizes.append(SizeResult(facts, report.read_records(folder, ladder.storage) if has_begun else None))
    return LadderResult(ladder, tuple(sizes))
