"""Verdicts, and the metrics that they are given on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycodellm.config import Objective
from raycodellm.evaluation import METRICS
from raycodellm.statistics import ERROR, Difference, Interval, Word
from raycodellm.tables.trials import Row, metric_of


@dataclass(frozen=True)
class Verdict:
    """One arm against the arm that it is compared with, in one metric."""

    arm: int
    """Number of the arm, as in `trials.parquet`."""
    params: dict[str, Any]
    """The arm's parameters by name."""
    metric: str
    """Name of the metric, such as `mean/bpb`."""
    score: Interval
    """The arm's score with its 95 % interval."""
    seeds: tuple[int, ...]
    """The arm's seeds that the verdict rests on."""
    items: int | None
    """Items that the score is over; None where the evaluation did not tell."""
    difference: Interval
    """This score minus the other arm's; its interval holds for the whole family at once."""
    word: Word
    """better, worse, equal or not known."""
    p_corrected: float | None = None
    """Probability of so large a difference by chance, corrected for the family; None where it is not known."""
    level: float = ERROR
    """Error at which this difference alone is tested, so that the whole family keeps its own."""
    evidence: Difference | None = None
    """The difference with its variances; None in a comparison with the arm that is first in rank."""
    look: int = 0
    """The look at which the verdict was given."""
    is_final: bool = True
    """False for a verdict that more seeds may still change."""
    selected_score: float | None = None
    """The score by which the search chose the arm: noise makes it look too good."""


@dataclass(frozen=True)
class Comparison:
    """Verdicts on several arms."""

    verdicts: tuple[Verdict, ...] = ()
    """Metric by metric, in the order of the arms."""
    scores: Mapping[str, Interval] = field(default_factory=dict)
    """Maps each metric to the score of the arm that the others are compared with, with its 95 % interval."""


def family_metrics(rows: Sequence[Row], objectives: Sequence[Objective]) -> dict[str, Objective]:
    """Maps each metric that verdicts are given on to an objective of the same direction: the objectives, then the
    tasks' metrics of the first objective's kind."""
    metrics = {objective.metric: objective for objective in objectives}
    for metric in task_metrics(rows, objectives[0]).values():
        metrics.setdefault(metric, objectives[0])
    return metrics


def task_metrics(rows: Sequence[Row], objective: Objective) -> dict[str, str]:
    """Maps each task to its metric of the objective's kind; empty where the objective is no metric of a task."""
    kind = objective.metric.rpartition("/")[2]
    has_interval = any(f"metrics.{objective.metric}_low" in row for row in rows)
    if kind not in {metric.name for metric in METRICS} and not has_interval:
        return {}
    suffix = f"/{kind}"
    columns: dict[str, None] = {}
    for row in rows:  # a row has hundreds of columns, mostly those of the others
        columns |= dict.fromkeys(row)
    names = [name for name in columns if name.startswith("metrics.") and name.endswith(suffix)]
    by_task = {name.removeprefix("metrics.").removesuffix(suffix): name.removeprefix("metrics.") for name in names}
    return {task: name for task, name in by_task.items() if any(metric_of(row, name) is not None for row in rows)}


def num_items(row: Row, metric: str) -> int | None:
    """Items that a trial's score in the metric is over; None where the evaluation did not tell."""
    value = metric_of(row, f"{metric.rpartition('/')[0]}/items")
    return None if value is None else round(value)
