"""Claims about many arms, tasks and looks at once: Holm's correction, and the error that each look may spend."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Hypothesis = TypeVar("Hypothesis", bound=Hashable)
ERROR = 0.05
"""Probability of any false claim, where nothing that is compared differs."""
SPENDING_SHAPE = 0.0
"""Gamma of Hwang, Shih & DeCani: below 0 early looks spend less than their share of seeds, above 0 more."""


class Corrected(NamedTuple):
    """One of several hypotheses, as the correction for all of them leaves it."""

    p: float
    """Corrected p-value, compared with the whole error `alpha`; at most 1."""
    level: float
    """The error at which this hypothesis alone is tested: show its interval at 1 - `level`. The uncorrected p-value is
    at most `level` exactly if the hypothesis is rejected."""
    rejected: bool
    """True if there is a difference, by this correction."""


def holm(p_values: Mapping[Hypothesis, float], alpha: float = ERROR) -> dict[Hypothesis, Corrected]:
    """Holm's correction (1979): at most `alpha` for any false rejection among all, whatever their dependence.

    The j-th smallest p of m is tested at alpha / (m - j + 1), as long as all before it were rejected. All that are not
    rejected share the level of the step at which the procedure stopped. A p-value of NaN (not known) counts as 1.

    Over several looks: give a hypothesis that an earlier look rejected no more, and one that was accepted as equal with
    p = 1.
    """
    filled = {hypothesis: 1.0 if math.isnan(p) else p for hypothesis, p in p_values.items()}
    order = sorted(filled, key=lambda hypothesis: filled[hypothesis])
    corrected: dict[Hypothesis, Corrected] = {}
    running, level, stopped = 0.0, alpha, False
    for step, hypothesis in enumerate(order):
        num_left = len(order) - step
        running = max(running, min(1.0, filled[hypothesis] * num_left))
        if not stopped:
            level = alpha / num_left
            stopped = filled[hypothesis] > level
        corrected[hypothesis] = Corrected(running, level, not stopped)
    return {hypothesis: corrected[hypothesis] for hypothesis in p_values}


def spent_errors(seeds: Sequence[int], alpha: float = ERROR, shape: float = SPENDING_SHAPE) -> tuple[float, ...]:
    """The error that each look may spend; they sum to `alpha`, so that all looks together claim falsely at most
    `alpha`, whatever the scores' distribution (union bound).

    `seeds`: seeds per arm at each look, strictly increasing. The spending function is that of Hwang, Shih & DeCani
    (1990) at each look's share of seeds; its `shape` 0 spends in proportion to the fresh seeds.

    Raises ValueError where `seeds` are none or do not increase.
    """
    if not seeds or seeds[0] < 1 or any(a >= b for a, b in itertools.pairwise(seeds)):
        raise ValueError(f"looks after {list(seeds)} seeds; give strictly increasing numbers, such as [2, 4, 8]")
    shares = [0.0, *(num_seeds / seeds[-1] for num_seeds in seeds)]
    spent = [alpha * (_spent_by(share, shape)) for share in shares]
    return tuple(later - earlier for earlier, later in itertools.pairwise(spent))


def look_errors(seeds: Sequence[int], num_planned: int | None = None, alpha: float = ERROR) -> tuple[float, ...]:
    """The error that each look may spend, where looks were added after the data of the planned ones had been seen.

    The first `num_planned` looks share `alpha`; the i-th added look spends alpha / 2^i more. So all planned and added
    looks together claim falsely at most the sum, whoever adds them and why, as long as the number of seeds at an added
    look is no choice: else the seeds that suit the data could be chosen. None: all looks were planned.
    """
    num_planned = len(seeds) if num_planned is None else num_planned
    added = [alpha / 2**place for place in range(1, len(seeds) - num_planned + 1)]
    return (*spent_errors(seeds[:num_planned], alpha), *added)


def _spent_by(share: float, shape: float) -> float:
    return share if shape == 0 else math.expm1(-shape * share) / math.expm1(-shape)


def holm_at_look(
    p_values: Mapping[Hypothesis, float],
    seeds: Sequence[int],
    look: int,
    alpha: float = ERROR,
    num_planned: int | None = None,
) -> dict[Hypothesis, Corrected]:
    """Holm's correction at one of several looks, at the error that this look may spend.

    `seeds`: seeds per arm at each look; `look`: index of this one; `num_planned`: as in `look_errors`. The corrected p
    is Holm's times alpha over the look's error, at most 1: it is compared with the whole `alpha`.
    """
    error = look_errors(seeds, num_planned, alpha)[look]
    corrected = holm(p_values, error)
    return {
        hypothesis: correction._replace(p=min(1.0, correction.p * alpha / error))
        for hypothesis, correction in corrected.items()
    }
