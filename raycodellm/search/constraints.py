"""Constraints of the search: how far a trial's metrics are beyond what the sweep file allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from raycodellm.config import Constraint

REFERENCE_TRIAL = 0
"""Number of the trial that a reference's metrics are taken from: its first, before all other arms."""


def limit(constraint: Constraint, reference: float | None) -> float | None:
    """The value that the metric may have at most, or at least where more is better. None if the constraint depends on
    the reference's value and that is not known."""
    if constraint.bound is not None:
        return constraint.bound
    if reference is None or constraint.within is None:
        return None
    return reference + _sign(constraint) * constraint.within * abs(reference)


def breach(constraint: Constraint, value: float, reference: float | None) -> float | None:
    """How far `value` is beyond the limit, in the metric's unit: over 0 where it breaks the constraint."""
    bound = limit(constraint, reference)
    return None if bound is None else _sign(constraint) * (value - bound)


def breaches(
    constraints: Sequence[Constraint], metrics: Mapping[str, float], reference: Mapping[str, float] | None
) -> dict[str, float]:
    """The breach of each constraint in a trial's metrics, by the constraint's name. Leaves out breaches that are not
    known.

    `reference`: metrics of the reference arm; None if it has none yet.
    """
    by_name = {
        constraint.name: breach(constraint, metrics[constraint.metric], (reference or {}).get(constraint.metric))
        for constraint in constraints
        if constraint.metric in metrics
    }
    return {name: float(value) for name, value in by_name.items() if value is not None and math.isfinite(value)}


def require_metrics(constraints: Sequence[Constraint], metrics: Mapping[str, float]) -> None:
    """Raises ValueError where a constraint's metric is missing or not a finite number."""
    for constraint in constraints:
        if not math.isfinite(float(metrics.get(constraint.metric, math.nan))):
            metric_names = ", ".join(sorted(metrics))
            raise ValueError(
                f"the evaluation gave no finite {constraint.metric!r}, which is constrained; it gave {metric_names}"
            )


def _sign(constraint: Constraint) -> float:
    return 1.0 if constraint.mode == "min" else -1.0
