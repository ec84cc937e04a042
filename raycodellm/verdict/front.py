"""The Pareto front of several objectives: which arms are on it, and of which of them that is known.

An arm is on the front by its means if no other arm is better in one objective and at least as good in all. Means are
noisy, so a second arm may dominate it unseen. All differences between two arms, in all objectives, have intervals that
hold at once (Tukey's range over the arms, Bonferroni over the objectives). Each look at a confirmation spends its part
of the error, as the verdict does; so what is said of the arms, at any look, is wrong in at most 5 % of sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from raycodellm.config import SweepFile
from raycodellm.config.search_settings import Confirm
from raycodellm.statistics import ERROR, ArmMeasurements, Interval, SeedNoise, look_errors, pareto_front
from raycodellm.tables.trials import Row
from raycodellm.verdict.constraints import breaches, broken_by
from raycodellm.verdict.counted import counted_rows
from raycodellm.verdict.looks import Looks
from raycodellm.verdict.measurements import ItemsOf, measured_arms, scored_arms


@dataclass(frozen=True)
class FrontArm:
    """An arm among others, by all objectives."""

    arm: int
    scores: tuple[Interval, ...]
    """Mean in each objective, in their order, with the 95 % interval; NaN ends where these are not known."""
    is_on_front: bool
    """True if no other arm's means are better in one objective and at least as good in all."""
    rivals: tuple[int, ...] = ()
    """For an arm on the front: the arms that may dominate it for all that is known. For any other arm: the arms of the
    front that dominate it for sure."""
    bars: tuple[float, ...] = ()
    """Half the greatest half-width of the corrected interval of a difference to an arm of the front, in each objective:
    arms whose bars do not overlap differ in it. NaN while the seeds' noise is unknown."""
    is_known: bool = False
    """True if noise does not account for its place: on the front and without rivals, or dominated for sure."""


@dataclass(frozen=True)
class Front:
    """All arms that have a score in each objective, and break no constraint."""

    objectives: tuple[str, ...]
    """The metrics."""
    arms: tuple[FrontArm, ...]
    """All arms, those on the front first, along the first objective from its best."""
    knows_seeds: bool
    """True if the seeds' noise is known in each objective; else no arm's place is known."""
    is_before_looks: bool = False
    """True before the first look at a confirmation: until then no arm's place is told."""

    @property
    def members(self) -> tuple[FrontArm, ...]:
        return tuple(front_arm for front_arm in self.arms if front_arm.is_on_front)

    @property
    def by_means(self) -> str:
        """The arms on the front, and whether the noise between seeds is unknown, in a sentence; empty without arms."""
        if not self.arms:
            return ""
        numbers = ", ".join(str(member.arm) for member in self.members)
        sentence = (
            f"On the Pareto front of {', '.join(self.objectives)}, by the means: {_arms(len(self.members))} {numbers}."
        )
        if self.is_before_looks:
            return f"{sentence} No place on it is told before the first look at fresh seeds."
        return sentence if self.knows_seeds else f"{sentence} Without a second seed per arm no place on it is known."

    def __str__(self) -> str:
        """One or two sentences; empty without arms."""
        text = self.by_means
        if not self.arms or not self.knows_seeds or self.is_before_looks:
            return text
        unsure = [front_arm.arm for front_arm in self.members if not front_arm.is_known]
        off_front = [front_arm.arm for front_arm in self.arms if not front_arm.is_on_front and not front_arm.is_known]
        if unsure:
            text += f" Not told from being dominated: {_arms(len(unsure))} {', '.join(map(str, unsure))}."
        if off_front:
            text += f" Off it by the means, but not for sure: {_arms(len(off_front))} {_first_twelve(off_front)}."
        return text if unsure or off_front else f"{text} Noise accounts for no arm's place."


