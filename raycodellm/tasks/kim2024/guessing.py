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
    counts, total = Counter(mentioned), len(mentioned)
    numbers = [counts[thing] for thing in gold]
    # In whole numbers: sums of floats differ in the last bit between versions of Python, and with the order.
    ways = sum(_ways(numbers, draws) * total ** (MOST_DRAWS - draws) for draws in range(MOST_DRAWS + 1))
    return ways / ((MOST_DRAWS + 1) * total**MOST_DRAWS)


def _ways(counts: Sequence[int], num_draws: int) -> int:
    """Number of ways in which `num_draws` draws give each of the things that are mentioned so often, and no other: by
    inclusion and exclusion over the things that are left out."""
    return sum(
        (-1) ** (len(counts) - size) * sum(kept) ** num_draws
        for size in range(len(counts) + 1)
        for kept in itertools.combinations(counts, size)
    )
