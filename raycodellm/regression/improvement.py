"""How much better the predicted best is, corrected for having been chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raycodellm.regression.crossval import CrossValidated
from raycodellm.regression.forms import Array

DRAWS = 200
"""Bootstrap refits."""


@dataclass(frozen=True)
class Improvement:
    """The predicted best against the arm that one would stay with. Lower scores are better."""

    place: int
    """Row of the candidates that is predicted best."""
    value: float
    """Its expected score less that of the arm to stay with, corrected; below 0 is better."""
    low: float
    high: float
    """Ends of the interval of `value`."""
    curse: float
    """Mean part of the chosen one's score that comes from choosing the least of many predictions; about 0 or less."""
    draws: tuple[int, ...]
    """The candidates that the refits predict as the best, in the order of the draws."""

    @property
    def is_told_apart(self) -> bool:
        """True if the interval lies on the better side of 0."""
        return self.high < 0


def improvement(
    found: CrossValidated, x: Array, candidates: Array, stay: int | None, level: float = 0.9, seed: int = 0
) -> Improvement:
    """The candidate of least predicted score, against the arm in row `stay` of `x`, or the best measured one (None).

    A residual bootstrap over arms (Efron and Tibshirani 1993, chapter 9): in each draw the scores are the fit's values
    plus residuals of held-out arms, drawn with replacement; the form is fitted again, the best candidate and the best
    measured arm are chosen again, and what the draw claims is compared with what is true in it, the first fit. These
    errors contain the winner's curse: their mean is taken off, and their quantiles give the interval. It covers noise
    and lack of fit as far as held-out arms show it, not what lies beyond all arms.
    """
    rng = np.random.default_rng(seed)
    at_arms, at_candidates = found.fitted.predict(x), found.fitted.predict(candidates)
    place = int(np.argmin(at_candidates))
    base = int(np.argmin(found.y)) if stay is None else stay
    claimed = at_candidates[place] - at_arms[base]
    residuals = found.residuals - np.mean(found.residuals)
    errors, chosen = np.empty((DRAWS, 2)), []
    for draw in range(DRAWS):
        scores = at_arms + rng.choice(residuals, len(residuals))
        fit = found.fitted.again(scores)
        values = fit.predict(candidates)
        best = int(np.argmin(values))
        arm = int(np.argmin(scores)) if stay is None else stay
        claim = values[best] - fit.predict(x[arm : arm + 1])[0]
        errors[draw] = claim - (at_candidates[best] - at_arms[arm]), values[best] - at_candidates[best]
        chosen.append(best)
    tail = (1 - level) / 2
    return Improvement(
        place=place,
        value=float(claimed - np.mean(errors[:, 0])),
        low=float(claimed - np.quantile(errors[:, 0], 1 - tail)),
        high=float(claimed - np.quantile(errors[:, 0], tail)),
        curse=float(np.mean(errors[:, 1])),
        draws=tuple(chosen),
    )
