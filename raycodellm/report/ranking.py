"""Which arm is best, and how sure that is: arithmetic on rows of `trials.parquet` and tables of items.

An arm's score is the mean of its metric over its complete replicates. Two things make it uncertain, and their
variances are added: which items the tasks happen to hold (the spread of the items' values, each first averaged
over the replicates, task by task), and which seeds were drawn (the spread between replicates, pooled over all
arms, since two or three seeds of one arm say little). The degrees of freedom of the sum are Satterthwaite's, and the
interval is Student's. With one seed per arm the second part is unknown and left out. A difference of two arms
takes the spread of the items' differences instead: both were asked the same items, and how hard those are drops out.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from raycodellm.config import Objective
from raycodellm.records import StageRecord
from raycodellm.uncertainty import student_quantile

if TYPE_CHECKING:
    import pyarrow as pa

ITEM_COLUMNS = {"acc": "correct", "bpb": "bits_per_byte"}
Items = Mapping[tuple[str, Any], float]
"""Value of each item, by (task, item)."""


class Interval(NamedTuple):
    value: float
    low: float
    high: float
    """Ends of the 95 % interval; NaN where nothing is known of it."""


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
    accuracy: float | None = None
    """Share of items answered right, over the tasks of the first objective."""
    chance: float | None = None
    """The accuracy of guessing on the same tasks."""
    beats_chance: bool | None = None
    """The accuracy's interval lies above chance; None where that is not known."""
    difference_to_best: Interval | None = None
    """This score minus the best one's; None for the best."""
    separable: bool = False
    """The interval of the difference does not hold 0. Of the best: no other arm is inseparable from it."""
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
    that the evaluation recorded, and differences are taken as unpaired.
    """
    by_arm: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["number"]):
        by_arm[row["arm"]].append(row)
    first = objectives[0]
    complete = {
        arm: [row for row in of_arm if _metric(row, first.metric) is not None] for arm, of_arm in by_arm.items()
    }
    evidence = {arm: _Evidence.of(first.metric, done, items or {}) for arm, done in complete.items() if done}
    seeds = _seed_spread([found.scores for found in evidence.values()])
    sign = 1.0 if first.mode == "min" else -1.0
    order = sorted(evidence, key=lambda arm: (sign * evidence[arm].score, arm))
    points = {arm: tuple(_mean_metric(complete[arm], one.metric) for one in objectives) for arm in order}
    front = _pareto_front(points, objectives)
    scored = []
    for arm in order:
        one = _described(by_arm[arm], complete[arm], first.metric)
        own = evidence[arm].interval(seeds)
        one = replace(one, score=own.value, low=own.low, high=own.high, scores=points[arm], pareto=arm in front)
        if scored:
            gap = evidence[arm].minus(evidence[order[0]], seeds)
            one = replace(one, difference_to_best=gap, separable=gap.low > 0 or gap.high < 0)
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


# ------------------------------------------------------------------------------------------------- uncertainty


class _Variance(NamedTuple):
    value: float
    degrees: float
    """Of freedom; 0 where the variance is not known."""


@dataclass(frozen=True)
class _Evidence:
    """What one arm's complete replicates say of one metric."""

    scores: tuple[float, ...]
    """One per replicate."""
    items: Items
    """Each item's mean over the replicates; empty where there is no table of items."""
    recorded: Interval | None
    """As the evaluation wrote it, of the first replicate."""

    @property
    def score(self) -> float:
        return statistics.fmean(self.scores)

    @staticmethod
    def of(metric: str, complete: Sequence[Mapping[str, Any]], items: Mapping[int, pa.Table]) -> _Evidence:
        tables = [items[row["number"]] for row in complete if row["number"] in items]
        ends = [_metric(complete[0], f"{metric}_{end}") for end in ("low", "high")]
        return _Evidence(
            scores=tuple(_metric(row, metric) for row in complete),
            items=mean_items([item_values(t, metric) for t in tables]) if len(tables) == len(complete) else {},
            recorded=None if None in ends else Interval(_metric(complete[0], metric), *ends),
        )

    def interval(self, seeds: _Variance) -> Interval:
        if len(self.scores) == 1 and not seeds.degrees and self.recorded is not None:
            return self.recorded  # the evaluation's own, which for shares near 0 and 1 is better than Student's
        return _interval(self.score, self._spread(self.items), _over(seeds, len(self.scores)))

    def minus(self, other: _Evidence, seeds: _Variance) -> Interval:
        both = {key: self.items[key] - other.items[key] for key in self.items.keys() & other.items.keys()}
        spread = item_variance(both)
        if not spread.degrees:  # not the same items: as if independent
            mine, theirs = self._spread(self.items), other._spread(other.items)
            known = mine.degrees and theirs.degrees
            spread = _Variance(mine.value + theirs.value, min(mine.degrees, theirs.degrees) if known else 0)
        between = [_over(seeds, len(one.scores)) for one in (self, other)]
        return _interval(self.score - other.score, spread, *between)

    def _spread(self, items: Items) -> _Variance:
        spread = item_variance(items)
        if not spread.degrees and self.recorded is not None:
            return _Variance(((self.recorded.high - self.recorded.low) / (2 * 1.96)) ** 2, 1000.0)
        return spread


