"""Suggestions from a sweep's arms: the form that fits, the predicted best, and points for `search.enqueue`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raycodellm.config import SweepFile
from raycodellm.config.enqueued import enqueued_points
from raycodellm.regression.conformal import conformal_interval
from raycodellm.regression.crossval import CrossValidated, choose_form
from raycodellm.regression.document import SuggestedPoint
from raycodellm.regression.encoding import Encoding, Point
from raycodellm.regression.forms import Array, Constant
from raycodellm.regression.improvement import Improvement, improvement
from raycodellm.regression.space_points import between, in_round_numbers, random_points

LEVEL = 0.9
"""Level of all intervals."""
_FEWEST_ARMS = 10
"""A 90 % conformal interval needs nine residuals."""
_ARMS_PER_PARAMETER = 2
_DRAWN, _NEAR_BEST, _ROUNDS = 600, 300, 3
"""Candidates drawn from the whole space, and between the best of them and the others, round by round."""
_BEST = 20
_APART = 0.02
"""Least difference in one column between two suggested points."""


@dataclass(frozen=True)
class Suggestion:
    """The fit and its predictions. Scores are in the metric's unit and direction, differences too."""

    forms: tuple[tuple[str, float], ...]
    """Every form with its cross-validated error (root mean square), the chosen one first."""
    num_arms: int
    stay_arm: int
    """Place among the arms of the one to stay with: the reference, or the best measured one."""
    best: SuggestedPoint | None
    """The predicted best, its score corrected for the choice; None where no form beats the mean of all arms."""
    difference: tuple[float, float, float] | None
    """(value, low, high): the predicted best's score less that of the arm to stay with, corrected."""
    moves: bool
    """True if the interval of the difference lies on the better side of 0; else: stay where you are."""
    is_far: bool
    """True if the predicted best is farther from every arm than any arm from its nearest neighbour."""
    points: tuple[SuggestedPoint, ...]
    """Points to try next, the predicted best first."""


def arms_needed(encoding: Encoding) -> int:
    """Arms from which on a form is fitted."""
    return max(_FEWEST_ARMS, _ARMS_PER_PARAMETER * encoding.num_free)


def suggestion(
    file: SweepFile, arms: Sequence[Point], scores: Sequence[float], mode: str, reference: int | None, num_points: int
) -> Suggestion:
    """Fits the scores of `arms`, one per arm, and predicts the best of the file's space.

    `reference`: place of the reference among the arms, None without one. `mode`: min or max. Deterministic.
    """
    sign = 1.0 if mode == "min" else -1.0
    y, encoding = sign * np.array(scores), Encoding.of(file, arms)
    x = encoding.matrix(arms)
    stay = int(np.argmin(y)) if reference is None else reference
    forms = choose_form(x, y, encoding.is_amount) if encoding.columns else []
    names = tuple((one.name, one.error) for one in forms)
    if not forms or forms[0].name == Constant.name:
        return Suggestion(names, len(arms), stay, None, None, False, False, ())
    chosen = forms[0]
    candidates = _candidates(file, encoding, chosen, arms)
    at = encoding.matrix(candidates)
    found = improvement(chosen, x, at, reference, LEVEL)
    points = _points(file, encoding, arms, candidates, found, num_points)
    predicted = [
        _predicted(chosen, encoding.matrix([point]), point, sign, found.curse if place == 0 else 0.0)
        for place, point in enumerate(points)
    ]
    best = _predicted(chosen, at[[found.place]], candidates[found.place], sign, found.curse)
    low, high = sorted((sign * found.low, sign * found.high))
    return Suggestion(
        forms=names,
        num_arms=len(arms),
        stay_arm=stay,
        best=best,
        difference=(sign * found.value, low, high),
        moves=found.is_told_apart,
        is_far=_is_far(x, at[found.place]),
        points=tuple(predicted),
    )


def _candidates(file: SweepFile, encoding: Encoding, chosen: CrossValidated, arms: Sequence[Point]) -> list[Point]:
    """The arms, points of the whole space, and points between the best of them and others; in round numbers."""
    rng = np.random.default_rng(0)
    found = [*map(dict, arms), *(in_round_numbers(file, one) for one in random_points(file, _DRAWN, rng))]
    for _ in range(_ROUNDS):
        order = np.argsort(chosen.fitted.predict(encoding.matrix(found)), kind="stable")[:_BEST]
        made = [
            between(file, found[int(rng.choice(order))], found[int(rng.integers(len(found)))], float(rng.random()) / 2)
            for _ in range(_NEAR_BEST)
        ]
        found += [in_round_numbers(file, one) for one in made if one is not None]
    return list(found)


def _points(
    file: SweepFile,
    encoding: Encoding,
    arms: Sequence[Point],
    candidates: Sequence[Point],
    found: Improvement,
    num_points: int,
) -> list[Point]:
    """The predicted best, then bests of the bootstrap's refits in their order (Thompson's sampling); no point that was
    measured, or that is like another. In the form that the search gives them."""
    taken = [encoding.matrix([one])[0] for one in arms]
    chosen: list[Point] = []
    for place in (found.place, *found.draws):
        row = encoding.matrix([candidates[place]])[0]
        if len(chosen) < num_points and all(np.max(np.abs(row - other)) >= _APART for other in taken):
            taken.append(row)
            chosen.append(candidates[place])
    return list(enqueued_points(file.tree, file.parameters, chosen, file.origin))


def _predicted(chosen: CrossValidated, row: Array, point: Mapping, sign: float, curse: float) -> SuggestedPoint:
    value = float(chosen.fitted.predict(row)[0]) - curse
    low, high = (float(end[0]) - curse for end in conformal_interval(chosen, row, LEVEL))
    ends = sorted((sign * low, sign * high))
    return SuggestedPoint(dict(point), sign * value, *ends)


def _is_far(x: Array, row: Array) -> bool:
    gaps = np.linalg.norm(x[:, None, :] - x[None, :, :], axis=2)
    np.fill_diagonal(gaps, np.inf)
    return bool(np.min(np.linalg.norm(x - row, axis=1)) > np.max(np.min(gaps, axis=1)))
