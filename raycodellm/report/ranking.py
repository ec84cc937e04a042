"""Which arm comes first, and how sure that is: arithmetic on rows of `trials.parquet` and tables of items.

An arm's score is the mean of its metric over its complete replicates. Arms differ for sure where the interval of their
difference to the best does not hold 0: it covers items and seeds, and all arms at once, since the best was chosen by
looking. With one seed per arm nothing is known of the seeds' noise; then arms are ranked, and no more is said.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from raycodellm.config import Objective
from raycodellm.records import StageRecord
from raycodellm.report.evidence import Evidence, Interval
from raycodellm.statistics import seed_noise

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ArmScore:
    """What is known of one arm. Until a replicate is complete, `score` is None and the arm stands at the end."""

    arm: int
    params: dict[str, Any]
    seeds: tuple[int, ...]
    """Of the complete replicates, as are `trials`."""
    trials: tuple[int, ...]
    score: float | None = None
    """Of the first objective."""
    low: float = math.nan
    high: float = math.nan
    """Half the width of the 95 % interval."""
    covers_seeds: bool = False
    """The interval covers what other seeds would have given; else it is one over the evaluation's items alone."""
    accuracy: float | None = None
    """Share of items answered right, over the tasks of the first objective."""
    chance: float | None = None
    """The accuracy of guessing on the same tasks."""
    beats_chance: bool | None = None
    """The accuracy's interval lies above chance; None where that is not known."""
    difference_to_best: Interval | None = None
    """This score minus the best one's; None for the best. Without an interval where nothing is known of the seeds."""
    separable: bool = False
    """The interval of the difference is known and does not hold 0. Of the best: every other arm is separable."""
    scores: tuple[float, ...] = ()
    """Of all objectives, in their order."""
    pareto: bool = False
    """No other arm is better in one objective and at least as good in all."""
    errors: tuple[str, ...] = ()
    """Causes of its failed replicates."""
    open: int = 0
    """Replicates that run or wait."""


def ranking(
    rows: Sequence[Mapping[str, Any]],
    objectives: Sequence[Objective],
    items: Mapping[int, pa.Table] | None = None,
) -> list[ArmScore]:
    """All arms, the best by the first objective first, those without a score last.

    `rows`: of `trials.parquet`; `items`: trial number to its table of items. Without items intervals are those
    that the evaluation recorded, and differences are as uncertain over items as two separate scores.
    """
    by_arm: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["number"]):
        by_arm[row["arm"]].append(row)
    first = objectives[0]
    complete = {
        arm: [row for row in of_arm if _metric(row, first.metric) is not None] for arm, of_arm in by_arm.items()
    }
    evidence = {arm: Evidence.of(first.metric, done, items or {}) for arm, done in complete.items() if done}
    noise = seed_noise({arm: found.scores for arm, found in evidence.items()})
    sign = 1.0 if first.mode == "min" else -1.0
    order = sorted(evidence, key=lambda arm: (sign * evidence[arm].score, arm))
    points = {arm: tuple(_mean_metric(complete[arm], one.metric) for one in objectives) for arm in order}
    front = _pareto_front(points, objectives)
    scored = []
    for arm in order:
        one = _described(by_arm[arm], complete[arm], first.metric)
        value, low, high = evidence[arm].interval(noise)
        one = replace(one, score=value, low=low, high=high, covers_seeds=noise.single.degrees > 0)
        one = replace(one, scores=points[arm], pareto=arm in front)
        if scored:
            gap = evidence[arm].minus(evidence[order[0]], noise, len(order))
            one = replace(one, difference_to_best=gap, separable=min(sign * gap.low, sign * gap.high) > 0)
        scored.append(one)
    if len(scored) > 1:
        scored[0] = replace(scored[0], separable=all(one.separable for one in scored[1:]))
    return scored + [_described(by_arm[arm], [], first.metric) for arm in sorted(set(by_arm) - set(evidence))]


def _described(rows: Sequence[Mapping[str, Any]], complete: Sequence[Mapping[str, Any]], metric: str) -> ArmScore:
    """All of an arm but its score."""
    errors = [str(row.get("error") or "no cause was recorded") for row in rows if row["state"] == "failed"]
    scoreless = [row for row in rows if row["state"] == "complete" and row not in complete]
    errors += [f"trial {row['number']:04d} is complete, but has no finite {metric}" for row in scoreless]
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


# ------------------------------------------------------------------------------------------------- rows


def params_of(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {key.removeprefix("params."): value for key, value in row.items() if key.startswith("params.")}
    return {name: value for name, value in found.items() if is_present(value)}


def is_present(value: Any) -> bool:
    """A table of many rows fills a column that a row lacks with null or NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _metric(row: Mapping[str, Any], name: str) -> float | None:
    """Of a complete trial; a failed one has no score, whatever is in its row."""
    value = row.get(f"metrics.{name}") if row["state"] == "complete" else None
    return float(value) if is_present(value) and math.isfinite(value) else None


def _mean_metric(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [_metric(row, name) for row in rows]
    return None if not values or None in values else statistics.fmean(values)


def _pareto_front(points: Mapping[int, tuple[float | None, ...]], objectives: Sequence[Objective]) -> set[int]:
    signed = {
        arm: tuple(value if one.mode == "min" else -value for value, one in zip(point, objectives, strict=True))
        for arm, point in points.items()
        if None not in point
    }
    return {
        arm
        for arm, mine in signed.items()
        if not any(other != mine and all(b <= a for a, b in zip(mine, other, strict=True)) for other in signed.values())
    }


# ------------------------------------------------------------------------------------------------- savings


@dataclass(frozen=True)
class Savings:
    """What sharing equal stages between trials spared."""

    tokens_asked: int
    """By all trials together, each finished stage counted once per trial that wanted it."""
    tokens_trained: int
    """Each finished stage counted once."""
    seconds_trained: float
    """Device-seconds of training."""
    seconds_saved: float

    @property
    def tokens_saved(self) -> int:
        return self.tokens_asked - self.tokens_trained


def savings(rows: Sequence[Mapping[str, Any]], stages: Mapping[str, StageRecord]) -> Savings:
    """`stages`: key to record, of those that are finished."""
    wanted = [
        key for row in rows for key in (row.get("stages") if is_present(row.get("stages")) else ()) if key in stages
    ]
    once = set(wanted)
    seconds = math.fsum(stages[key].device_seconds for key in once)
    return Savings(
        tokens_asked=sum(stages[key].num_tokens for key in wanted),
        tokens_trained=sum(stages[key].num_tokens for key in once),
        seconds_trained=seconds,
        seconds_saved=math.fsum(stages[key].device_seconds for key in wanted) - seconds,
    )
