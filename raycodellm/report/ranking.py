"""Ranks the arms of a sweep, from rows of `trials.parquet` and tables of items.

An arm's score is the mean of its metric over its complete fresh seeds, and over its complete trials of the search where
it has no fresh seeds. Without a reference arm, an arm is worse than the best for sure if the interval of their
difference excludes 0. The interval covers items and seeds, and all arms at once: the best was chosen by its score.
With one seed per arm the seeds' noise is unknown: arms are ranked, and no difference is claimed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raycodellm.config import Objective
from raycodellm.statistics import Interval, Word, pareto_front
from raycodellm.tables.trials import Row, metric_of, params_of, trial_name
from raycodellm.verdict import ItemTable, Looks, Verdict
from raycodellm.verdict.counted import counted_rows, ranked_arms
from raycodellm.verdict.measurements import measured_arms, phase_of, rows_by_arm, with_metric


@dataclass(frozen=True)
class ArmScore:
    """One arm in the ranking. Without a complete replicate its `score` is None and it stands at the end."""

    arm: int
    params: dict[str, Any]
    seeds: tuple[int, ...]
    """Seeds of the complete replicates."""
    trials: tuple[int, ...]
    """Numbers of the complete replicates' trials."""
    score: float | None = None
    """Mean of the first objective over the complete replicates."""
    low: float = math.nan
    high: float = math.nan
    """Ends of the score's 95 % interval."""
    covers_seeds: bool = False
    """True if the interval covers the seeds' noise; else it covers the evaluation's items alone."""
    accuracy: float | None = None
    """Share of items answered right, over the tasks of the first objective."""
    chance: float | None = None
    """The accuracy of guessing on these tasks."""
    beats_chance: bool | None = None
    """True if the accuracy's interval lies above chance; None where that is not known."""
    difference: Interval | None = None
    """This score minus that of the reference arm, or else of the best; None for that arm, and where nothing is said of
    it. The ends are NaN while the seeds' noise is unknown."""
    separable: bool = False
    """True if the difference's interval is known and excludes 0; for the best arm, if all others are separable."""
    verdict: Word | None = None
    """Against the reference arm; None without one, and for arms that have no verdict."""
    is_confirmed: bool = False
    """True if `seeds` are fresh seeds, which the search has not seen."""
    selected_score: float | None = None
    """The mean score by which the search chose a confirmed arm, which noise makes look too good."""
    scores: tuple[float | None, ...] = ()
    """Means of all objectives, in their order."""
    pareto: bool = False
    """True if it keeps the constraints, and no other that does is better in one objective and no worse in the rest."""
    errors: tuple[str, ...] = ()
    """Causes of its failed replicates."""
    open: int = 0
    """Number of replicates that run or wait."""


