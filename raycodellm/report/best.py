"""The best arm so far: what a display can afford to work out each time a trial ends."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.config import Objective
from raycodellm.report.ranking import measurements
from raycodellm.statistics import seed_noise
from raycodellm.tables import formats
from raycodellm.tables.trials import Row, metric_of, params_of


@dataclass(frozen=True)
class BestArm:
    """The arm with the best mean score, and the score's 95 % interval."""

    arm: int
    params: dict[str, Any]
    seeds: tuple[int, ...]
    """Seeds of its complete replicates."""
    metric: str
    score: float
    low: float
    high: float
    """Ends of the interval; NaN where they are not known."""
    covers_seeds: bool
    """True if the interval covers the seeds' noise; else it covers the evaluation's items alone."""

    def __str__(self) -> str:
        said = f"arm {self.arm} ({formats.params(self.params)}) with {self.metric} {formats.score(self.score)}"
        if math.isnan(self.low) or math.isnan(self.high):
            return said
        seeds = "one seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        over = "items and seeds" if self.covers_seeds else "items alone"
        return f"{said} (95 %: {formats.interval(self.low, self.high)} over {over}; {seeds})"


def best_arm(rows: Sequence[Row], objectives: Sequence[Objective]) -> BestArm | None:
    """The arm that is first in rank by the first objective, with the interval that its evaluations recorded.

    `rows`: of `trials.parquet`. None while no complete trial has a finite score. Takes milliseconds for hundreds of
    trials, since no difference between arms is worked out.
    """
    first = objectives[0]
    complete: dict[int, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["number"]):
        if metric_of(row, first.metric) is not None:
            complete[row["arm"]].append(row)
    if not complete:
        return None
    measured = {arm: measurements(first.metric, done, {}) for arm, done in complete.items()}
    noise = seed_noise({arm: found.scores for arm, found in measured.items()})
    sign = 1.0 if first.mode == "min" else -1.0
    arm = min(measured, key=lambda arm: (sign * measured[arm].score, arm))
    score, low, high = measured[arm].interval(noise)
    return BestArm(
        arm=arm,
        params=params_of(complete[arm][0]),
        seeds=tuple(row["seed"] for row in complete[arm]),
        metric=first.metric,
        score=score,
        low=low,
        high=high,
        covers_seeds=noise.single.degrees > 0,
    )
