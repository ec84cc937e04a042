"""The sweep's objectives: their values in a trial's metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from raycodellm.config import Objective, SweepFile
from raycodellm.rungs import Rung


def objective_values(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> list[float]:
    """The objectives' values in a trial's metrics. Raises ValueError when one is missing or not a finite number."""
    values = []
    for objective in objectives:
        if objective.metric not in metrics:
            metric_names = ", ".join(sorted(metrics))
            raise ValueError(
                f"the evaluation gave no {objective.metric!r}, the sweep's objective; it gave {metric_names}"
            )
        value = float(metrics[objective.metric])
        if not math.isfinite(value):
            raise ValueError(f"the objective {objective.metric!r} is {value}, not a finite number")
        values.append(value)
    return values


def rung_values(file: SweepFile, rungs: Sequence[Rung]) -> dict[int, float]:
    """A trial's values at the rungs of early stopping by their steps, as Optuna is told: bits per byte, or their
    negative where the objective is maximised, since Optuna orders both the same way."""
    sign = 1.0 if file.example().search.objectives[0].mode == "min" else -1.0
    return {rung.step: sign * rung.value for rung in rungs}
