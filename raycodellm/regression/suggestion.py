"""Suggestions from a sweep's arms: the forms that fit, the predicted best, and points for `search.enqueue`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from raycodellm.config import SweepFile
from raycodellm.config.enqueued import enqueued_points
from raycodellm.regression.crossval import choose_form
from raycodellm.regression.document import Optimum, SuggestedPoint
from raycodellm.regression.encoding import Encoding, Point
from raycodellm.regression.forms import Array
from raycodellm.regression.posterior import Posterior, SeedSpread
from raycodellm.regression.space_points import between, in_round_numbers, random_points

LEVEL = 0.9
"""Level of all intervals."""
HELD = (
    "on made surfaces that nothing was fitted to, the 90 % intervals of a difference held in 92 % of 600 sweeps, those "
    "of a score in 86 %"
)
"""How often the intervals hold (`benchmarks/search/suggestions.py --newest`, 300 sweeps of 16 and of 32 arms each)."""
_FEWEST_ARMS = 10
"""The fewest for which the intervals were measured to cover."""
_ARMS_PER_PARAMETER = 2
_DRAWN, _NEAR_BEST, _ROUNDS = 600, 300, 3
"""Candidates drawn from the whole space, and between the best of them and the others, round by round."""
_BEST = 20
_DRAWS = 40
"""Draws of the surface for further points."""
_DRAWN_AT = 300
"""Candidates, the best of them, that the surface is drawn at."""
ALL_FORMS = "all forms, by their likelihood"
"""Name of the posterior among the forms."""
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
    """The predicted best; None where the arms differ in no searched parameter."""
    difference: tuple[float, float, float] | None
    """(value, low, high): the predicted best's score less that of the arm to stay with."""
    moves: bool
    """True if the interval of the difference lies on the better side of 0; else: stay where you are."""
    is_far: bool
    """True if the predicted best is farther from every arm than any arm from its nearest neighbour."""
    points: tuple[SuggestedPoint, ...]
    """Points to try next, the predicted best first."""
    optimum: Optimum | None = None
    """The best measured arm, by its place among the arms, beside the predicted best; None as `best` is."""


def arms_needed(encoding: Encoding) -> int:
    """Arms from which on a form is fitted."""
    return max(_FEWEST_ARMS, _ARMS_PER_PARAMETER * encoding.num_free)


def suggestion(
    file: SweepFile,
    arms: Sequence[Point],
    scores: Sequence[float],
    mode: str,
    reference: int | None,
    num_points: int,
    num_seeds: Sequence[int] | None = None,
    spread: SeedSpread | None = None,
    compares_forms: bool = True,
) -> Suggestion:
    """Fits the scores of `arms`, one per arm, and predicts the best of the file's space.

    `reference`: place of the reference among the arms, None without one. `mode`: min or max. `num_seeds`: seeds that
    each score is the mean over, one where left out; `spread`: what these tell of the noise. `compares_forms`: False
    leaves out the forms' held-out errors, which take most of the time and change nothing else. Deterministic.
    """
    sign = 1.0 if mode == "min" else -1.0
    y, encoding = sign * np.array(scores), Encoding.of(file, arms)
    x = encoding.matrix(arms)
    stay = int(np.argmin(y)) if reference is None else reference
    if not encoding.columns:
        return Suggestion((), len(arms), stay, None, None, False, False, ())
    forms = [(form.name, form.error) for form in choose_form(x, y, encoding.is_amount)] if compares_forms else []
    seeds = None if num_seeds is None else np.array(num_seeds, dtype=float)
    posterior = Posterior.of(x, y, encoding.is_amount, seeds, spread)
    ranked_forms = tuple(sorted([*forms, (ALL_FORMS, posterior.error)], key=lambda name_and_error: name_and_error[1]))
    candidates = _candidates(file, encoding, posterior, arms)
    rows = encoding.matrix(candidates)
    expected = posterior.mean(rows)
    place = int(np.argmin(expected))
    difference = posterior.band(np.vstack([rows[place], x[stay]]), np.array([[1.0, -1.0]]), LEVEL)
    order = [place, *_bests_of_draws(posterior, rows, expected)]
    best = _predicted_point(posterior, rows[[place]], candidates[place], sign)
    points = _points(file, encoding, arms, [candidates[row] for row in order], num_points)
    low, high = sorted((sign * float(difference.low[0]), sign * float(difference.high[0])))
    return Suggestion(
        forms=ranked_forms,
        num_arms=len(arms),
        stay_arm=stay,
        best=best,
        difference=(sign * float(difference.value[0]), low, high),
        moves=bool(difference.high[0] < 0),
        is_far=_is_far(x, rows[place]),
        points=tuple(_predicted_point(posterior, encoding.matrix([point]), point, sign) for point in points),
        optimum=_optimum(encoding, arms, _Scores(y, seeds, spread, sign), best),
    )


