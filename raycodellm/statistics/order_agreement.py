"""The share of pairs of arms that two sizes put into the same order, with its interval."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """The agreement of two sizes on the order of arms; with the larger size as the target, the decision accuracy
    of Magnusson et al. 2025 (DataDecide, section 2)."""

    num_pairs: int
    alike: int
    """Pairs whose mean scores are in the same order at both sizes."""
    known_alike: int
    """Pairs whose order is known at both sizes and is the same."""
    known_different: int
    """Pairs whose order is known at both sizes and differs."""

    @property
    def share(self) -> Interval:
        """The share of pairs in the same order, with its 95 % interval: at least the pairs whose order is known to be
        the same, at most all but the pairs whose order is known to differ."""
        n = self.num_pairs
        return Interval(self.alike / n, self.known_alike / n, 1 - self.known_different / n)


def order_agreement(one: Arms, other: Arms) -> OrderAgreement | None:
    """The agreement over the arms that both sizes have; None for fewer than two.

    An order is known where the interval of the difference excludes 0. The intervals hold for all pairs of arms at once
    (Tukey's range), and at each size at 97.5 %, so that they hold at both.
    """
    arms = [arm for arm in one if arm in other]
    if len(arms) < 2:
        return None
    pairs = np.triu_indices(len(arms), 1)
    signs: list[np.ndarray] = []
    known_signs: list[np.ndarray] = []
    for measured in (one, other):
        at_size = [measured[arm] for arm in arms]
        scores = np.array([arm.score for arm in at_size])
        signs.append(np.sign(scores[:, None] - scores)[pairs])
        known_signs.append(_known_signs(at_size)[pairs])
    return OrderAgreement(
        num_pairs=len(pairs[0]),
        alike=int((signs[0] == signs[1]).sum()),
        known_alike=int((known_signs[0] * known_signs[1] > 0).sum()),
        known_different=int((known_signs[0] * known_signs[1] < 0).sum()),
    )


def _known_signs(arms: Sequence[ArmMeasurements]) -> np.ndarray:
    """Matrix by two arms: the sign of their difference where its interval excludes 0, else 0; the upper triangle."""
    signs = np.zeros((len(arms), len(arms)))
    if len(arms) > MOST_ARMS:
        return signs
    noise = seed_noise({place: arm.scores for place, arm in enumerate(arms)})
    for i, j in itertools.combinations(range(len(arms)), 2):
        _, low, high = arms[i].minus(arms[j], noise, len(arms), level=1 - ERROR / 2)
        signs[i, j] = 1.0 if low > 0 else -1.0 if high < 0 else 0.0
    return signs
