"""Arms against one arm, task by task: which difference is real.

All arms and all tasks are looked at together, so the differences of a task hold for all its arms at once (Tukey's
range), at a level that is divided among the tasks (Bonferroni): where no arm differs, at most 5 % of sweeps show a
difference anywhere. Without the seeds' noise there is no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from raycodellm.config import Objective
from raycodellm.evaluation import METRICS
from raycodellm.report.ranking import ArmScore, ItemTable, measured_arms
from raycodellm.statistics import Interval
from raycodellm.tables.trials import Row, metric_of

Word = Literal["better", "worse", "not known", ""]


@dataclass(frozen=True)
class TaskScore:
    """The score of one arm in one task."""

    arm: int
    task: str
    score: Interval
    difference: Interval | None
    """This score minus that of the arm compared with, None for that arm; the ends are NaN without the seeds' noise."""
    verdict: Word
    """Verdict on the difference; empty without the seeds' noise, and for the arm compared with."""


def compared_with(scores: Sequence[ArmScore]) -> ArmScore | None:
    """The arm that the others are compared with: the first in rank; None while no arm has a score."""
    return next((one for one in scores if one.score is not None), None)


def task_metrics(rows: Sequence[Row], objective: Objective) -> dict[str, str]:
    """Maps each task to its metric of the objective's kind; empty where the objective is no metric of a task."""
    kind = objective.metric.rpartition("/")[2]
    has_interval = any(f"metrics.{objective.metric}_low" in row for row in rows)
    if kind not in {metric.name for metric in METRICS} and not has_interval:
        return {}
    suffix = f"/{kind}"
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("metrics.") and name.endswith(suffix))
    found = {name.removeprefix("metrics.").removesuffix(suffix): name.removeprefix("metrics.") for name in names}
    return {task: name for task, name in found.items() if any(metric_of(row, name) is not None for row in rows)}


def task_scores(
    rows: Sequence[Row], scores: Sequence[ArmScore], objective: Objective, items: Mapping[int, ItemTable]
) -> list[TaskScore]:
    """The scores of the arms in each of their tasks, the mean over tasks too, in the order of `scores`."""
    base, metrics = compared_with(scores), task_metrics(rows, objective)
    if base is None or not metrics:
        return []
    level = 1 - 0.05 / len(metrics)
    sign = 1.0 if objective.mode == "min" else -1.0
    by_trial = {row["number"]: row for row in rows}
    found: dict[tuple[int, str], TaskScore] = {}
    for task, metric in metrics.items():
        complete = {
            one.arm: [by_trial[n] for n in one.trials if metric_of(by_trial[n], metric) is not None] for one in scores
        }
        measured, noise = measured_arms(metric, complete, items)
        reference = measured.get(base.arm)
        for arm, one in measured.items():
            gap = None
            if reference is not None and arm != base.arm:
                gap = one.minus(reference, noise, len(measured), level)
            found[arm, task] = TaskScore(arm, task, one.interval(noise), gap, _verdict(gap, sign))
    return [found[one.arm, task] for one in scores for task in metrics if (one.arm, task) in found]


def _verdict(difference: Interval | None, sign: float) -> Word:
    """`sign`: 1 where less is better, else -1."""
    if difference is None or math.isnan(difference.low) or math.isnan(difference.high):
        return ""
    worst, best = sorted((sign * difference.low, sign * difference.high), reverse=True)
    return "better" if worst < 0 else "worse" if best > 0 else "not known"
