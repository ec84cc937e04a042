"""The arms that break a constraint of the search, by how much, and whether that is more than noise.

A constraint is a wish about the arm, and a trial's score is one noisy look at it. So an arm breaks or keeps a
constraint for sure only where the 95 % interval of its distance to the limit, over items and seeds, excludes 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from raycodellm import search
from raycodellm.config import Constraint, SweepFile
from raycodellm.statistics import ERROR, ArmMeasurements, Interval, SeedNoise, difference
from raycodellm.tables import formats
from raycodellm.tables.trials import Row
from raycodellm.verdict.arms import reference_arm
from raycodellm.verdict.comparison import MOST_ARMS_OF_NOISE
from raycodellm.verdict.measurements import ItemsOf, measured_arms, rows_by_arm, scored_arms, searched_arms

Certainty = Literal["sure", "within the noise", "noise unknown"]


@dataclass(frozen=True)
class Breach:
    """One arm and one constraint."""

    arm: int
    constraint: Constraint
    value: float
    """The arm's mean score in the constraint's metric."""
    limit: float
    """The value that the metric may have at most, or at least where more is better."""
    breach: Interval
    """How far the arm is beyond the limit, in the metric's unit, with its 95 % interval; the ends are NaN while the
    noise between seeds is unknown. A limit that the reference sets moves with the reference's noise."""

    is_of_reference: bool = False
    """True for the reference under a limit relative to itself: it keeps that by definition, without any noise."""

    @property
    def is_broken(self) -> bool:
        return self.breach.value > 0

    @property
    def certainty(self) -> Certainty:
        if math.isnan(self.breach.low) or math.isnan(self.breach.high):
            return "noise unknown"
        return "within the noise" if self.breach.low <= 0 <= self.breach.high else "sure"


def breaches(
    file: SweepFile, rows: Sequence[Row], items: ItemsOf, counted: Mapping[int, Collection[int]] | None = None
) -> tuple[Breach, ...]:
    """Each arm with each constraint of the sweep, as far as is known.

    `counted`: maps each arm that counts by its fresh seeds to these; such an arm is compared with the reference's fresh
    seeds, and any other arm with the reference's trials of the search.
    """
    constraints = file.example().search.constraints
    if not constraints:
        return ()
    reference = reference_arm(file, rows)
    groups = [searched_arms(rows)]
    if counted:
        fresh = rows_by_arm(rows, "confirm")
        groups.append(
            {arm: [row for row in fresh.get(arm, ()) if row["seed"] in seeds] for arm, seeds in counted.items()}
        )
    breach_of: dict[tuple[int, int], Breach] = {}
    for group in groups:
        for place, constraint in enumerate(constraints):
            measured_by_arm, noise = measured_arms(constraint.metric, scored_arms(group, constraint.metric), items)
            reference_measurements = measured_by_arm.get(reference) if reference is not None else None
            pool = [arm for arm in measured_by_arm.values() if len(arm.scores) > 1][:MOST_ARMS_OF_NOISE]
            for arm, measured in measured_by_arm.items():
                breach = _breach(arm, constraint, measured, reference_measurements, noise, pool)
                if breach is not None:
                    breach_of[arm, place] = breach
    return tuple(breach_of[key] for key in sorted(breach_of))


def _breach(
    arm: int,
    constraint: Constraint,
    measured: ArmMeasurements,
    reference: ArmMeasurements | None,
    noise: SeedNoise,
    pool: Sequence[ArmMeasurements],
) -> Breach | None:
    """The arm's distance to the constraint's limit; None where the reference sets the limit and has no score. `pool`:
    arms that tell the noise between seeds of a difference."""
    limit = search.limit(constraint, reference.score if reference is not None else None)
    if limit is None:
        return None
    if constraint.bound is None and reference is not None:  # the limit moves with the reference, the distance with it
        gap = (
            Interval(0.0, 0.0, 0.0) if measured is reference else difference(measured, reference, pool).interval(ERROR)
        )
        beyond = Interval(*(end + reference.score - limit for end in gap))
    else:
        interval = measured.interval(noise) if noise.single.degrees else Interval(measured.score, math.nan, math.nan)
        beyond = Interval(*(end - limit for end in interval))
    if constraint.mode == "max":
        beyond = Interval(-beyond.value, -beyond.high, -beyond.low)
    is_of_reference = constraint.bound is None and measured is reference
    return Breach(arm, constraint, measured.score, limit, beyond, is_of_reference)


def broken_by(all_breaches: Sequence[Breach]) -> dict[int, float]:
    """Maps each arm to how far it breaks constraints: the sum of its breaches, each as a share of its limit; 0 for an
    arm that keeps all of them."""
    shares: dict[int, float] = {}
    for breach in all_breaches:
        share = max(0.0, breach.breach.value) / (abs(breach.limit) or 1.0)
        shares[breach.arm] = shares.get(breach.arm, 0.0) + share
    return shares


def breach_text(breach: Breach) -> str:
    """`1.234, over 1.210 by 0.024 (95 %: +0.010 to +0.040)`; says so where other seeds may keep the constraint."""
    side = "over" if breach.constraint.mode == "min" else "under"
    text = f"{breach.value:.3f}, {side} {breach.limit:.3f} by {breach.breach.value:.3f}"
    if breach.certainty == "noise unknown":
        return f"{text}; the noise between seeds is unknown, so another seed may keep it"
    ends = f"95 %: {formats.signed_interval(breach.breach.low, breach.breach.high)}"
    return f"{text} ({ends}{'' if breach.certainty == 'sure' else '; within the noise, so other seeds may keep it'})"
