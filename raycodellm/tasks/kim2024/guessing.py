"""The random baseline: how often a guess among the things mentioned with a box is right.

Kim et al. (2024) guess zero to three things per box, drawn from those mentioned earlier in a clause with that box. One
reading of this rule gives their figures (15.39 % of the boxes with an operation, 41.06 % of the others): the number of
draws is even over 0 to 3, each draw takes any mention, so that a thing mentioned twice is drawn twice as often, and a
thing drawn twice counts once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence

from raycodellm.tasks.boxes.world import Scenario

MOST_DRAWS = 3


def mentions(scenario: Scenario, box: int, num_told: int) -> list[str]:
    """The things of every clause with the box, up to `num_told` operations; a thing as often as it is mentioned."""
    operations = scenario.operations[:num_told]
    told = [scenario.initial[box], *(done.objects for done in operations if box in (done.source, done.target))]
    return [thing for things in told for thing in sorted(things)]


def chance(mentioned: Sequence[str], gold: Collection[str]) -> float:
    """Probability that the random guess is the set `gold`; 1 for an empty box of which nothing was ever mentioned."""
    if not mentioned:
        return float(not gold)
    counts = Counter(mentioned)
    shares = [counts[thing] / len(mentioned) for thing in sorted(gold)]  # sorted: a sum's last bit depends on the order
    return sum(_all_drawn(shares, num_draws) for num_draws in range(MOST_DRAWS + 1)) / (MOST_DRAWS + 1)


def _all_drawn(shares: Sequence[float], num_draws: int) -> float:
    """Probability that `num_draws` draws give each of the things of these shares, and no other: by inclusion and
    exclusion over the things that are left out."""
    total = 0.0
    for size in range(len(shares) + 1):
        sign = (-1) ** (len(shares) - size)
        total += sign * sum(sum(kept) ** num_draws for kept in itertools.combinations(shares, size))
    return total
