"""Arms against the reference arm, metric by metric: which difference is known.

All arms and metrics are one family (Holm 1979): where no arm differs, at most 5 % of sweeps claim a difference, in any
of them and at any look.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from raycodellm.config import Objective
from raycodellm.statistics import (
    ERROR,
    ArmMeasurements,
    Difference,
    Interval,
    difference,
    holm_at_look,
    seed_noise,
    verdict_word,
)
from raycodellm.tables.trials import Row, params_of
from raycodellm.verdict.measurements import ItemsOf, measurements, scored_arms, with_metric
from raycodellm.verdict.verdicts import Comparison, Verdict, num_items

MOST_ARMS_OF_NOISE = 16
"""Arms that tell the noise between seeds of a difference, beside the two: the nearest by their code ratios."""
ArmMetric = tuple[int, str]
"""An arm and a metric."""


@dataclass(frozen=True)
class Look:
    """One look among those that share the error."""

    seeds: tuple[int, ...] = (1,)
    """Seeds per arm at each look."""
    number: int = 0
    """Place of this look among them."""
    rejected: Collection[ArmMetric] = ()
    """Differences that an earlier look found: they leave the family, and their share of the error goes to the rest."""
    num_planned: int | None = None
    """Looks that were planned before any data had been seen; None for all of them."""
    others: Collection[ArmMetric] = ()
    """Pairs that are not tested any more although no difference was found: they keep their share."""


def compare(
    rows: Mapping[int, Sequence[Row]],
    reference: int,
    metrics: Mapping[str, Objective],
    items: ItemsOf,
    look: Look | None = None,
    margins: Mapping[str, float | None] | None = None,
    noise_rows: Sequence[Sequence[Row]] = (),
) -> Comparison:
    """The verdict on each arm of `rows` but the reference, in each metric that both have.

    `rows`: each arm's complete rows. `look`: None where the results are looked at once. `margins`: maps metrics to the
    margin within which arms are equal. `noise_rows`: further groups of rows, each of one arm, that tell the noise
    between seeds; the arms of `rows` do in any case.
    """
    look, margins = look or Look(), margins or {}
    untested = {*look.rejected, *look.others}
    differences: dict[ArmMetric, Difference] = {}
    scores: dict[ArmMetric, Interval] = {}
    for metric in metrics:
        complete_rows = scored_arms(rows, metric)
        if reference not in complete_rows:
            continue
        measured_by_arm = {arm: measurements(metric, scored_rows, items) for arm, scored_rows in complete_rows.items()}
        # A lone seed says nothing of the noise, and a search has hundreds of arms with one.
        scored_groups = (with_metric(arm_rows, metric) for arm_rows in noise_rows if len(arm_rows) > 1)
        noise_measurements = [
            measurements(metric, scored_rows, {}) for scored_rows in scored_groups if len(scored_rows) > 1
        ]
        pool = [measured for measured in (*measured_by_arm.values(), *noise_measurements) if len(measured.scores) > 1]
        noise = seed_noise({arm: measured.scores for arm, measured in measured_by_arm.items()})
        base = measured_by_arm[reference]
        for arm, measured in measured_by_arm.items():
            scores[arm, metric] = measured.interval(noise)
            if arm != reference and (arm, metric) not in untested:
                differences[arm, metric] = difference(measured, base, _nearest(pool, measured, base))
    p_values = {**dict.fromkeys(look.others, 1.0), **{pair: gap.p_value() for pair, gap in differences.items()}}
    corrected = holm_at_look(p_values, look.seeds, look.number, ERROR, look.num_planned)
    verdicts = []
    for (arm, metric), gap in differences.items():
        p, level, _ = corrected[arm, metric]
        interval, scored_rows = gap.interval(level), with_metric(rows[arm], metric)
        verdicts.append(
            Verdict(
                arm=arm,
                params=params_of(scored_rows[0]),
                metric=metric,
                score=scores[arm, metric],
                seeds=tuple(row["seed"] for row in scored_rows),
                items=num_items(scored_rows[0], metric) or gap.num_items or None,
                difference=interval,
                word=verdict_word(interval, metrics[metric].mode, margins.get(metric)),
                p_corrected=p if gap.is_known else None,
                level=level,
                evidence=gap,
                look=look.number,
            )
        )
    return Comparison(tuple(verdicts), {metric: score for (arm, metric), score in scores.items() if arm == reference})


def _nearest(
    pool: Sequence[ArmMeasurements], arm: ArmMeasurements, reference: ArmMeasurements
) -> Sequence[ArmMeasurements]:
    """The measurements that tell most of the noise of the two arms, at most `MOST_ARMS_OF_NOISE`.

    Each pair of arms is compared with each other pair for its noise, so hundreds of arms would take minutes.
    """
    if len(pool) <= MOST_ARMS_OF_NOISE:
        return pool
    places = [compared.place for compared in (arm, reference) if compared.place is not None]

    def distance(further: ArmMeasurements) -> float:
        return min((abs(further.place - place) for place in places), default=0.0) if further.place is not None else 0.0

    return sorted(pool, key=distance)[:MOST_ARMS_OF_NOISE]
