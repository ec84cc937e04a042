"""The best arm so far: what a display can afford to work out each time a trial ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.config import Objective, SweepFile
from raycodellm.records import TrialResult
from raycodellm.tables import formats
from raycodellm.tables.trials import Row, params_of, score_columns
from raycodellm.verdict import Looks, breaches, broken_by
from raycodellm.verdict.arms import mean_score
from raycodellm.verdict.counted import counted_rows, ranked_arms
from raycodellm.verdict.measurements import measured_arms


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
    is_confirmed: bool = False
    """True if the seeds are fresh ones; else the arm was chosen by this score, which noise makes look too good."""

    def __str__(self) -> str:
        text = f"arm {self.arm} ({formats.params(self.params)}) with {self.metric} {formats.score(self.score)}"
        if math.isnan(self.low) or math.isnan(self.high):
            return text
        fresh = "fresh " if self.is_confirmed else ""
        seeds = "one seed" if len(self.seeds) == 1 else f"{len(self.seeds)} {fresh}seeds"
        over = "items and seeds" if self.covers_seeds else "items alone"
        chosen = "" if self.is_confirmed else ", selected by this score"
        return f"{text} (95 %: {formats.interval(self.low, self.high)} over {over}; {seeds}{chosen})"


def best_arm(
    rows: Sequence[Row],
    objectives: Sequence[Objective],
    looks: Looks | None = None,
    file: SweepFile | None = None,
) -> BestArm | None:
    """The arm that is first in rank by the first objective, with the interval that its evaluations recorded.

    `rows`: of `trials.parquet`; `looks`: of a sweep with a confirmation, where they are known: they have the intervals
    of the arms that are confirmed; `file`: of the sweep, for its constraints. None while no complete trial has a finite
    score. Takes milliseconds for hundreds of trials, since no difference between arms is worked out.
    """
    objective = objectives[0]
    complete_rows, confirmed = counted_rows(rows, objective.metric, looks.counted if looks is not None else None)
    if not complete_rows:
        return None
    means = {arm: mean_score(arm_rows, objective.metric) for arm, arm_rows in complete_rows.items()}
    counted = looks.counted if looks is not None else None
    broken = broken_by(breaches(file, rows, {}, counted)) if file is not None else {}
    arm = ranked_arms({arm: mean for arm, mean in means.items() if mean is not None}, confirmed, objective, broken)[0]
    # Another arm with one seed tells nothing of the noise between seeds.
    noise_rows = {other: arm_rows for other, arm_rows in complete_rows.items() if other == arm or len(arm_rows) > 1}
    measured, noise = measured_arms(objective.metric, noise_rows, {})
    look_score = looks.scores.get((arm, objective.metric)) if looks is not None else None
    score, low, high = look_score or measured[arm].interval(noise)
    return BestArm(
        arm=arm,
        params=params_of(complete_rows[arm][0]),
        seeds=tuple(row["seed"] for row in complete_rows[arm]),
        metric=objective.metric,
        score=score,
        low=low,
        high=high,
        covers_seeds=noise.single.degrees > 0,
        is_confirmed=arm in confirmed,
    )


def best_arm_of(
    results: Sequence[TrialResult],
    objectives: Sequence[Objective],
    looks: Looks | None = None,
    file: SweepFile | None = None,
) -> BestArm | None:
    """`best_arm` from the trials' results."""
    constraints = file.example().search.constraints if file is not None else ()
    columns = score_columns([objectives[0].metric, *(constraint.metric for constraint in constraints)])
    return best_arm([result.row(columns) for result in results], objectives, looks, file)
