"""Which arms a sweep compares: the reference, and the arms that are best in its search."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from raycodellm import search
from raycodellm.config import Objective, SweepFile
from raycodellm.tables.trials import Row, params_of
from raycodellm.verdict.counted import in_order
from raycodellm.verdict.measurements import rows_by_arm, with_metric


def reference_arm(file: SweepFile, rows: Sequence[Row]) -> int | None:
    """The arm whose parameters are those of `search.reference`, the first of several; None while there is none."""
    point = search.reference_point(file)
    if point is None:
        return None
    return next((arm for arm, of_arm in sorted(rows_by_arm(rows).items()) if same(params_of(of_arm[0]), point)), None)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if two points have equal parameters, where one of them may come from a table.

    A table holds None for a value that is missing, and text for a parameter whose options have several types.
    """
    one, other = _without_none(one), _without_none(other)
    return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) or (isinstance(one, str) != isinstance(other, str) and str(one) == str(other))


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(one) for name, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, (list, tuple)) else value


def best_of_search(
    rows: Sequence[Row],
    objective: Objective,
    reference: int | None,
    most: int,
    broken: Mapping[int, float] | None = None,
) -> tuple[int, ...]:
    """At most `most` arms with the best mean over their complete search trials, the best first, without the reference.

    `broken`: maps arms to how far they break constraints; those that keep all of them come first. Of arms with equal
    parameters the first counts: another would be trained to the same scores.
    """
    by_arm = rows_by_arm(rows, "search")
    means = {arm: mean_score(of_arm, objective.metric) for arm, of_arm in by_arm.items() if arm != reference}
    chosen: list[int] = []
    taken = [params_of(by_arm[reference][0])] if reference in by_arm else []
    for arm in in_order({arm: mean for arm, mean in means.items() if mean is not None}, (), objective, broken):
        params = params_of(by_arm[arm][0])
        if len(chosen) < most and not any(same(params, other) for other in taken):
            chosen.append(arm)
            taken.append(params)
    return tuple(chosen)


def mean_score(rows: Sequence[Row], metric: str) -> float | None:
    """Mean of the metric over the complete rows that have it; None without one."""
    values = [float(row[f"metrics.{metric}"]) for row in with_metric(rows, metric)]
    return statistics.fmean(values) if values else None