def front(file: SweepFile, rows: Sequence[Row], items: ItemsOf, looks: Looks | None = None) -> Front:
    """The front of the arms with a score in each objective, without those whose means break a constraint.

    `rows`: of `trials.parquet`; `items`: a trial's items by its number; without them differences are as uncertain over
    items as two independent scores. `looks`: of a sweep with a confirmation, whose arms count by their fresh seeds.
    """
    settings = file.example().search
    objectives, error = settings.objectives, _error_of_look(settings.confirm, looks)
    by_metric: list[tuple[Mapping[int, ArmMeasurements], SeedNoise]] = []
    counted = looks.counted if looks is not None else None
    complete_rows, _ = counted_rows(rows, objectives[0].metric, counted)
    for objective in objectives:
        by_metric.append(measured_arms(objective.metric, scored_arms(complete_rows, objective.metric), items))
    broken = broken_by(breaches(file, rows, items, counted))
    arms_with_scores = [
        arm for arm in complete_rows if not broken.get(arm) and all(arm in measured for measured, _ in by_metric)
    ]
    signs = [1.0 if objective.mode == "min" else -1.0 for objective in objectives]
    points = {arm: [measured[arm].score for measured, _ in by_metric] for arm in arms_with_scores}
    members = pareto_front(points, [objective.mode == "min" for objective in objectives])
    knows_seeds = all(noise.single.degrees > 0 for _, noise in by_metric)
    is_told = knows_seeds and error > 0
    signed = [(*measured_and_noise, sign) for measured_and_noise, sign in zip(by_metric, signs, strict=True)]
    compare = _ArmDifferences(signed, len(arms_with_scores), error or ERROR)
    front_arms = []
    for arm in sorted(arms_with_scores, key=lambda arm: (arm not in members, signs[0] * points[arm][0], arm)):
        scores = tuple(measured[arm].interval(noise) for measured, noise in by_metric)
        rivals: tuple[int, ...] = ()
        if is_told and arm in members:
            rivals = tuple(other for other in arms_with_scores if other != arm and compare.may_dominate(other, arm))
        elif is_told:
            rivals = tuple(other for other in sorted(members) if compare.dominates(other, arm))
        is_known = is_told and (arm in members) != bool(rivals)
        bars = compare.bars(arm, members) if knows_seeds else (math.nan,) * len(objectives)
        front_arms.append(FrontArm(arm, scores, arm in members, rivals, bars, is_known))
    return Front(tuple(objective.metric for objective in objectives), tuple(front_arms), knows_seeds, not error)


def _error_of_look(confirm: Confirm | None, looks: Looks | None) -> float:
    """The error that the last decided look may spend; 0 before the first one. Without a confirmation the whole."""
    if confirm is None or looks is None:
        return ERROR
    return look_errors(confirm.seeds, len(confirm.planned))[looks.num_decided - 1] if looks.num_decided else 0.0


class _ArmDifferences:
    """Differences between two arms in all objectives, below 0 where the first one is better."""

    def __init__(
        self, by_metric: Sequence[tuple[Mapping[int, ArmMeasurements], SeedNoise, float]], num_arms: int, error: float
    ) -> None:
        self._by_metric, self._num_arms = by_metric, num_arms
        self._level = 1 - error / len(by_metric)

    def dominates(self, one: int, other: int) -> bool:
        """True if `one` is better in each objective for sure."""
        return all(high < 0 for _, high in self._gaps(one, other))

    def may_dominate(self, one: int, other: int) -> bool:
        """True if `one` is for sure worse in no objective."""
        return all(low <= 0 for low, _ in self._gaps(one, other))

    def bars(self, one: int, others: Collection[int]) -> tuple[float, ...]:
        """Half the greatest half-width of a difference to one of the others, in each objective."""
        gaps = [self._gaps(one, other) for other in others if other != one] or [self._gaps(one, one)]
        return tuple(max(high - low for low, high in of_objective) / 4 for of_objective in zip(*gaps, strict=True))

    def _gaps(self, one: int, other: int) -> list[tuple[float, float]]:
        intervals = []
        for measured, noise, sign in self._by_metric:
            gap = measured[one].minus(measured[other], noise, self._num_arms, self._level)
            low, high = sorted((sign * gap.low, sign * gap.high))
            intervals.append((-math.inf, math.inf) if math.isnan(low) or math.isnan(high) else (low, high))
        return intervals


def _arms(number: int) -> str:
    return "arm" if number == 1 else "arms"


def _first_twelve(arms: Sequence[int]) -> str:
    """The first twelve numbers, and how many more there are."""
    more = f" and {len(arms) - 12} more" if len(arms) > 12 else ""
    return ", ".join(map(str, arms[:12])) + more