def _candidates(file: SweepFile, encoding: Encoding, posterior: Posterior, arms: Sequence[Point]) -> list[Point]:
    """The arms, points of the whole space, and points between the best of them and others; in round numbers."""
    rng = np.random.default_rng(0)
    points = [*map(dict, arms), *(in_round_numbers(file, point) for point in random_points(file, _DRAWN, rng))]
    for _ in range(_ROUNDS):
        order = np.argsort(posterior.mean(encoding.matrix(points)), kind="stable")[:_BEST]
        mixed = [
            between(
                file, points[int(rng.choice(order))], points[int(rng.integers(len(points)))], float(rng.random()) / 2
            )
            for _ in range(_NEAR_BEST)
        ]
        points += [in_round_numbers(file, point) for point in mixed if point is not None]
    return list(points)


def _bests_of_draws(posterior: Posterior, at: Array, expected: Array) -> list[int]:
    """The candidates that are best in draws of the surface (Thompson's sampling), in the order of the draws."""
    best_rows = np.argsort(expected, kind="stable")[:_DRAWN_AT]
    drawn = posterior.draws(at[best_rows], np.eye(len(best_rows)), _DRAWS, np.random.default_rng(0))
    return [int(best_rows[row]) for row in np.argmin(drawn, axis=1)]


def _points(
    file: SweepFile, encoding: Encoding, arms: Sequence[Point], candidates: Sequence[Point], num_points: int
) -> list[Point]:
    """The first candidates, without points that were measured, or that are like another. In the form that the search
    gives them."""
    taken = [encoding.matrix([arm])[0] for arm in arms]
    chosen: list[Point] = []
    for candidate in candidates:
        row = encoding.matrix([candidate])[0]
        if len(chosen) < num_points and all(np.max(np.abs(row - other)) >= _APART for other in taken):
            taken.append(row)
            chosen.append(candidate)
    return list(enqueued_points(file.tree, file.parameters, chosen, file.origin))


def _predicted_point(posterior: Posterior, row: Array, point: Mapping, sign: float) -> SuggestedPoint:
    """The point's expected score, with the interval for its score with one seed."""
    band = posterior.band(row, level=LEVEL, noise_of=1)
    low, high = sorted((sign * float(band.low[0]), sign * float(band.high[0])))
    return SuggestedPoint(dict(point), sign * float(band.value[0]), low, high)


class _Scores(NamedTuple):
    """The arms' scores, less being better; `sign` times these are in the metric's direction."""

    y: Array
    seeds: Array | None
    spread: SeedSpread | None
    sign: float


def _optimum(encoding: Encoding, arms: Sequence[Point], scores: _Scores, predicted: SuggestedPoint) -> Optimum:
    """The best measured arm with what the other arms say of it, beside the predicted best."""
    x, y, sign = encoding.matrix(arms), scores.y, scores.sign
    place = int(np.argmin(y))
    rest = np.arange(len(y)) != place
    num_seeds = 1 if scores.seeds is None else int(scores.seeds[place])
    others = Posterior.of(
        x[rest], y[rest], encoding.is_amount, None if scores.seeds is None else scores.seeds[rest], scores.spread
    )
    band = others.band(x[[place]], level=LEVEL, noise_of=num_seeds)
    low, high = sorted((sign * float(band.low[0]), sign * float(band.high[0])))
    distances = np.max(np.abs(x - encoding.matrix([predicted.params])[0]), axis=1)
    measured = next((sign * float(y[row]) for row in np.flatnonzero(distances < 1e-9)), None)
    value = sign * float(band.value[0])
    return Optimum(predicted, measured, place, dict(arms[place]), sign * float(y[place]), num_seeds, value, low, high)


def _is_far(x: Array, row: Array) -> bool:
    gaps = np.linalg.norm(x[:, None, :] - x[None, :, :], axis=2)
    np.fill_diagonal(gaps, np.inf)
    return bool(np.min(np.linalg.norm(x - row, axis=1)) > np.max(np.min(gaps, axis=1)))
