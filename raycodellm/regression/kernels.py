"""The forms of `posterior.py` as covariances between arms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from raycodellm.regression.forms import Array, with_roots

_LENGTHS = (0.7, 1.4, 2.8, 5.6)
"""Length scales of the Matérn processes, in median distances between arms."""
_CURVE_LENGTHS = (1.4, 5.6)
"""Length scales of one column's curve, in median distances between arms in one column."""
_LACK_OF_FIT = 0.3
"""Variance of what a form lacks, in variances of the form. Without it the intervals are too narrow on surfaces that no
form has: for 32 arms, 90 % intervals of a chosen best covered 78 % there (`benchmarks/search/suggestions.py`)."""

Covariance = Callable[[Array, Array], Array]
"""(rows of a, rows of b) -> covariance of shape (rows of a, rows of b)."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A form, scaled so that the mean variance over the arms, around their mean, is 1."""

    name: str
    covariance: Covariance
    scale: float = 1.0

    def between(self, a: Array, b: Array) -> Array:
        """The covariance of the surface at the rows of `a` with that at the rows of `b`."""
        return self.covariance(a, b) / self.scale

    def scaled(self, x: Array) -> Kernel:
        found = self.covariance(x, x)
        around_mean = float(np.mean(np.diag(found)) - np.mean(found))
        return replace(self, scale=around_mean if around_mean > 1e-12 else 1.0)


def kernels(x: Array, is_amount: Array) -> list[Kernel]:
    """The forms for arms in the rows of `x`: linear in (√x, x), its products, the products of x, one curve per column,
    and Matérn 5/2 processes. The first four have a rough process beside them, for what they lack."""

    def roots(rows: Array) -> Array:
        return np.where(is_amount, np.sqrt(np.clip(rows, 0.0, None)), rows)

    def linear(a: Array, b: Array) -> Array:
        found: Array = with_roots(a, is_amount) @ with_roots(b, is_amount).T
        return found

    def matern(length: float) -> Kernel:
        name = f"Matérn process of length {length:.2g}"
        return Kernel(name, lambda a, b: _matern(_distances(roots(a), roots(b)) / length)).scaled(x)

    def curves(length: float) -> Kernel:
        def covariance(a: Array, b: Array) -> Array:
            mine, theirs = roots(a), roots(b)
            columns = range(mine.shape[1])
            gaps = (np.abs(mine[:, None, column] - theirs[None, :, column]) for column in columns)
            found: Array = np.sum([_matern(gap / length) for gap in gaps], axis=0)
            return found

        return Kernel(f"one curve per column of length {length:.2g}", covariance)

    pairs = np.triu_indices(len(x), 1)
    typical = float(np.median(_distances(roots(x), roots(x))[pairs])) or 1.0
    gaps = [np.abs(np.subtract.outer(column, column))[pairs] for column in roots(x).T]
    single = float(np.median(gaps)) or typical
    plain = [
        Kernel("linear in (√x, x)", linear),
        Kernel("(√x, x) with products", lambda a, b: (1.0 + linear(a, b)) ** 2),
        Kernel("quadratic", lambda a, b: (1.0 + a @ b.T) ** 2),
        *(curves(single * length) for length in _CURVE_LENGTHS),
    ]
    rough = matern(typical * _LENGTHS[0])
    return [_with_rough(one.scaled(x), rough) for one in plain] + [matern(typical * length) for length in _LENGTHS]


def null_kernel() -> Kernel:
    """The form in which no parameter matters."""
    return Kernel("constant", lambda a, b: np.zeros((len(a), len(b))))


def _with_rough(one: Kernel, rough: Kernel) -> Kernel:
    share = _LACK_OF_FIT
    return Kernel(one.name, lambda a, b: one.between(a, b) + share * rough.between(a, b), 1.0 + share)


def _matern(distance: Array) -> Array:
    scaled = np.sqrt(5.0) * distance
    found: Array = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
    return found


def _distances(a: Array, b: Array) -> Array:
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None, :] - 2.0 * a @ b.T
    found: Array = np.sqrt(np.clip(squares, 0.0, None))
    return found
