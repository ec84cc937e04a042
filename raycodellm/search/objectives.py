"""The sweep's objectives: their values in a trial's metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from raycodellm.config import Objective


def objective_values(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> list[float]:
    """The objectives' values in a trial's metrics. Raises ValueError when one is missing or not a finite number."""
    values = []
    for objective in objectives:
        if objective.metric not in metrics:
            near = ", ".join(sorted(metrics))
            raise ValueError(f"the evaluation gave no {objective.metric!r}, the sweep's objective; it gave {near}")
        value = float(metrics[objective.metric])
        if not math.isfinite(value):
            raise ValueError(f"the objective {objective.metric!r} is {value}, not a finite number")
        values.append(value)
    return values
