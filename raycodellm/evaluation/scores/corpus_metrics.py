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
"""The name of lm-eval's aggregation that stands for none."""

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
    found: dict[str, float] = {}
    for name, of_items in values.items():
        aggregate = aggregations.get(name)
        if aggregate is None or is_mean(aggregate) or is_none(aggregate):
            continue
        try:
            interval = jackknife_interval(aggregate, of_items, clusters[name])
        except Exception as error:
            said = next(iter(str(error).splitlines()), "")
            raise UserError(
                f"evaluation.tasks: {task!r}: the aggregation of its metric {name!r} fails on the scores of its "
                f"{len(of_items)} items ({type(error).__name__}: {said}); change metric_list in the task's file"
            ) from error
        if interval is not None:
            known = named_interval(f"{task}/{name}", interval)
            found |= {key: value for key, value in known.items() if not math.isnan(value)}
    return found


def is_none(aggregate: Aggregation) -> bool:
    """True for lm-eval's aggregation that stands for none."""
    return getattr(aggregate, "__name__", "").startswith(_PLACEHOLDER)


def jackknife_interval(
    aggregate: Aggregation, values: Sequence[Any], clusters: Sequence[int | None] = ()
) -> Interval | None:
    """The aggregate of `values` with its 95 % interval by the delete-a-group jackknife (Kott 2001): 20 groups, the
    items dealt out in turn, Student's t with 19 degrees. It costs 21 aggregates and no random numbers.

    `clusters`: of each item, None for one that stands alone; then the clusters are dealt out. None where the aggregate
    is no finite number. The ends are NaN with fewer than 40 items (or clusters), and where the aggregate is not finite
    without one of the groups.
    """
    whole = _number(aggregate(list(values)))
    if whole is None:
        return None
    unknown = Interval(whole, math.nan, math.nan)
    numbers = cluster_numbers(clusters)
    places = [place if number is None else number for place, number in enumerate(numbers)] or range(len(values))
    if len({*places}) < _FEWEST_ITEMS:
        return unknown
    without = [
        _number(aggregate([value for place, value in zip(places, values, strict=True) if place % _GROUPS != group]))
        for group in range(_GROUPS)
    ]
    known = [value for value in without if value is not None]
    if len(known) < _GROUPS:
        return unknown
    middle = statistics.fmean(known)
    variance = (_GROUPS - 1) / _GROUPS * math.fsum((value - middle) ** 2 for value in known)
    half = student_quantile(_GROUPS - 1) * math.sqrt(variance)
    return Interval(whole, whole - half, whole + half)


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None
