"""Arms against one arm, metric by metric: which difference is known.

All arms and metrics are one family: where no arm differs, at most 5 % of sweeps claim a difference anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raycodellm.config import Objective
from raycodellm.evaluation import METRICS
from raycodellm.statistics import Interval
from raycodellm.tables.trials import Row, metric_of, params_of
from raycodellm.verdict.measurements import ItemsOf, measured_arms, with_metric

Word = Literal["better", "worse", "equal", "not known"]
ERROR = 0.05
"""Probability of any false claim of a sweep in which no arm differs."""


@dataclass(frozen=True)
class Verdict:
    """What is known of one arm against the arm that it is compared with, in one metric."""

    arm: int
    params: dict[str, Any]
    metric: str
    score: Interval
    """The arm's score with its 95 % interval."""
    seeds: tuple[int, ...]
    """The arm's seeds that the verdict rests on."""
    items: int | None
    """Items that the score is over; None where the evaluation did not tell."""
    difference: Interval
    """This score minus the other arm's; its interval holds for the whole family at once."""
    p_corrected: float
    """Probability of so large a difference by chance, corrected for the family; NaN where it is not known."""
    word: Word
    look: int = 0
    """The look at which the verdict was given."""
    is_final: bool = True
    """False for a verdict that more seeds may still change."""
    selected_score: float | None = None
    """The score by which the search chose the arm: noise makes it look too good."""


def family_metrics(rows: Sequence[Row], objectives: Sequence[Objective]) -> dict[str, Objective]:
    """Maps each metric that verdicts are given on to an objective of the same direction: the objectives, then the
    tasks' metrics of the first objective's kind."""
    found = {one.metric: one for one in objectives}
    for metric in task_metrics(rows, objectives[0]).values():
        found.setdefault(metric, objectives[0])
    return found


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


def compare(
    rows: Mapping[int, Sequence[Row]],
    reference: int,
    metrics: Mapping[str, Objective],
    items: ItemsOf,
    error: float = ERROR,
    margin: float | None = None,
) -> list[Verdict]:
    """The verdict on each arm of `rows` but the reference in each metric that both have, metric by metric.

    `rows`: each arm's complete rows. `error`: probability of a false claim that the whole family may have.
    """
    found = []
    pairs = [
        (metric, arm)
        for metric in metrics
        for arm in rows
        if arm != reference and with_metric(rows[arm], metric) and with_metric(rows[reference], metric)
    ]
    for metric, objective in metrics.items():
        complete = {arm: with_metric(of_arm, metric) for arm, of_arm in rows.items()}
        measured, noise = measured_arms(metric, complete, items)
        for arm, one in measured.items():
            if arm == reference or reference not in measured:
                continue
            gap = one.minus(measured[reference], noise, 2, 1 - error / len(pairs))
            found.append(
                Verdict(
                    arm=arm,
                    params=params_of(complete[arm][0]),
                    metric=metric,
                    score=one.interval(noise),
                    seeds=tuple(one.scores),
                    items=_num_items(complete[arm][0], metric),
                    difference=gap,
                    p_corrected=math.nan,
                    word=_word(gap, 1.0 if objective.mode == "min" else -1.0, margin),
                )
            )
    return found


def _word(difference: Interval, sign: float, margin: float | None) -> Word:
    """`sign`: 1 where less is better, else -1."""
    if math.isnan(difference.low) or math.isnan(difference.high):
        return "not known"
    best, worst = sorted((sign * difference.low, sign * difference.high))
    if margin is not None and -margin <= best and worst <= margin:
        return "equal"
    return "better" if worst < 0 else "worse" if best > 0 else "not known"


def _num_items(row: Row, metric: str) -> int | None:
    found = metric_of(row, f"{metric.rpartition('/')[0]}/items")
    return None if found is None else round(found)
