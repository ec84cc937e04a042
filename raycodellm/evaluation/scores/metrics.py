"""The metrics of an evaluation: which numbers each task, each part of a task, and the mean over tasks give.

A metric is a mean over items of a value that stands in the table of items. `METRICS` lists those that any task may
have; each score that a task gives its items is one more, by the score's own name. Objectives, intervals,
`raycodellm eval` and the report ask here.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycodellm.statistics import Interval, Sample, correlations, mean_interval, mean_of_intervals, wilson_interval

CLUSTER = "cluster"
"""The attribute of an item that holds its cluster's number."""
Row = Mapping[str, Any]
"""One evaluated item, with the columns of `items_table.ITEMS_SCHEMA`."""


def scores_of(row: Row) -> dict[str, float]:
    """The item's own scores by name; empty for an item that was not scored, and in tables of older versions."""
    return dict(row.get("scores") or {})


def parts_of(row: Row) -> tuple[str, ...]:
    """The parts of its task that the item belongs to: `part` of its attributes, a text or a list of texts."""
    parts = _attribute(row, "part") or ()
    return (parts,) if isinstance(parts, str) else tuple(map(str, parts))


def cluster_of(row: Row) -> int | None:
    """The number of the item's cluster: of items that share a text, such as a description with several questions on it,
    so that one says little that the others do not. None for an item that stands alone."""
    number = _attribute(row, CLUSTER)
    return number if isinstance(number, int) else None


def _attribute(row: Row, name: str) -> Any:
    """One of the item's attributes; None where the item has none of the name, as most items of most tasks."""
    text = row.get("attributes") or "{}"
    return json.loads(text).get(name) if f'"{name}"' in text else None


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
    """Columns of the table of items that `value` and `weight` read."""
    weight: Callable[[Row], float] = lambda row: 1.0
    """The item's weight in the mean."""
    is_averaged: bool = False
    """True if `mean/<name>`, the mean over tasks, is a metric as well."""
    has_parts: bool = True
    """True if each part of a task has the metric too, as `<task>/<name>_<part>`."""
    has_part_intervals: bool = True
    """True if a part's metric has an interval as well."""
    column: str | None = None
    """The column that is `value` wherever it is not null, each item with the same weight; None where none is."""
    is_elsewhere: bool = False
    """True if an item whose `column` is null may have a value from other columns."""


_RIGHT = ("acc", "exact_match", "em", "pass@1")
"""Scores that say how right an answer is; the first one that a task has is its accuracy."""
_GRADED = re.compile(r"f1|precision|recall|bleu|rouge|meteor|pass@|characters")
"""Names of scores between 0 and 1. A weak model has 0 on every item, which makes no accuracy of them."""


def accuracy_score(names: Iterable[str], is_right_or_wrong: Callable[[str], bool] = lambda name: False) -> str | None:
    """The score that is a task's accuracy, of the `names` of its scores; None where it has none.

    A task without one of the usual names has it in its first score that `is_right_or_wrong`, 0 or 1 on every item. For
    the usual ones the values do not count: else one model's accuracy would be another score than the next one's.
    """
    score_names = list(names)
    usual_name = next((name for name in _RIGHT if name in score_names), None)
    return usual_name or next(
        (name for name in score_names if not _GRADED.search(name) and is_right_or_wrong(name)), None
    )


def _accuracy(row: Row) -> float | None:
    correct, scores = row.get("correct"), scores_of(row)
    return scores.get(accuracy_score(scores) or "") if correct is None else correct  # the score may be a fraction


METRICS = (
    Metric(
        "acc",
        "accuracy",
        "share of items right",
        _accuracy,
        ("correct", "scores"),
        is_averaged=True,
        column="correct",
        is_elsewhere=True,
    ),
    Metric(
        "bpb",
        "bits per byte",
        "bits per byte",
        lambda row: row.get("bits_per_byte"),
        ("bits_per_byte",),
        is_averaged=True,
        has_part_intervals=False,
        column="bits_per_byte",
    ),
    Metric(
        "bpb_corpus",
        "bits per byte of all",
        "bits per byte",
        lambda row: row.get("bits_per_byte") if row.get("num_bytes") else None,
        ("bits_per_byte", "num_bytes"),
        weight=lambda row: row["num_bytes"],
        has_parts=False,
    ),
    Metric(
        "acc_clean",
        "accuracy of clean items",
        "share of items right",
        lambda row: _accuracy(row) if row.get("contaminated") is False else None,
        ("correct", "scores", "contaminated"),
        has_parts=False,
    ),
)
"""The metrics that any task may have. `acc`: share of items answered right. `bpb`: bits per UTF-8 byte of the right
answer, mean over items; `bpb_corpus`: bits of all right answers over their bytes. `acc_clean`: accuracy over the items
that are known not to be in the training data."""
BY_NAME = {metric.name: metric for metric in METRICS}
AVERAGED = tuple(metric for metric in METRICS if metric.is_averaged)
"""The metrics that have a mean over tasks."""
MEAN = "mean"
"""Stands in the place of a task's name in a metric over all tasks."""
COUNTS = ("items", "too_long", "not_run", "contaminated")
"""Numbers of a task's items: scored; longer than the context; not run, by a failure of the sandbox; and of the scored
ones those that are in the training data. The items of the second and third kind are in no mean."""
_RESERVED = {*BY_NAME, *COUNTS, "chance"}


