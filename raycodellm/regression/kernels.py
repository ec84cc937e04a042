"""The forms of `posterior.py` as covariances between arms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from raycodellm.regression.forms import Array, with_roots

_SMOOTHNESS = (0.5, 1.5, 2.5)
"""Smoothness ν of the Matérn processes: surfaces with kinks everywhere, with a slope, and with a curvature. Which of
them a score is, nobody knows before; with 2.5 alone the intervals were too narrow on surfaces with a kink."""
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
        covariances = self.covariance(x, x)
        around_mean = float(np.mean(np.diag(covariances)) - np.mean(covariances))
        return replace(self, scale=around_mean if around_mean > 1e-12 else 1.0)


def kernels(x: Array, is_amount: Array) -> list[Kernel]:
    """The forms for arms in the rows of `x`: linear in (√x, x), its products, the products of x, one curve per column,
    and Matérn processes. The first four have the roughest process beside them, for what they lack."""

    def roots(rows: Array) -> Array:
        return np.where(is_amount, np.sqrt(np.clip(rows, 0.0, None)), rows)

    def linear(a: Array, b: Array) -> Array:
        covariances: Array = with_roots(a, is_amount) @ with_roots(b, is_amount).T
        return covariances

    def matern(smoothness: float, length: float) -> Kernel:
        name = f"Matérn process of smoothness {smoothness:g} and length {length:.2g}"
        return Kernel(name, lambda a, b: _matern(_distances(roots(a), roots(b)) / length, smoothness)).scaled(x)

    def curves(length: float) -> Kernel:
        def covariance(a: Array, b: Array) -> Array:
            roots_of_a, roots_of_b = roots(a), roots(b)
            columns = range(roots_of_a.shape[1])
            gaps = (np.abs(roots_of_a[:, None, column] - roots_of_b[None, :, column]) for column in columns)
            covariances: Array = np.sum([_matern(gap / length, 2.5) for gap in gaps], axis=0)
            return covariances

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
    rough = matern(_SMOOTHNESS[0], typical * _LENGTHS[0])
    processes = [matern(smoothness, typical * length) for smoothness in _SMOOTHNESS for length in _LENGTHS]
    return [_with_rough(kernel.scaled(x), rough) for kernel in plain] + processes


def null_kernel() -> Kernel:
    """The form in which no parameter matters."""
    return Kernel("constant", lambda a, b: np.zeros((len(a), len(b))))


def _with_rough(kernel: Kernel, rough: Kernel) -> Kernel:
    share = _LACK_OF_FIT
    return Kernel(kernel.name, lambda a, b: kernel.between(a, b) + share * rough.between(a, b), 1.0 + share)


def _matern(distance: Array, smoothness: float) -> Array:
    """The Matérn covariance at distances in length scales, for ν of 1/2, 3/2 or 5/2 (Rasmussen and Williams 2006, eq.
    4.14 and 4.17)."""
    scaled = np.sqrt(2.0 * smoothness) * distance
    powers = {0.5: 1.0, 1.5: 1.0 + scaled, 2.5: 1.0 + scaled + scaled**2 / 3.0}[smoothness]
    covariances: Array = powers * np.exp(-scaled)
    return covariances


def _distances(a: Array, b: Array) -> Array:
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None, :] - 2.0 * a @ b.T
    distances: Array = np.sqrt(np.clip(squares, 0.0, None))
    return distances