def ranking(
    rows: Sequence[Row],
    objectives: Sequence[Objective],
    items: Mapping[int, ItemTable] | None = None,
    verdicts: Sequence[Verdict] | None = None,
    looks: Looks | None = None,
    broken: Mapping[int, float] | None = None,
) -> list[ArmScore]:
    """All arms, the best by the first objective first, those without a score last; confirmed arms before the others.

    `rows`: of `trials.parquet`; `items`: maps a trial's number to its table of items. Without items the intervals are
    those that the evaluation recorded, and a difference is as uncertain over items as two independent scores.
    `verdicts`: against the reference arm, of a sweep that has one; None for differences to the best arm.
    `looks`: of a sweep with a confirmation, whose arms have the scores of their last complete look. `broken`: maps arms
    to how far they break constraints.
    """
    by_arm, first_objective, metric = rows_by_arm(rows), objectives[0], objectives[0].metric
    complete_rows, confirmed = counted_rows(rows, metric, looks.counted if looks is not None else None)
    measured, noise = measured_arms(metric, complete_rows, items or {})
    order = ranked_arms(
        {arm: arm_measurements.score for arm, arm_measurements in measured.items()}, confirmed, first_objective, broken
    )
    points = {
        arm: tuple(_mean_metric(complete_rows[arm], objective.metric) for objective in objectives) for arm in order
    }
    front = pareto_front(
        {
            arm: values
            for arm, point in points.items()
            if len(values := _present(point)) == len(point) and not (broken or {}).get(arm)
        },
        [objective.mode == "min" for objective in objectives],
    )
    scored: list[ArmScore] = []
    for arm in order:
        look_score = looks.scores.get((arm, metric)) if looks is not None else None
        value, low, high = look_score or measured[arm].interval(noise)
        searched = with_metric([row for row in by_arm[arm] if phase_of(row) == "search"], metric)
        scored.append(
            replace(
                _without_score(by_arm[arm], complete_rows[arm], metric),
                score=value,
                low=low,
                high=high,
                covers_seeds=noise.single.degrees > 0,
                scores=points[arm],
                pareto=arm in front,
                is_confirmed=arm in confirmed,
                selected_score=_mean_metric(searched, metric) if arm in confirmed else None,
            )
        )
    if verdicts is None:
        gaps = {arm: measured[arm].minus(measured[order[0]], noise, len(order)) for arm in order[1:]}
        scored = _against_best(scored, gaps, first_objective)
    else:
        scored = _against_reference(scored, {verdict.arm: verdict for verdict in verdicts if verdict.metric == metric})
    return scored + [_without_score(by_arm[arm], [], metric) for arm in sorted(set(by_arm) - set(measured))]


def _against_best(scored: Sequence[ArmScore], gaps: Mapping[int, Interval], objective: Objective) -> list[ArmScore]:
    """The arms with their differences to the first of them."""
    sign = 1.0 if objective.mode == "min" else -1.0
    others = [
        replace(arm_score, difference=gap, separable=min(sign * gap.low, sign * gap.high) > 0)
        for arm_score in scored[1:]
        for gap in [gaps[arm_score.arm]]
    ]
    is_best = bool(others) and all(arm_score.separable for arm_score in others)
    return [*(replace(arm_score, separable=is_best) for arm_score in scored[:1]), *others]


def _against_reference(scored: Sequence[ArmScore], verdicts: Mapping[int, Verdict]) -> list[ArmScore]:
    """The arms with their verdicts against the reference arm."""
    return [
        replace(
            arm_score,
            difference=None if math.isnan(verdict.difference.value) else verdict.difference,
            verdict=verdict.word,
            separable=verdict.word in ("better", "worse"),
        )
        if (verdict := verdicts.get(arm_score.arm)) is not None
        else arm_score
        for arm_score in scored
    ]


def _without_score(rows: Sequence[Row], complete_rows: Sequence[Row], metric: str) -> ArmScore:
    """Everything about an arm except its score."""
    errors = [str(row.get("error") or "no cause was recorded") for row in rows if row["state"] == "failed"]
    scoreless = [row for row in rows if row["state"] == "complete" and metric_of(row, metric) is None]
    errors += [f"trial {trial_name(row['number'])} is complete, but has no finite {metric}" for row in scoreless]
    task = metric.partition("/")[0]
    accuracy, low, chance = (_mean_metric(complete_rows, f"{task}/{name}") for name in ("acc", "acc_low", "chance"))
    return ArmScore(
        arm=rows[0]["arm"],
        params=params_of(rows[0]),
        seeds=tuple(row["seed"] for row in complete_rows),
        trials=tuple(row["number"] for row in complete_rows),
        accuracy=accuracy,
        chance=chance,
        beats_chance=None if low is None or chance is None else low > chance,
        errors=tuple(errors),
        open=sum(row["state"] in ("running", "waiting") for row in rows),
    )


def _mean_metric(rows: Sequence[Row], name: str) -> float | None:
    """Mean over the rows; None where a row lacks the metric."""
    values = [metric_of(row, name) for row in rows]
    return statistics.fmean(_present(values)) if values and None not in values else None


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
