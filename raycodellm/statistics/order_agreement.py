"""The share of pairs of arms that two sizes put into the same order, with its interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycodellm.statistics.arms import ArmMeasurements
from raycodellm.statistics.corrections import ERROR
from raycodellm.statistics.intervals import Interval
from raycodellm.statistics.seeds import seed_noise

MOST_ARMS = 60
"""Arms beyond which no pair is tested: their pairs would take minutes."""
Arms = Mapping[Any, ArmMeasurements]
"""Maps each arm to its measurements in one metric at one size."""


@dataclass(frozen=True)
class OrderAgreement:
    """How often two sizes put two arms into the same order; with the larger size as the target, the decision accuracy
    of Magnusson et al. 2025 (DataDecide, section 2)."""

    num_pairs: int
    alike: int
    """Pairs whose mean scores are in the same order at both sizes."""
    known_alike: int
    """Pairs whose order is known at both sizes, and the same."""
    known_different: int
    """Pairs whose order is known at both sizes, and not the same."""

    @property
    def share(self) -> Interval:
        """The share of pairs in the same order. It can be no less than the pairs known to be, and no more than all but
        those known not to be: with 95 % probability all of these are told rightly."""
        n = self.num_pairs
        return Interval(self.alike / n, self.known_alike / n, 1 - self.known_different / n)


def order_agreement(one: Arms, other: Arms) -> OrderAgreement | None:
    """The agreement over the arms that both sizes have; None for fewer than two.

    An order is known where the interval of the difference excludes 0. The intervals hold for all pairs of arms at once
    (Tukey's range), and at each size at 97.5 %, so that they hold at both.
    """
    arms = [arm for arm in one if arm in other]
    pairs = list(itertools.combinations(arms, 2))
    if not pairs:
        return None
    signs = [_signs({arm: found[arm] for arm in arms}) for found in (one, other)]
    both = [(signs[0][pair], signs[1][pair]) for pair in pairs]
    return OrderAgreement(
        num_pairs=len(pairs),
        alike=sum(a.seen == b.seen for a, b in both),
        known_alike=sum(a.known == b.known != 0 for a, b in both),
        known_different=sum(a.known * b.known < 0 for a, b in both),
    )


@dataclass(frozen=True)
class _Order:
    seen: float
    """Sign of the difference."""
    known: float
    """The same, and 0 where the interval includes 0 or is not known."""


def _signs(arms: Arms) -> dict[tuple[Any, Any], _Order]:
    """Maps each pair of arms to the sign of their difference."""
    noise = seed_noise({arm: found.scores for arm, found in arms.items()})
    found = {}
    for one, other in itertools.combinations(arms, 2):
        value, low, high = arms[one].score - arms[other].score, math.nan, math.nan
        if len(arms) <= MOST_ARMS:
            _, low, high = arms[one].minus(arms[other], noise, len(arms), level=1 - ERROR / 2)
        known = 1.0 if low > 0 else -1.0 if high < 0 else 0.0
        found[one, other] = _Order(math.copysign(1.0, value) if value else 0.0, known)
    return found