def score_metric(name: str) -> Metric:
    """The metric of the scores that a task gives its items by this name: their mean over the items that have one."""
    return Metric(name, name, "", lambda row: scores_of(row).get(name), ("scores",))


def metric_called(name: str) -> Metric:
    """The metric `<task>/<name>`, whether any item has a value of it or not."""
    return BY_NAME.get(name) or score_metric(name)


def is_scored(row: Row) -> bool:
    return not row["too_long"] and not row.get("not_run")


def task_metrics(task: str, rows: Sequence[Row]) -> dict[str, float]:
    """Metrics of a task or group, from its items: `<task>/items` and the other `COUNTS`, `/chance`, each metric and
    each of the items' own scores with `_low` and `_high`, and for each part `/items_<part>` and each metric.

    A score that only some of the scored items have is the mean over these, whose number is `<task>/<score>_items`.
    """
    scored = [row for row in rows if is_scored(row)]
    values = _counts(task, rows, scored)
    chances = [row["chance"] for row in scored if row["chance"] is not None]
    if chances:
        values[f"{task}/chance"] = statistics.fmean(chances)
    own_scores = dict.fromkeys(name for row in scored for name in scores_of(row) if name not in _RESERVED)
    metrics = (*METRICS, *map(score_metric, own_scores))
    clusters = _clusters_by_row(scored)
    for metric in metrics:
        values |= _metric_with_interval(f"{task}/{metric.name}", metric, scored, clusters)
    for name in own_scores:
        num_with_score = sum(name in scores_of(row) for row in scored)
        if num_with_score < len(scored):
            values[f"{task}/{name}_items"] = float(num_with_score)
    parts: dict[str, list[Row]] = {}
    for row in scored:
        for part in parts_of(row):
            parts.setdefault(part, []).append(row)
    for part, part_rows in sorted(parts.items()):
        values[f"{task}/items_{part}"] = float(len(part_rows))
        if len(parts) > 1 and (chances := [row["chance"] for row in part_rows if row["chance"] is not None]):
            values[f"{task}/chance_{part}"] = statistics.fmean(chances)
        for metric in (metric for metric in metrics if metric.has_parts):
            name = f"{task}/{metric.name}_{part}"
            part_values = _metric_with_interval(name, metric, part_rows, clusters)
            values |= part_values if metric.has_part_intervals or not part_values else {name: part_values[name]}
    return values


def _counts(task: str, rows: Sequence[Row], scored: Sequence[Row]) -> dict[str, float]:
    not_run = sum(bool(row.get("not_run")) and not row["too_long"] for row in rows)
    counts = {"items": len(scored), "too_long": len(rows) - len(scored) - not_run, "not_run": not_run}
    flags = [row["contaminated"] for row in scored if row.get("contaminated") is not None]
    if flags:
        counts["contaminated"] = sum(flags)
    return {f"{task}/{name}": float(count) for name, count in counts.items()}


def mean_metrics(
    tasks: Iterable[str], metrics: Mapping[str, float], samples: Callable[[str], Sequence[Sample]]
) -> dict[str, float]:
    """The unweighted mean over `tasks` of each metric that has one, as `mean/<name>` with its interval, and
    `mean/chance`.

    `metrics`: those of the tasks; `samples`: the items' values that a metric is made of, by the metric's name. There is
    no mean where no item of a task was scored. A group and one of its members may both be in `tasks`: their scores
    share items, so their covariance enters the interval.
    """
    tasks = list(tasks)
    means: dict[str, float] = {}
    if tasks_not_scored(tasks, metrics):  # the mean over the others would be another number under the same name
        return means
    for metric in AVERAGED:
        names = [f"{task}/{metric.name}" for task in tasks if f"{task}/{metric.name}" in metrics]
        if names:
            means |= unweighted_mean(f"{MEAN}/{metric.name}", names, metrics, samples)
    chances = [metrics[f"{task}/chance"] for task in tasks if f"{task}/chance" in metrics]
    if chances:
        means[f"{MEAN}/chance"] = statistics.fmean(chances)
    return means


