"""Arms as they were measured, and predicted scores beside measured ones, once suggested points have run."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from raycodellm.regression.document import Suggested
from raycodellm.regression.posterior import SeedSpread
from raycodellm.statistics import seed_noise
from raycodellm.tables import Table, cells, formats
from raycodellm.tables.trials import Row, params_of
from raycodellm.verdict.arms import equal_params
from raycodellm.verdict.measurements import measured_arms, rows_by_arm, scored_arms, stopped_arms, with_metric


def predicted_beside_measured(suggested: Suggested, rows: Sequence[Row]) -> Table:
    """One row per suggested point that an arm of `rows` has measured: `rows` of `trials.parquet`.

    The measured score is the mean over the arm's complete seeds, with its 95 % interval over items, and over seeds
    where an arm has several.
    """
    level = f"{suggested.level:.0%} interval".replace("%", " %")
    header = (
        "arm",
        "parameters",
        f"predicted {suggested.metric}",
        level,
        "measured",
        "95 % interval",
        "seeds",
        "inside",
    )
    table_rows = []
    complete = scored_arms(rows_by_arm(_rows_without_stopped(rows)), suggested.metric)
    measured, noise = measured_arms(suggested.metric, complete, {})
    for point in suggested.points:
        for arm, scored_rows in complete.items():
            if equal_params(params_of(scored_rows[0]), point.params):
                score, low, high = measured[arm].interval(noise)
                table_rows.append(
                    (
                        str(arm),
                        formats.params(point.params),
                        cells.score(point.predicted),
                        formats.interval(point.low, point.high),
                        cells.score(score),
                        formats.interval(low, high),
                        str(len(scored_rows)),
                        "yes" if point.low <= score <= point.high else "no",
                    )
                )
    return Table(header, table_rows, left=(1, 7))


def _rows_without_stopped(rows: Sequence[Row]) -> list[Row]:
    """The rows without those of arms that were stopped early, which have no score."""
    stopped = stopped_arms(rows)
    return [row for row in rows if row["arm"] not in stopped]


class MeasuredArm(NamedTuple):
    """An arm with the mean of its complete seeds."""

    arm: int
    params: dict[str, Any]
    score: float
    by_seed: dict[int, float]
    """The score of each complete seed."""


def measured_means(rows: Sequence[Row], metric: str) -> list[MeasuredArm]:
    """Every arm with a complete seed that has the metric; failed trials are left out, and so are arms that were stopped
    early. Arms with equal parameters are one, under the first one's number."""
    by_params: dict[Hashable, MeasuredArm] = {}
    rows = _rows_without_stopped(rows)
    for arm, arm_rows in sorted(rows_by_arm(rows).items()):
        if complete := with_metric(arm_rows, metric):
            params = params_of(arm_rows[0])
            by_seed = {row["seed"]: float(row[f"metrics.{metric}"]) for row in complete}
            earlier = by_params.get(key := _key(params))
            if earlier is not None:
                by_seed = {**by_seed, **earlier.by_seed}
                arm, params = earlier.arm, earlier.params
            by_params[key] = MeasuredArm(arm, params, statistics.fmean(by_seed.values()), by_seed)
    return list(by_params.values())


def _key(params: Mapping[str, Any]) -> Hashable:
    """Equal for equal parameters, also where a table has made text of one (`verdict.arms.equal_params`)."""
    return tuple(sorted((name, _text(value)) for name, value in params.items() if value is not None))


def _text(value: Any) -> str:
    try:
        return str(float(value)) if not isinstance(value, bool) else str(value)
    except (TypeError, ValueError):
        return str(value)


def seed_spread(arms: Sequence[MeasuredArm]) -> SeedSpread:
    """The noise that the seeds of single arms show, pooled over the arms; nothing where no arm has a second seed."""
    noise = seed_noise({arm.arm: arm.by_seed for arm in arms}).single
    return SeedSpread(noise.value * noise.degrees, int(noise.degrees)) if noise.degrees else SeedSpread()
