"""Advice that would settle a sweep in which no arm has a second seed, so that the noise between seeds is unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raycodellm.config import SweepFile
from raycodellm.statistics import ERROR, Difference, Variance, difference, items_to_tell, power
from raycodellm.tables.trials import Row
from raycodellm.verdict.arms import mean_score, reference_arm
from raycodellm.verdict.counted import counted_rows, ranked_arms
from raycodellm.verdict.measurements import ItemsOf, measurements

SEEDS = 3
"""Seeds per arm that are proposed: the fewest of which a standard deviation says something."""
_WANTED_POWER = 0.8
"""Probability of telling the difference that was seen."""


def settled_by(file: SweepFile, rows: Sequence[Row], items: ItemsOf) -> str:
    """Two sentences: how to know the noise between seeds, and for which noise that would tell the difference seen.

    The difference is that of the best arm to the reference arm, or else of the two arms that are first in rank.
    """
    objective = file.example().search.objectives[0]
    advice = f"search.replicates: {SEEDS} trains each arm with three seeds, which tell how much a seed moves a score."
    complete_rows, _ = counted_rows(rows, objective.metric)
    order = ranked_arms(
        {arm: mean_score(scored_rows, objective.metric) or 0.0 for arm, scored_rows in complete_rows.items()},
        (),
        objective,
    )
    reference = reference_arm(file, rows)
    base = reference if reference in complete_rows else next(iter(order[1:]), None)
    arm = next((candidate for candidate in order if candidate != base), None)
    if arm is None or base is None:
        return advice
    mine, other = (measurements(objective.metric, complete_rows[compared_arm], items) for compared_arm in (arm, base))
    return f"{advice} {_noise_advice(difference(mine, other), arm, base, len(order))}"


def _noise_advice(gap: Difference, arm: int, base: int, num_arms: int) -> str:
    between = f"between arm {arm} and arm {base}, {gap.value:+.3f},"
    alpha = ERROR / max(1, num_arms - 1)
    deviation = _most_noise(gap, num_arms, alpha)
    if deviation > 0:
        return (
            f"They would tell the difference {between} if it varies from seed to seed by a standard deviation of less "
            f"than {deviation:.2g}."
        )
    items = items_to_tell(gap, alpha, _WANTED_POWER)
    more = f"; it takes {items:,} items at least" if items is not None else ""
    return f"They would not tell the difference {between} over so few items{more}."


def _most_noise(gap: Difference, num_arms: int, alpha: float) -> float:
    """The largest standard deviation of the difference from seed to seed at which it would be told; 0 for none."""

    def is_told(deviation: float) -> bool:
        seeds = Variance(deviation**2 / SEEDS, (SEEDS - 1) * (num_arms - 1))
        return power(Difference(gap.value, seeds, gap.items, num_seeds=SEEDS), alpha) >= _WANTED_POWER

    low, high = 0.0, abs(gap.value) * math.sqrt(SEEDS)
    if not high or not is_told(high * 1e-6):
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if is_told(middle) else (low, middle)
    return low