def tasks_not_scored(tasks: Iterable[str], metrics: Mapping[str, float]) -> list[str]:
    """The tasks without a scored item."""
    return [task for task in tasks if metrics.get(f"{task}/items") == 0]


def unweighted_mean(
    name: str, metric_names: Sequence[str], metrics: Mapping[str, float], samples: Callable[[str], Sequence[Sample]]
) -> dict[str, float]:
    """The mean of the metrics `metric_names`, called `name`, with its interval over items. `samples(name)`: one for
    each of the metrics, which says what items they share; without them the metrics are taken as independent."""
    ends = ("", "_low", "_high")
    intervals = [Interval(*(metrics[f"{metric_name}{end}"] for end in ends)) for metric_name in metric_names]
    metric_samples = samples(name)
    shared = correlations(metric_samples) if len(metric_samples) == len(metric_names) else None
    return named_interval(name, mean_of_intervals(intervals, shared))


def named_interval(name: str, interval: Interval) -> dict[str, float]:
    """The metric and its two ends, by their names."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def _clusters_by_row(rows: Sequence[Row]) -> dict[int, int | None]:
    """Maps each row, by its `id`, to a number of its cluster that no cluster of another task has; see
    `cluster_numbers`."""
    clusters = [None if (number := cluster_of(row)) is None else (row["task"], number) for row in rows]
    return dict(zip(map(id, rows), cluster_numbers(clusters), strict=True))


def cluster_numbers(clusters: Sequence[Hashable | None]) -> list[int | None]:
    """A number for the cluster of each item, from 0 on. Where some items are in clusters, an item that stands alone
    counts as a cluster too; where no item is in one, each number is None."""
    numbers: dict[Hashable, int] = {}
    if all(cluster is None for cluster in clusters):
        return [None] * len(clusters)
    keys = [("alone", index) if cluster is None else ("cluster", cluster) for index, cluster in enumerate(clusters)]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _metric_with_interval(
    name: str, metric: Metric, rows: Sequence[Row], clusters: Mapping[int, int | None]
) -> dict[str, float]:
    weighted_values = [
        (value, metric.weight(row), clusters[id(row)]) for row in rows if (value := metric.value(row)) is not None
    ]
    return named_interval(name, values_interval(*zip(*weighted_values, strict=True))) if weighted_values else {}


def values_interval(
    values: Sequence[float], weights: Sequence[float], clusters: Sequence[int | None] = (None,)
) -> Interval:
    """Weighted mean with its 95 % interval over items: Wilson's where each value is 0 or 1 and all weights are equal,
    else Student's. Over clusters where `clusters` has their numbers (`cluster_numbers`)."""
    item_values, item_weights = np.array(values, dtype=float), np.array(weights, dtype=float)
    is_share = len(set(weights)) == 1 and all(value in (0, 1) for value in values)
    if None not in clusters:
        _, cluster_means, cluster_weights = by_cluster(item_values, item_weights, np.array(clusters))
        cluster_values = pseudo_values(cluster_means, cluster_weights)
        return _clustered_share(values, cluster_values) if is_share else mean_interval(cluster_values.tolist())
    if is_share:
        return Interval(statistics.fmean(values), *wilson_interval(int(sum(values)), len(values)))
    return mean_interval(pseudo_values(item_values, item_weights).tolist())


def by_cluster(
    values: np.ndarray, weights: np.ndarray, clusters: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The clusters' numbers, sorted, the weighted mean of each one's values, and the sum of each one's weights.

    The mean over clusters, weighted by these sums, is the mean over items, and its standard error that of a sample of
    clusters (Cochran 1977, section 9A.1: single-stage sampling of clusters of unequal size, the ratio to size).
    """
    numbers, inverse = np.unique(clusters, return_inverse=True)
    sums = np.bincount(inverse, weights)
    return numbers, np.bincount(inverse, weights * values) / sums, sums


def _clustered_share(values: Sequence[float], cluster_values: np.ndarray) -> Interval:
    """Wilson's interval of a share for as many independent items as would give the standard error over clusters (Kish
    1965, section 8.2); as many as clusters where all items are alike, which shows no error."""
    share, num_clusters = statistics.fmean(values), len(cluster_values)
    variance = float(np.var(cluster_values, ddof=1)) / num_clusters if num_clusters > 1 else 0.0
    num_independent = min(len(values), share * (1 - share) / variance) if variance else num_clusters
    return Interval(share, *wilson_interval(share * num_independent, num_independent))


def pseudo_values(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Numbers whose plain mean is the weighted mean of `values`, and whose variance gives that mean's standard error
    (the linearised ratio estimator: Cochran 1977, section 2.11); `values` themselves where all weights are equal."""
    if (weights == weights[0]).all():
        return values
    mean = math.fsum(values * weights) / math.fsum(weights)
    return mean + weights * (values - mean) / (math.fsum(weights) / len(weights))
