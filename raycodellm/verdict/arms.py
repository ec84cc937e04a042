"""The arms that a sweep compares: the reference, and the arms that are best in its search."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from raycodellm import search
from raycodellm.config import Objective, SweepFile
from raycodellm.statistics import pareto_front
from raycodellm.tables.trials import Row, params_of
from raycodellm.verdict.counted import ranked_arms
from raycodellm.verdict.measurements import rows_by_arm, searched_arms, with_metric


def reference_arm(file: SweepFile, rows: Sequence[Row]) -> int | None:
    """The first arm whose parameters are those of `search.reference`; None while no arm has them."""
    point = search.reference_point(file)
    if point is None:
        return None
    return next(
        (arm for arm, arm_rows in sorted(rows_by_arm(rows).items()) if equal_params(params_of(arm_rows[0]), point)),
        None,
    )


def equal_params(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if two points have equal parameters, where one of them may come from a table.

    A table holds None for a value that is missing, and text for a parameter whose options have several types.
    """
    one, other = _without_none(one), _without_none(other)
    return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) or (isinstance(one, str) != isinstance(other, str) and str(one) == str(other))


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(member) for name, member in value.items() if member is not None}
    return [_without_none(member) for member in value] if isinstance(value, (list, tuple)) else value


def best_of_search(
    rows: Sequence[Row],
    objectives: Sequence[Objective],
    reference: int | None,
    most: int,
    broken: Mapping[int, float] | None = None,
) -> tuple[int, ...]:
    """At most `most` arms with the best means over their complete search trials, the best first, without the reference.

    With several objectives these are the ends of the Pareto front, then its arms in the widest gaps, then the next
    front's. `broken`: maps arms to how far they break constraints; those that keep all of them come first. Of arms with
    equal parameters the first counts: another would be trained to the same scores. An arm that was stopped early is
    none of them.
    """
    by_arm = searched_arms(rows)
    points: dict[int, tuple[float, ...]] = {}
    for arm, arm_rows in by_arm.items():
        means = [mean_score(arm_rows, objective.metric) for objective in objectives]
        if arm != reference and None not in means:
            points[arm] = tuple(mean for mean in means if mean is not None)
    order = ranked_arms({arm: point[0] for arm, point in points.items()}, (), objectives[0], broken)
    if len(objectives) > 1:
        order = _front_by_front(points, objectives, order)
        order.sort(key=lambda arm: (broken or {}).get(arm, 0.0))  # keeps the fronts' order where none is broken
    chosen: list[int] = []
    taken = [params_of(by_arm[reference][0])] if reference in by_arm else []
    for arm in order:
        params = params_of(by_arm[arm][0])
        if len(chosen) < most and not any(equal_params(params, other) for other in taken):
            chosen.append(arm)
            taken.append(params)
    return tuple(chosen)


def _front_by_front(
    points: Mapping[int, Sequence[float]], objectives: Sequence[Objective], order: Sequence[int]
) -> list[int]:
    """The arms front by front, and of one front those that stand alone first.

    `points`: maps each arm to its mean in each objective; `order`: the arms, which decides between equals. Fronts and
    the distance from the neighbours along each objective are those of NSGA-II (Deb et al. 2002): the best arm by each
    objective comes first, then those in the middle of the widest gaps.
    """
    remaining, ordered = dict(points), []
    minimise = [objective.mode == "min" for objective in objectives]
    while remaining:
        members = pareto_front(remaining, minimise)
        crowding = _crowding_distances({arm: remaining[arm] for arm in members})
        ordered += sorted(members, key=lambda arm: (-crowding[arm], order.index(arm)))
        remaining = {arm: point for arm, point in remaining.items() if arm not in members}
    return ordered


def _crowding_distances(points: Mapping[int, Sequence[float]]) -> dict[int, float]:
    """Sum over the objectives of the gap between an arm's neighbours, in the front's range; infinite at an end."""
    distances = dict.fromkeys(points, 0.0)
    for place in range(len(next(iter(points.values())))):
        ordered = sorted(points, key=lambda arm: points[arm][place])
        width = points[ordered[-1]][place] - points[ordered[0]][place]
        distances[ordered[0]] = distances[ordered[-1]] = math.inf
        for before, arm, after in zip(ordered, ordered[1:], ordered[2:], strict=False):
            distances[arm] += (points[after][place] - points[before][place]) / width if width else 0.0
    return distances


def mean_score(rows: Sequence[Row], metric: str) -> float | None:
    """Mean of the metric over the complete rows that have it; None without one."""
    values = [float(row[f"metrics.{metric}"]) for row in with_metric(rows, metric)]
    return statistics.fmean(values) if values else None
