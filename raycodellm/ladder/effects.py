"""The effect of each arm against the reference at each size: the rungs' verdicts, arm by arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raycodellm import report, statistics, verdict
from raycodellm.config import Objective
from raycodellm.ladder.folder import LadderFolder, RungFacts
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

    rung: RungFacts
    difference: Interval
    """The arm's score minus the reference's; the ends, of the rung's own family, are NaN where the noise is unknown."""
    word: Word | None
    """The rung's verdict; None where it has none."""
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
class RungResult:
    """A rung and what its run has written so far."""

    facts: RungFacts
    records: report.Records | None
    """None where the rung has not begun."""

    @cached_property
    def arms(self) -> dict[ArmKey, int]:
        """Maps the arms to their numbers at this rung."""
        rows = self.records.rows if self.records is not None else []
        found: dict[ArmKey, int] = {}
        for row in sorted(rows, key=lambda row: row["arm"]):
            found.setdefault(arm_key(params_of(row)), row["arm"])
        return found

    @cached_property
    def reference(self) -> int | None:
        """Number of the reference arm; None while it has no trial."""
        return verdict.reference_arm(self.records.file, self.records.rows) if self.records is not None else None

    @cached_property
    def verdicts(self) -> dict[tuple[int, str], verdict.Verdict]:
        """Maps an arm and a metric to the verdict on them."""
        found = self.records.known.verdicts if self.records is not None else ()
        return {(one.arm, one.metric): one for one in found}

    @cached_property
    def counted(self) -> dict[int, list[Any]]:
        """Maps each arm with a score in the first objective to the rows that the score is the mean over. With a
        confirmation these are the confirmed arms by their fresh seeds: scores of the search chose them."""
        if self.records is None:
            return {}
        looks, settings = self.records.known.looks, self.records.sweep.search
        is_confirmed = settings.confirm is not None
        seeds = looks.counted if is_confirmed else None
        found, confirmed = counted_rows(self.records.rows, settings.objectives[0].metric, seeds)
        return {arm: rows for arm, rows in found.items() if arm in confirmed or not is_confirmed}


def arm_key(params: Mapping[str, Any]) -> ArmKey:
    """Equal for equal parameters. A table may hold a whole number as a float, and a number as text."""
    return tuple(sorted((name, _text(value)) for name, value in params.items() if value is not None))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    try:
        return f"{float(value):.12g}"
    except (TypeError, ValueError):
        return str(value)


@dataclass(frozen=True)
class LadderResult:
    """All that the rungs of a ladder have written so far."""

    ladder: LadderFolder
    rungs: tuple[RungResult, ...]
    """From the smallest model to the largest."""

    @property
    def begun(self) -> list[RungResult]:
        return [one for one in self.rungs if one.records is not None]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Objectives of the first rung that has begun; all rungs have the same."""
        return self.begun[0].records.sweep.search.objectives if self.begun else ()  # type: ignore[union-attr]

    @cached_property
    def arms(self) -> dict[ArmKey, tuple[int, Mapping[str, Any]]]:
        """Maps each arm to its number and parameters at the smallest size that has it, the reference left out."""
        found: dict[ArmKey, tuple[int, Mapping[str, Any]]] = {}
        for rung in self.begun:
            assert rung.records is not None
            for row in rung.records.rows:
                if row["arm"] != rung.reference:
                    found.setdefault(arm_key(params_of(row)), (row["arm"], params_of(row)))
        return dict(sorted(found.items(), key=lambda item: item[1][0]))

    @cached_property
    def metrics(self) -> dict[str, Objective]:
        """Maps each metric of which a rung knows effects to its good direction: the objectives first."""
        found = {one.metric: one for one in self.objectives}
        for rung in self.begun:
            assert rung.records is not None
            for metric, objective in family_metrics(rung.records.rows, self.objectives).items():
                found.setdefault(metric, Objective(metric=metric, mode=objective.mode))
        return found

    @cached_property
    def effects(self) -> list[ArmEffects]:
        """The effects of all arms in all metrics, metric by metric."""
        known = {
            (metric, key): effects
            for metric in self.metrics
            for key in self.arms
            if (effects := tuple(one for rung in self.begun if (one := _effect(rung, key, metric)) is not None))
        }
        alpha = ERROR / max(1, sum(_may_have_trend(effects) for effects in known.values()))
        return [
            ArmEffects(*self.arms[key], self.metrics[metric], effects, _trend(effects, alpha))
            for (metric, key), effects in known.items()
        ]

    @cached_property
    def agreements(self) -> list[tuple[RungFacts, RungFacts, OrderAgreement]]:
        """The agreement in the first objective of every two sizes, of the reference and all other arms."""
        if not self.objectives:
            return []
        metric = self.objectives[0].metric
        measured = [(rung, _measured(rung, metric)) for rung in self.begun]
        found = []
        for place, (large, of_large) in enumerate(measured):
            for small, of_small in measured[:place]:
                agreement = statistics.order_agreement(of_small, of_large)
                if agreement is not None:
                    found.append((small.facts, large.facts, agreement))
        return found


def _may_have_trend(effects: Sequence[Effect]) -> bool:
    known = [one for one in effects if one.evidence is not None and one.evidence.is_known]
    return len(known) >= statistics.FEWEST_SIZES


def _trend(effects: Sequence[Effect], alpha: float) -> SizeTrend | None:
    known = [(one.rung.parameters, one.evidence) for one in effects if one.evidence is not None]
    known = [(size, evidence) for size, evidence in known if evidence.is_known]
    return statistics.size_trend([size for size, _ in known], [evidence for _, evidence in known], alpha)


def _effect(rung: RungResult, key: ArmKey, metric: str) -> Effect | None:
    """The arm's effect at the rung; None where the arm or the reference has no score there."""
    arm, records = rung.arms.get(key), rung.records
    if arm is None or records is None:
        return None
    if (one := rung.verdicts.get((arm, metric))) is not None:
        return Effect(rung.facts, one.difference, one.word, one.evidence)
    scores = [
        mean_score(rung.counted.get(number, ()), metric) for number in (arm, rung.reference) if number is not None
    ]
    if len(scores) < 2 or scores[0] is None or scores[1] is None:
        return None
    return Effect(rung.facts, Interval(scores[0] - scores[1], math.nan, math.nan), None, None)


def _measured(rung: RungResult, metric: str) -> dict[ArmKey, statistics.ArmMeasurements]:
    if rung.records is None:
        return {}
    measured, _ = measured_arms(metric, rung.counted, rung.records.items)
    return {key: measured[arm] for key, arm in rung.arms.items() if arm in measured}


def read_result(ladder: LadderFolder) -> LadderResult:
    """Reads what the rungs have written so far."""
    rungs = []
    for facts in ladder.facts.rungs:
        folder = ladder.run_folder(facts)
        begun = ladder.has_begun(facts)
        rungs.append(RungResult(facts, report.read_records(folder, ladder.storage) if begun else None))
    return LadderResult(ladder, tuple(rungs))
