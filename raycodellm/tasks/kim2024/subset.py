"""The test states that are evaluated: as many boxes of each number of operations as the paper's subset has.

Drawn from all moments alike, 39 % of the boxes would have no operation and 1.2 % five or more. Kim et al. (2024)
evaluate 716 states with more of the rare ones; which rule they chose by is not known. Here states are exchanged one by
one until the numbers are the paper's.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from raycodellm.tasks.kim2024.scenarios import SEED, Moment, moments

NUM_STATES = 716
BOXES_BY_NUM_OPERATIONS = (1303, 1410, 1083, 651, 288, 142, 106, 29)
"""Boxes of the paper's 716 states with 0, 1, … 7 operations; 5,012 in all."""
_MOST_EXCHANGES = 20_000


@functools.cache
def evaluated_moments(seed: int = SEED) -> tuple[Moment, ...]:
    """The evaluated moments of the test split, in order; no box of them has more than seven operations. With the
    default seed their boxes' numbers of operations are exactly the paper's; with another seed as near as its scenarios
    allow."""
    most = len(BOXES_BY_NUM_OPERATIONS) - 1
    pool = [moment for moment in moments("test", seed) if max(moment.changes) <= most]
    chosen = nearest_subset(
        np.array([_histogram(moment, most + 1) for moment in pool]),
        np.array(BOXES_BY_NUM_OPERATIONS),
        NUM_STATES,
        [moment.scenario for moment in pool],
        random.Random(f"kim2024/subset/{seed}"),
    )
    return tuple(pool[index] for index in sorted(chosen))


def _histogram(moment: Moment, length: int) -> list[int]:
    counts = Counter(moment.changes)
    return [counts[number] for number in range(length)]


def nearest_subset(
    rows: np.ndarray, target: np.ndarray, size: int, groups: Sequence[int], rng: random.Random
) -> set[int]:
    """Indices of `size` rows whose sum is as near to `target` as exchanging one row at a time brings it.

    `rows`: counts, (number of rows, length of target). The rows come from as many `groups` as a first draw allows.
    """
    group_of = np.asarray(groups)
    chosen = _one_of_each(groups, size, rng)
    in_use = np.zeros(len(rows), dtype=bool)
    in_use[chosen] = True
    uses = np.bincount(group_of[chosen], minlength=group_of.max() + 1)
    total = rows[chosen].sum(axis=0)
    for _ in range(_MOST_EXCHANGES):
        distance = int(np.abs(total - target).sum())
        if not distance:
            break
        place = rng.randrange(size)
        old = chosen[place]
        rest = total - rows[old]
        uses[group_of[old]] -= 1
        costs = 2 * np.abs(rest + rows - target).sum(axis=1) + (uses[group_of] > 0)
        was = costs[old]
        costs[in_use] = was + 1
        nearest = np.flatnonzero(costs == costs.min())
        new = int(nearest[rng.randrange(len(nearest))]) if costs[nearest[0]] <= was else old
        uses[group_of[new]] += 1
        in_use[old], in_use[new] = False, True
        chosen[place], total = new, rest + rows[new]
    return set(chosen)


def _one_of_each(groups: Sequence[int], size: int, rng: random.Random) -> list[int]:
    """`size` indices, the first of each group before the second of any."""
    order = rng.sample(range(len(groups)), len(groups))
    turn: Counter[int] = Counter()
    turns = []
    for index in order:
        turns.append(turn[groups[index]])
        turn[groups[index]] += 1
    return [index for _, index in sorted(zip(turns, order, strict=True), key=lambda pair: pair[0])][:size]