def item_values(table: pa.Table, metric: str) -> Items:
    """The metric's value of each item that was scored; empty for a metric that is no mean over items."""
    task, _, name = metric.partition("/")
    if name not in ITEM_COLUMNS:
        return {}
    columns = [table.column(column).to_pylist() for column in ("task", "item", ITEM_COLUMNS[name])]
    return {
        (of, item): float(value)
        for of, item, value in zip(*columns, strict=True)
        if value is not None and math.isfinite(value) and task in ("mean", of)
    }


def mean_items(replicates: Sequence[Items]) -> Items:
    """Each item's mean over the replicates that all scored it."""
    if not replicates:
        return {}
    common = set(replicates[0]).intersection(*replicates[1:])
    return {key: statistics.fmean(values[key] for values in replicates) for key in common}


def item_variance(values: Items) -> _Variance:
    """Variance of the unweighted mean over tasks of each task's mean; unknown where a task has a single item."""
    tasks: dict[str, list[float]] = defaultdict(list)
    for (task, _), value in sorted(values.items(), key=repr):
        tasks[task].append(value)
    if not tasks or min(map(len, tasks.values())) < 2:
        return _Variance(0.0, 0.0)
    parts = [statistics.variance(found) / len(found) / len(tasks) ** 2 for found in tasks.values()]
    return _Variance(math.fsum(parts), sum(map(len, tasks.values())) - len(tasks))


def _seed_spread(arms: Iterable[Sequence[float]]) -> _Variance:
    """Variance between the seeds of an arm, pooled over arms."""
    repeated = [scores for scores in arms if len(scores) > 1]
    degrees = sum(len(scores) - 1 for scores in repeated)
    squares = math.fsum((score - statistics.fmean(scores)) ** 2 for scores in repeated for score in scores)
    return _Variance(squares / degrees if degrees else 0.0, degrees)


def _over(variance: _Variance, n: int) -> _Variance:
    return _Variance(variance.value / n, variance.degrees)


def _interval(value: float, items: _Variance, *seeds: _Variance) -> Interval:
    if not items.degrees:
        return Interval(value, math.nan, math.nan)
    between = _Variance(math.fsum(one.value for one in seeds), seeds[0].degrees)
    total = items.value + between.value
    shares = [part.value**2 / part.degrees for part in (items, between) if part.degrees and part.value]
    degrees = total**2 / math.fsum(shares) if shares else items.degrees
    half = student_quantile(max(1, int(degrees))) * math.sqrt(total)
    return Interval(value, value - half, value + half)


# ------------------------------------------------------------------------------------------------- rows


def params_of(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {key.removeprefix("params."): value for key, value in row.items() if key.startswith("params.")}
    return {name: value for name, value in found.items() if there(value)}


def there(value: Any) -> bool:
    """A table of many rows fills a column that a row lacks with null or NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _metric(row: Mapping[str, Any], name: str) -> float | None:
    """Of a complete trial; a failed one has no score, whatever is in its row."""
    value = row.get(f"metrics.{name}") if row["state"] == "complete" else None
    return float(value) if there(value) and math.isfinite(value) else None


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
    wanted = [key for row in rows for key in (row.get("stages") if there(row.get("stages")) else ()) if key in stages]
    once = set(wanted)
    seconds = math.fsum(stages[key].device_seconds for key in once)
    return Savings(
        tokens_asked=sum(stages[key].num_tokens for key in wanted),
        tokens_trained=sum(stages[key].num_tokens for key in once),
        seconds_trained=seconds,
        seconds_saved=math.fsum(stages[key].device_seconds for key in wanted) - seconds,
    )
