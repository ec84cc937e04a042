"""Constraints of the search: how far a trial's metrics are beyond what the sweep file allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from raycodellm.config import Constraint

REFERENCE_TRIAL = 0
"""Number of the trial that a reference's metrics are taken from: its first, before all other arms."""


def limit(one: Constraint, reference: float | None) -> float | None:
    """The value that the metric may have at most, or at least where more is better. None where it depends on the
    reference's value and that is not known."""
    if one.bound is not None:
        return one.bound
    if reference is None or one.within is None:
        return None
    return reference + _sign(one) * one.within * abs(reference)


def breach(one: Constraint, value: float, reference: float | None) -> float | None:
    """How far `value` is beyond the limit, in the metric's unit: over 0 where it breaks the constraint."""
    found = limit(one, reference)
    return None if found is None else _sign(one) * (value - found)


def breaches(
    constraints: Sequence[Constraint], metrics: Mapping[str, float], reference: Mapping[str, float] | None
) -> dict[str, float]:
    """The breach of each constraint in a trial's metrics, by the constraint's name. Left out where it is not known.

    `reference`: metrics of the reference arm, where it has any.
    """
    found = {
        one.name: breach(one, metrics[one.metric], (reference or {}).get(one.metric))
        for one in constraints
        if one.metric in metrics
    }
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def require_metrics(constraints: Sequence[Constraint], metrics: Mapping[str, float]) -> None:
    """Raises ValueError where a constraint's metric is missing or not a finite number."""
    for one in constraints:
        if not math.isfinite(float(metrics.get(one.metric, math.nan))):
            near = ", ".join(sorted(metrics))
            raise ValueError(f"the evaluation gave no finite {one.metric!r}, which is constrained; it gave {near}")


def _sign(one: Constraint) -> float:
    return 1.0 if one.mode == "min" else -1.0
