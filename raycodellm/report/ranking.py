"""Ranks the arms of a sweep, from rows of `trials.parquet` and tables of items.

An arm's score is the mean of its metric over its complete replicates. An arm is worse than the best for sure if the
interval of their difference excludes 0. The interval covers items and seeds, and all arms at once, since the best was
chosen by its score. With one seed per arm the seeds' noise is unknown: arms are ranked, and no difference is claimed.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from raycodellm import evaluation
from raycodellm.config import Objective
from raycodellm.statistics import ArmMeasurements, Interval, SeedNoise, mean_of_samples, pareto_front, seed_noise
from raycodellm.tables.trials import Row, metric_of, params_of, trial_name

if TYPE_CHECKING:
    import pyarrow as pa

ItemTable: TypeAlias = "pa.Table | evaluation.Items"
"""A trial's evaluated items."""


@dataclass(frozen=True)
class ArmScore:
    """One arm in the ranking. Without a complete replicate its `score` is None and it stands at the end."""

    arm: int
    params: dict[str, Any]
    seeds: tuple[int, ...]
    """Seeds of the complete replicates."""
    trials: tuple[int, ...]
    """Numbers of the complete replicates' trials."""
    score: float | None = None
    """Mean of the first objective over the complete replicates."""
    low: float = math.nan
    high: float = math.nan
    """Ends of the score's 95 % interval."""
    covers_seeds: bool = False
    """True if the interval covers the seeds' noise; else it covers the evaluation's items alone."""
    accuracy: float | None = None
    """Share of items answered right, over the tasks of the first objective."""
    chance: float | None = None
    """The accuracy of guessing on these tasks."""
    beats_chance: bool | None = None
    """True if the accuracy's interval lies above chance; None where that is not known."""
    difference_to_best: Interval | None = None
    """This score minus the best one's, None for the best; the ends are NaN while the seeds' noise is unknown."""
    separable: bool = False
    """True if the difference's interval is known and excludes 0; for the best arm, if all others are separable."""
    scores: tuple[float | None, ...] = ()
    """Means of all objectives, in their order."""
    pareto: bool = False
    """True if no other arm is better in one objective and at least as good in all."""
    errors: tuple[str, ...] = ()
    """Causes of its failed replicates."""
    open: int = 0
    """Number of replicates that run or wait."""


def ranking(
    rows: Sequence[Row], objectives: Sequence[Objective], items: Mapping[int, ItemTable] | None = None
) -> list[ArmScore]:
    """All arms, the best by the first objective first, those without a score last.

    `rows`: of `trials.parquet`; `items`: maps a trial's number to its table of items. Without items the intervals are
    those that the evaluation recorded, and a difference is as uncertain over items as two independent scores.
    """
    by_arm: dict[int, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["number"]):
        by_arm[row["arm"]].append(row)
    first = objectives[0]
    complete = {
        arm: [row for row in of_arm if metric_of(row, first.metric) is not None] for arm, of_arm in by_arm.items()
    }
    measured, noise = measured_arms(first.metric, complete, items or {})
    sign = 1.0 if first.mode == "min" else -1.0
    order = sorted(measured, key=lambda arm: (sign * measured[arm].score, arm))
    points = {arm: tuple(_mean_metric(complete[arm], one.metric) for one in objectives) for arm in order}
    front = pareto_front(
        {arm: known for arm, point in points.items() if len(known := _present(point)) == len(point)},
        [one.mode == "min" for one in objectives],
    )
    scored: list[ArmScore] = []
    for arm in order:
        one = _described(by_arm[arm], complete[arm], first.metric)
        value, low, high = measured[arm].interval(noise)
        one = replace(one, score=value, low=low, high=high, covers_seeds=noise.single.degrees > 0)
        one = replace(one, scores=points[arm], pareto=arm in front)
        if scored:
            gap = measured[arm].minus(measured[order[0]], noise, len(order))
            one = replace(one, difference_to_best=gap, separable=min(sign * gap.low, sign * gap.high) > 0)
        scored.append(one)
    if len(scored) > 1:
        scored[0] = replace(scored[0], separable=all(one.separable for one in scored[1:]))
    return scored + [_described(by_arm[arm], [], first.metric) for arm in sorted(set(by_arm) - set(measured))]


def measured_arms(
    metric: str, complete: Mapping[int, Sequence[Row]], items: Mapping[int, ItemTable]
) -> tuple[dict[int, ArmMeasurements], SeedNoise]:
    """Measurements of each arm that has complete rows, and the noise between their seeds.

    The items are looked at only where they count: while the noise is unknown, a score has its recorded interval.
    """
    measured = {arm: measurements(metric, done, {}) for arm, done in complete.items() if done}
    noise = seed_noise({arm: found.scores for arm, found in measured.items()})
    if noise.single.degrees or any(found.recorded is None for found in measured.values()):
        measured = {arm: measurements(metric, complete[arm], items) for arm in measured}
    return measured, noise


def measurements(metric: str, complete: Sequence[Row], items: Mapping[int, ItemTable]) -> ArmMeasurements:
    """Measurements of one arm: `complete` are its rows with a finite `metric`, at least one."""
    scores = {row["seed"]: float(row[f"metrics.{metric}"]) for row in complete}
    low, high = (metric_of(complete[0], f"{metric}_{end}") for end in ("low", "high"))
    return ArmMeasurements(
        scores=scores,
        samples={row["seed"]: _samples(items.get(row["number"]), metric, scores[row["seed"]]) for row in complete},
        recorded=None if low is None or high is None else Interval(scores[complete[0]["seed"]], low, high),
    )


def _samples(items: ItemTable | None, metric: str, score: float) -> Sequence[Mapping[Any, float]]:
    """The items' values; none unless `score` is their mean: an interval must belong to the score that is shown."""
    if items is None:
        return []
    found = items.samples(metric) if isinstance(items, evaluation.Items) else evaluation.samples(items, metric)
    return found if found and math.isclose(mean_of_samples(found), score, rel_tol=1e-6) else []


def _described(rows: Sequence[Row], complete: Sequence[Row], metric: str) -> ArmScore:
    """Everything about an arm except its score."""
    errors = [str(row.get("error") or "no cause was recorded") for row in rows if row["state"] == "failed"]
    scoreless = [row for row in rows if row["state"] == "complete" and row not in complete]
    errors += [f"trial {trial_name(row['number'])} is complete, but has no finite {metric}" for row in scoreless]
    task = metric.partition("/")[0]
    accuracy, low, chance = (_mean_metric(complete, f"{task}/{name}") for name in ("acc", "acc_low", "chance"))
    return ArmScore(
        arm=rows[0]["arm"],
        params=params_of(rows[0]),
        seeds=tuple(row["seed"] for row in complete),
        trials=tuple(row["number"] for row in complete),
        accuracy=accuracy,
        chance=chance,
        beats_chance=None if low is None or chance is None else low > chance,
        errors=tuple(errors),
        open=sum(row["state"] in ("running", "waiting") for row in rows),
    )


def _mean_metric(rows: Sequence[Row], name: str) -> float | None:
    """Mean over the rows; None where a row lacks the metric."""
    values = [metric_of(row, name) for row in rows]
    return statistics.fmean(_present(values)) if values and None not in values else None


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
