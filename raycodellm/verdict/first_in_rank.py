"""Arms against the arm that is first in rank: the verdicts of a sweep without a reference arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from raycodellm.config import Objective
from raycodellm.statistics import ERROR, Interval, verdict_word
from raycodellm.tables.trials import Row, params_of
from raycodellm.verdict.measurements import ItemsOf, measured_arms, scored_arms
from raycodellm.verdict.verdicts import Comparison, Verdict, num_items


def compare_with_first(
    rows: Mapping[int, Sequence[Row]], first: int, metrics: Mapping[str, Objective], items: ItemsOf
) -> Comparison:
    """The verdict on each arm of `rows` but the `first`, in each metric that both have.

    The differences in a metric hold for all arms at once (Tukey's range), at an error that is divided among the metrics
    (Bonferroni): where no arm differs, at most 5 % of sweeps claim a difference anywhere.
    """
    error = ERROR / max(1, len(metrics))
    verdicts: list[Verdict] = []
    scores: dict[str, Interval] = {}
    for metric, objective in metrics.items():
        complete_rows = scored_arms(rows, metric)
        measured, noise = measured_arms(metric, complete_rows, items)
        if first not in measured:
            continue
        scores[metric] = measured[first].interval(noise)
        for arm, arm_measurements in measured.items():
            if arm == first:
                continue
            gap = arm_measurements.minus(measured[first], noise, len(measured), 1 - error)
            if math.isnan(gap.low):
                continue
            verdicts.append(
                Verdict(
                    arm=arm,
                    params=params_of(complete_rows[arm][0]),
                    metric=metric,
                    score=arm_measurements.interval(noise),
                    seeds=tuple(arm_measurements.scores),
                    items=num_items(complete_rows[arm][0], metric),
                    difference=gap,
                    word=verdict_word(gap, objective.mode),
                    level=error,
                )
            )
    return Comparison(tuple(verdicts), scores)
