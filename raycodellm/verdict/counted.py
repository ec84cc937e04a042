"""The trials that an arm's score is the mean over, and the order of the arms."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from raycodellm.config import Objective
from raycodellm.records import ENDED
from raycodellm.tables.trials import Row
from raycodellm.verdict.measurements import rows_by_arm, scored_arms, searched_arms

_FEWEST_SEEDS = 2
"""Fresh seeds of each arm at the first look."""


def counted_rows(
    rows: Sequence[Row], metric: str, counted: Mapping[int, Collection[int]] | None = None
) -> tuple[dict[int, list[Row]], frozenset[int]]:
    """Maps each arm that has a score to the complete rows that the score is the mean over; and the confirmed arms.

    An arm that was stopped early has no score. Confirmed arms count by their fresh seeds alone, from the time that all
    of them have the seeds of the first look. The other arms count by the search's trials. `counted`: maps each arm that
    counts by its fresh seeds to those of its last complete look, where the looks are known.
    """
    searched = scored_arms(searched_arms(rows), metric)
    fresh = rows_by_arm(rows, "confirm")
    if counted is not None:
        fresh = {arm: [row for row in fresh.get(arm, ()) if row["seed"] in seeds] for arm, seeds in counted.items()}
    elif any(sum(row["state"] in ENDED for row in arm_rows) < _FEWEST_SEEDS for arm_rows in fresh.values()):
        return searched, frozenset()
    confirmed = scored_arms(fresh, metric)
    if len(confirmed) < 2:  # a lone arm that stands before all others would seem better than they are
        return searched, frozenset()
    return {**searched, **confirmed}, frozenset(confirmed)


def ranked_arms(
    scores: Mapping[int, float],
    confirmed: Collection[int],
    objective: Objective,
    broken: Mapping[int, float] | None = None,
) -> list[int]:
    """The arms from the best to the worst, the confirmed ones first: a score of the search may look too good.

    `broken`: maps arms to how far they break constraints. Those that break one stand behind those that keep all, the
    least broken first (Deb 2000), as Optuna's samplers order them.
    """
    sign, broken = 1.0 if objective.mode == "min" else -1.0, broken or {}
    return sorted(scores, key=lambda arm: (arm not in confirmed, broken.get(arm, 0.0), sign * scores[arm], arm))
