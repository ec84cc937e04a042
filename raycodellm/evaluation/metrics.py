"""The metrics of an evaluation: which numbers each task, each part of a task, and the mean over tasks give.

A metric is the mean over items of a value that stands in the table of items. Its entry in `METRICS` is all that it
needs: objectives, intervals, `raycodellm eval` and the report read the list.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.statistics import Interval, Sample, correlations, mean_interval, mean_of_intervals, wilson_interval

Row = Mapping[str, Any]
"""One evaluated item, with the columns of `items_table.ITEMS_SCHEMA`."""


@dataclass(frozen=True)
class Metric:
    """The mean over a task's scored items of one value per item."""

    name: str
    """The metric is called `<task>/<name>`."""
    label: str
    """Heading of the report's column."""
    unit: str
    value: Callable[[Row], float | None]
    """The item's value; None leaves the item out of the mean."""
    columns: tuple[str, ...]
    """Columns of the table of items that `value` reads."""
    interval: Callable[[Sequence[float]], Interval]
    """Mean of the items' values with its 95 % interval."""
    has_part_intervals: bool = True
    """True if a part's metric, `<task>/<name>_<part>`, has an interval as well."""


def share_interval(values: Sequence[float]) -> Interval:
    """Share of the values that are true, with its Wilson interval."""
    return Interval(statistics.fmean(values), *wilson_interval(int(sum(values)), len(values)))


METRICS = (
    Metric("acc", "accuracy", "share of items right", lambda row: row.get("correct"), ("correct",), share_interval),
    Metric(
        "bpb",
        "bits per byte",
        "bits per byte",
        lambda row: row.get("bits_per_byte"),
        ("bits_per_byte",),
        mean_interval,
        has_part_intervals=False,
    ),
)
"""All metrics. `acc` is the share of items answered right; `bpb` the bits per UTF-8 byte of the right answer."""
BY_NAME = {metric.name: metric for metric in METRICS}
MEAN = "mean"
"""Stands in the place of a task's name in a metric over all tasks."""


def task_metrics(task: str, rows: Sequence[Row]) -> dict[str, float]:
    """Metrics of a task or group, from its items: `<task>/items` (scored), `<task>/too_long` (left out), `/chance`,
    each metric with `_low` and `_high`, and for each part of the task `/items_<part>` and each metric."""
    scored = [row for row in rows if not row["too_long"]]
    found = {f"{task}/items": float(len(scored)), f"{task}/too_long": float(len(rows) - len(scored))}
    chances = [row["chance"] for row in scored if row["chance"] is not None]
    if chances:
        found[f"{task}/chance"] = statistics.fmean(chances)
    for metric in METRICS:
        found |= _with_interval(f"{task}/{metric.name}", metric, scored)
    parts: dict[str, list[Row]] = {}
    for row in scored:
        for part in _parts(row):
            parts.setdefault(part, []).append(row)
    for part, some in sorted(parts.items()):
        found[f"{task}/items_{part}"] = float(len(some))
        for metric in METRICS:
            name = f"{task}/{metric.name}_{part}"
            of_part = _with_interval(name, metric, some)
            found |= of_part if metric.has_part_intervals or not of_part else {name: of_part[name]}
    return found


def _parts(row: Row) -> list[str]:
    """The parts of its task that an item belongs to: none, one or several."""
    part = json.loads(row["attributes"]).get("part") or []
    return [part] if isinstance(part, str) else part


def mean_metrics(
    tasks: Iterable[str], metrics: Mapping[str, float], samples: Callable[[str], Sequence[Sample]]
) -> dict[str, float]:
    """The unweighted mean of each metric over `tasks`, as `mean/<name>` with its interval, and `mean/chance`.

    `metrics`: those of the tasks; `samples`: the items' values that a metric is made of, by the metric's name. A group
    and one of its members may both be in `tasks`: their scores share items, so their covariance enters the interval.
    """
    tasks = list(tasks)
    found: dict[str, float] = {}
    for metric in METRICS:
        names = [f"{task}/{metric.name}" for task in tasks if f"{task}/{metric.name}" in metrics]
        if names:
            intervals = [Interval(metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"]) for name in names]
            name = f"{MEAN}/{metric.name}"
            found |= _named(name, mean_of_intervals(intervals, correlations(samples(name))))
    chances = [metrics[f"{task}/chance"] for task in tasks if f"{task}/chance" in metrics]
    if chances:
        found[f"{MEAN}/chance"] = statistics.fmean(chances)
    return found


def _with_interval(name: str, metric: Metric, rows: Sequence[Row]) -> dict[str, float]:
    values = [value for row in rows if (value := metric.value(row)) is not None]
    return _named(name, metric.interval(values)) if values else {}


def _named(name: str, interval: Interval) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
