"""The metrics that a task's own aggregation makes of all its items at once: BLEU, perplexity, F1, Matthews'
correlation and whatever else is no mean over items."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raycodellm.config import UserError
from raycodellm.evaluation.scores.item_scores import is_mean
from raycodellm.evaluation.scores.metrics import Row, cluster_numbers, cluster_of, is_scored, named_interval
from raycodellm.statistics import Interval, student_quantile

_GROUPS = 20
"""Groups of items that are left out in turn."""
_FEWEST_ITEMS = 2 * _GROUPS
"""Items that an interval needs."""
_PLACEHOLDER = "bypass"
"""The beginning of the name of lm-eval's placeholder, which aggregates nothing."""

Aggregation = Callable[[Sequence[Any]], Any]


def corpus_metrics(task: str, aggregations: Mapping[str, Aggregation], rows: Sequence[Row]) -> dict[str, float]:
    """`<task>/<name>` of each aggregation that is no mean, over the task's scored items, with `_low` and `_high` from
    40 items on. A metric that is not defined for these items (not finite, or no number) is left out. Raises UserError
    with the task and the metric for an aggregation that fails."""
    values: dict[str, list[Any]] = {}
    clusters: dict[str, list[int | None]] = {}
    for row in rows:
        if is_scored(row) and (text := row.get("corpus_scores")):
            for name, value in json.loads(text).items():
                values.setdefault(name, []).append(value)
                clusters.setdefault(name, []).append(cluster_of(row))
    metrics: dict[str, float] = {}
    for name, item_values in values.items():
        aggregate = aggregations.get(name)
        if aggregate is None or is_mean(aggregate) or is_none(aggregate):
            continue
        try:
            interval = jackknife_interval(aggregate, item_values, clusters[name])
        except Exception as error:
            message = next(iter(str(error).splitlines()), "")
            raise UserError(
                f"evaluation.tasks: {task!r}: the aggregation of its metric {name!r} fails on the scores of its "
                f"{len(item_values)} items ({type(error).__name__}: {message}); change metric_list in the task's file"
            ) from error
        if interval is not None:
            value_and_ends = named_interval(f"{task}/{name}", interval)
            metrics |= {key: value for key, value in value_and_ends.items() if not math.isnan(value)}
    return metrics


def is_none(aggregate: Aggregation) -> bool:
    """True for lm-eval's placeholder, which aggregates nothing."""
    return getattr(aggregate, "__name__", "").startswith(_PLACEHOLDER)


def jackknife_interval(
    aggregate: Aggregation, values: Sequence[Any], clusters: Sequence[int | None] = ()
) -> Interval | None:
    """The aggregate of `values` with its 95 % interval by the delete-a-group jackknife (Kott 2001): 20 groups, the
    items dealt out in turn, Student's t with 19 degrees. It costs 21 aggregates and no random numbers.

    `clusters`: the cluster of each item, None for an item that stands alone; where any item has one, clusters are dealt
    out in the place of items. Returns None where the aggregate is no finite number. The ends are NaN with fewer than 40
    items (or clusters), and where the aggregate is not finite without one of the groups.
    """
    full_aggregate = _number(aggregate(list(values)))
    if full_aggregate is None:
        return None
    without_ends = Interval(full_aggregate, math.nan, math.nan)
    item_clusters = cluster_numbers(clusters)
    units = [index if cluster is None else cluster for index, cluster in enumerate(item_clusters)] or range(len(values))
    if len({*units}) < _FEWEST_ITEMS:
        return without_ends
    partial_aggregates = [
        _number(aggregate([value for unit, value in zip(units, values, strict=True) if unit % _GROUPS != group]))
        for group in range(_GROUPS)
    ]
    finite_aggregates = [value for value in partial_aggregates if value is not None]
    if len(finite_aggregates) < _GROUPS:
        return without_ends
    mean = statistics.fmean(finite_aggregates)
    variance = (_GROUPS - 1) / _GROUPS * math.fsum((value - mean) ** 2 for value in finite_aggregates)
    half_width = student_quantile(_GROUPS - 1) * math.sqrt(variance)
    return Interval(full_aggregate, full_aggregate - half_width, full_aggregate + half_width)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
