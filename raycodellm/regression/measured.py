"""Arms as they were measured, and predicted scores beside measured ones, once suggested points have run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from raycodellm.regression.document import Suggested
from raycodellm.regression.posterior import SeedSpread
from raycodellm.statistics import seed_noise
from raycodellm.tables import Table, cells, formats
from raycodellm.tables.trials import Row, params_of
from raycodellm.verdict.arms import same
from raycodellm.verdict.measurements import rows_by_arm, with_metric


def predicted_beside_measured(suggested: Suggested, rows: Sequence[Row]) -> Table:
    """One row per suggested point that an arm of `rows` has measured: `rows` of `trials.parquet`.

    The measured score is the mean over the arm's complete seeds.
    """
    level = f"{suggested.level:.0%} interval".replace("%", " %")
    header = ("arm", "parameters", f"predicted {suggested.metric}", level, "measured", "seeds", "inside")
    found = []
    for point in suggested.points:
        for arm, of_arm in rows_by_arm(rows).items():
            complete = with_metric(of_arm, suggested.metric) if same(params_of(of_arm[0]), point.params) else []
            if complete:
                score = statistics.fmean(float(row[f"metrics.{suggested.metric}"]) for row in complete)
                found.append(
                    (
                        str(arm),
                        formats.params(point.params),
                        cells.score(point.predicted),
                        formats.interval(point.low, point.high),
                        cells.score(score),
                        str(len(complete)),
                        "yes" if point.low <= score <= point.high else "no",
                    )
                )
    return Table(header, found, left=(1, 6))


class MeasuredArm(NamedTuple):
    """An arm with the mean of its complete seeds."""

    arm: int
    params: dict[str, Any]
    score: float
    by_seed: dict[int, float]
    """The score of each complete seed."""


def measured_means(rows: Sequence[Row], metric: str) -> list[MeasuredArm]:
    """Every arm with a complete seed that has the metric; failed trials are left out. Arms with equal parameters are
    one, under the first one's number."""
    found: list[tuple[int, dict[str, Any], dict[int, float]]] = []
    for arm, of_arm in sorted(rows_by_arm(rows).items()):
        if complete := with_metric(of_arm, metric):
            params = params_of(of_arm[0])
            by_seed = {row["seed"]: float(row[f"metrics.{metric}"]) for row in complete}
            known = next((one for one in found if same(one[1], params)), None)
            if known is None:
                found.append((arm, params, by_seed))
            else:
                known[2].update({seed: score for seed, score in by_seed.items() if seed not in known[2]})
    return [MeasuredArm(arm, params, statistics.fmean(by_seed.values()), by_seed) for arm, params, by_seed in found]


def seed_spread(arms: Sequence[MeasuredArm]) -> SeedSpread:
    """The noise that the seeds of single arms show, pooled over the arms; nothing where no arm has a second seed."""
    noise = seed_noise({one.arm: one.by_seed for one in arms}).single
    return SeedSpread(noise.value * noise.degrees, int(noise.degrees)) if noise.degrees else SeedSpread()
