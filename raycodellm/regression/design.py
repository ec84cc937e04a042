"""Swarm designs: which points to run before anything is known, for a form to be fitted to them afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np

from raycodellm.config import SweepFile, UserError
from raycodellm.regression.encoding import Encoding
from raycodellm.regression.forms import Array
from raycodellm.regression.space_points import RandomAsker, in_round_numbers, random_points
from raycodellm.search.space import sample

KINDS = ("d-optimal", "dirichlet")
_CANDIDATES = 800
_ROUNDS = 20
_RIDGE = 1e-3
"""Prior precision of each coefficient but the mean, so that designs of fewer points than coefficients are compared too
(DuMouchel and Jones 1994, A Simple Bayesian Modification of D-Optimal Designs)."""
_TRIES = 20_000
"""Draws of a mixture until one lies within the bounds."""


def design(file: SweepFile, kind: str, num_points: int, concentration: float, seed: int) -> list[dict[str, Any]]:
    """`num_points` whole points of the space.

    `d-optimal`: the points whose quadratic form has the least volume of its coefficients' confidence region, by
    exchange among 800 random points with many at the ends of the ranges. `dirichlet`: each mixture from a symmetric
    Dirichlet distribution of this `concentration`, kept where it lies within the bounds; all else uniform.
    """
    rng = np.random.default_rng(seed)
    if kind == "dirichlet":
        return [_dirichlet(file, concentration, rng) for _ in range(num_points)]
    candidates = [in_round_numbers(file, point) for point in random_points(file, max(_CANDIDATES, 2 * num_points), rng)]
    encoding = Encoding.of(file, candidates)
    features = _quadratic(encoding.matrix(candidates))
    return [candidates[place] for place in _exchange(features, num_points, rng)]


def _dirichlet(file: SweepFile, concentration: float, rng: np.random.Generator) -> dict[str, Any]:
    point = sample(file, RandomAsker(rng, at_an_end=0.0))
    for simplex in dict.fromkeys(domain.simplex for domain in file.domains.values() if domain.simplex):
        if not all(name in point for name in simplex.names):
            continue
        drawn = rng.dirichlet(np.full(len(simplex.names), concentration), _TRIES)
        domains = [file.domains[name] for name in simplex.names]
        inside = np.all(
            [(domain.low <= drawn[:, k]) & (drawn[:, k] <= domain.high) for k, domain in enumerate(domains)], axis=0
        )
        if not inside.any():
            raise UserError(
                f"--concentration {concentration:g}: none of {_TRIES:,} mixtures lies within the bounds of "
                f"{simplex.name}; give another concentration, wider bounds, or --kind d-optimal"
            )
        weights = drawn[int(np.argmax(inside))]
        point |= dict(zip(simplex.names, map(float, weights), strict=True))
    return in_round_numbers(file, point)


def _quadratic(x: Array) -> Array:
    """Ones, the columns, their products: each centred and of deviation 1, but the ones."""
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    scaled = StandardScaler().fit_transform(PolynomialFeatures(2, include_bias=False).fit_transform(x))
    features: Array = np.hstack([np.ones((len(x), 1)), scaled])
    return features


def _exchange(features: Array, num_points: int, rng: np.random.Generator) -> list[int]:
    """Rows of greatest det(F'F + ridge), by exchange (Fedorov 1972): each chosen row gives way to the one that gains
    most, until none gains."""
    prior = np.diag([1e-9, *[_RIDGE] * (features.shape[1] - 1)])
    chosen = list(map(int, rng.choice(len(features), num_points, replace=False)))
    for _ in range(_ROUNDS):
        has_changed = False
        for place in range(num_points):
            rest = [row for number, row in enumerate(chosen) if number != place]
            inverse = np.linalg.inv(features[rest].T @ features[rest] + prior)
            gain = np.einsum("ij,jk,ik->i", features, inverse, features)  # the determinant grows by 1 + this
            gain[rest] = -np.inf
            best = int(np.argmax(gain))
            if gain[best] > gain[chosen[place]] * (1 + 1e-9):
                chosen[place], has_changed = best, True
        if not has_changed:
            break
    return chosen


def information(file: SweepFile, points: list[dict[str, Any]], seed: int = 0) -> float:
    """log det(F'F + ridge) of the quadratic form at `points`, on the scale of 800 random points: the more, the less is
    left unknown of the coefficients."""
    others = random_points(file, _CANDIDATES, np.random.default_rng(seed))
    encoding = Encoding.of(file, others)
    features = _quadratic(encoding.matrix([*others, *points]))[len(others) :]
    prior = np.diag([1e-9, *[_RIDGE] * (features.shape[1] - 1)])
    return float(np.linalg.slogdet(features.T @ features + prior)[1])
