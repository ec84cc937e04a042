"""A posterior of the score as a function of the parameters: over functions, forms and noise at once.

The forms are Gaussian processes (`kernels.py`): the constant, the linear and quadratic forms of `forms.py` with normal
coefficients, a sum of one curve per column, and Matérn processes, smooth and rough, of several length scales. None of
them is chosen: each counts by its marginal likelihood, and so does each ratio of effect to noise. So an interval holds
what is not known of form and noise; and it may be asked of a point that was chosen for its prediction, since a choice
by the data changes no posterior (Dawid 1994, Selection paradoxes of Bayesian inference). How often intervals cover is
measured by `benchmarks/search/suggestions.py`.

With one mean (flat prior) and the noise's variance (Jeffreys' prior) integrated out, the scores' linear functions are
Student's t given a form and a ratio (Rasmussen and Williams 2006, section 2.7; O'Hagan 1978, Curve fitting and optimal
design for prediction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from raycodellm.regression.forms import Array
from raycodellm.regression.kernels import Kernel, kernels, null_kernel

_RATIOS = tuple(map(float, np.logspace(-0.5, 5, 12)))
"""Variance of the effect over the arms, in variances of one seed's noise."""
_NULL = 0.02
"""Prior probability that no parameter matters."""
_LEAST_WEIGHT = 1e-3
"""Members of less weight than this part of the greatest are left out."""


class SeedSpread(NamedTuple):
    """The noise by the seeds of single arms: their squared distances from their arm's mean, summed."""

    squares: float = 0.0
    degrees: int = 0
    """Seeds less arms, of the arms with several seeds."""


class Band(NamedTuple):
    """Values with the ends of their pointwise intervals; each of shape (rows,)."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True, eq=False)
class _Member:
    """One form with one ratio of effect to noise, given the scores."""

    kernel: Kernel
    ratio: float
    log_weight: float
    basis: Array
    """Eigenvectors of the whitened covariance, unwhitened: basis.T · diag(1 / spectrum) · basis is the inverse of the
    scores' covariance, in variances of the noise."""
    spectrum: Array
    mean: float
    noise: float
    """Scale of the t distributions: the variance of one seed's noise."""
    inverse_scores: Array
    """The inverse times the scores less `mean`."""
    ones: Array
    """The inverse times ones."""

    @property
    def name(self) -> str:
        return f"{self.kernel.name}, ratio {self.ratio:.3g}"

    def means(self, x: Array, rows: Array) -> Array:
        """Expected scores of the points in `rows`."""
        expected: Array = self.mean + self.ratio * (self.kernel.between(rows, x) @ self.inverse_scores)
        return expected

    def moments(self, x: Array, rows: Array, weights: Array) -> tuple[Array, Array]:
        """(means, covariance) of the linear functions `weights` of the surface at `rows`, in the score's unit."""
        cross = self.ratio * weights @ self.kernel.between(rows, x)
        total = weights.sum(axis=1)
        means = total * self.mean + cross @ self.inverse_scores
        prior = self.ratio * weights @ self.kernel.between(rows, rows) @ weights.T
        unexplained, projected = total - cross @ self.ones, self.basis @ cross.T
        spread = (
            prior
            - (projected / self.spectrum[:, None]).T @ projected
            + np.outer(unexplained, unexplained) / np.sum(self.ones)
        )
        return means, self.noise * spread

    def left_out(self) -> Array:
        """Each arm's score less its prediction from the others, the mean fitted again (Dubrule 1983)."""
        diagonal = np.sum(self.basis**2 / self.spectrum[:, None], axis=0)
        residuals: Array = self.inverse_scores / (diagonal - self.ones**2 / np.sum(self.ones))
        return residuals


@dataclass(frozen=True, eq=False)
class Posterior:
    """The surface given the arms' scores."""

    x: Array
    members: tuple[_Member, ...]
    weights: Array
    """Weight of each member; the weights sum to 1."""
    degrees: int

    @staticmethod
    def of(
        x: Array,
        y: Array,
        is_amount: Sequence[bool] | Array,
        num_seeds: Array | None = None,
        spread: SeedSpread | None = None,
    ) -> Posterior:
        """`y`: mean scores of the arms in the rows of `x`, over `num_seeds` seeds each (one where None); `spread`:
        what the arms with several seeds tell of the noise. Raises ValueError with fewer than three arms."""
        if len(y) < 3:
            raise ValueError(f"found {len(y)} arms; a posterior needs 3")
        seeds = np.ones(len(y)) if num_seeds is None else np.asarray(num_seeds, dtype=float)
        seed_spread = spread or SeedSpread()
        degrees = len(y) - 1 + seed_spread.degrees
        forms = kernels(x, np.asarray(is_amount, dtype=bool))
        prior = float(np.log((1 - _NULL) / (len(forms) * len(_RATIOS))))
        scores = _Scores(y, seeds, seed_spread.squares, degrees)
        members = _members(null_kernel(), (0.0,), x, scores, float(np.log(_NULL)))
        for form in forms:
            members += _members(form, _RATIOS, x, scores, prior)
        logs = np.array([member.log_weight for member in members])
        retained = [member for member in members if member.log_weight > np.max(logs) + np.log(_LEAST_WEIGHT)]
        weights = np.exp(np.array([member.log_weight for member in retained]) - np.max(logs))
        return Posterior(x, tuple(retained), weights / weights.sum(), degrees)

    @property
    def noise(self) -> float:
        """Standard deviation of one seed's score around its arm's, the mean over the members."""
        return float(np.sqrt(self.weights @ [member.noise for member in self.members]))

    @property
    def residuals(self) -> Array:
        """Each arm's score less its prediction from the others; the members' weights stay those of all arms."""
        residuals: Array = self.weights @ np.array([member.left_out() for member in self.members])
        return residuals

    @property
    def error(self) -> float:
        """Root mean square of the residuals, in the score's unit."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    def mean(self, rows: Array) -> Array:
        """Expected score of the points in `rows`."""
        expected: Array = self.weights @ np.array([member.means(self.x, rows) for member in self.members])
        return expected

    def band(self, rows: Array, weights: Array | None = None, level: float = 0.9, noise_of: int = 0) -> Band:
        """Values of linear functions of the surface with pointwise intervals: of the points in `rows`, or of
        `weights` times these, of shape (functions, rows). `noise_of`: seeds whose mean is asked for, with its noise; 0
        for the surface."""
        weights = np.eye(len(rows)) if weights is None else weights
        moments = [member.moments(self.x, rows, weights) for member in self.members]
        means = np.array([member_means for member_means, _ in moments])
        variances = np.array([np.diag(covariance) for _, covariance in moments])
        if noise_of:
            variances = variances + np.array([[member.noise / noise_of] for member in self.members])
        deviations = np.sqrt(np.clip(variances, 1e-18, None))
        tail = (1 - level) / 2
        low, high = (_quantile(share, means, deviations, self.weights, self.degrees) for share in (tail, 1 - tail))
        return Band(self.weights @ means, low, high)

    def draws(self, rows: Array, weights: Array, num_draws: int, rng: np.random.Generator) -> Array:
        """Joint draws of the linear functions `weights` of the surface at `rows`; shape (draws, functions)."""
        counts = rng.multinomial(num_draws, self.weights)
        member_draws = []
        for member, count in zip(self.members, counts, strict=True):
            if count:
                means, spread = member.moments(self.x, rows, weights)
                normal = rng.standard_normal((count, len(means))) @ _square_root(spread).T
                scale = np.sqrt(self.degrees / rng.chisquare(self.degrees, count))
                member_draws.append(means + scale[:, None] * normal)
        joined = np.concatenate(member_draws)
        rng.shuffle(joined)
        return joined


def _square_root(spread: Array) -> Array:
    """A matrix whose product with its transpose is `spread`, which may be singular."""
    values, vectors = np.linalg.eigh((spread + spread.T) / 2)
    root: Array = vectors * np.sqrt(np.clip(values, 0.0, None))
    return root


def _quantile(share: float, means: Array, deviations: Array, weights: Array, degrees: int) -> Array:
    """The quantile of each column's mixture of t distributions, by bisection."""
    from scipy.special import stdtr, stdtrit

    widest = abs(float(stdtrit(degrees, min(share, 1 - share) / 10)))
    low = np.min(means - widest * deviations, axis=0)
    high = np.max(means + widest * deviations, axis=0)
    for _ in range(50):
        middle = (low + high) / 2
        below = weights @ stdtr(degrees, (middle - means) / deviations)
        low, high = np.where(below < share, middle, low), np.where(below < share, high, middle)
    return (low + high) / 2


# ------------------------------------------------------------------------------------------------- members


class _Scores(NamedTuple):
    """The measured scores."""

    y: Array
    seeds: Array
    squares: float
    degrees: int


def _members(kernel: Kernel, ratios: Sequence[float], x: Array, scores: _Scores, log_prior: float) -> list[_Member]:
    """The kernel with every ratio. One eigendecomposition, whitened by the number of seeds, serves all ratios."""
    white = np.sqrt(scores.seeds)
    values, vectors = np.linalg.eigh(white[:, None] * kernel.between(x, x) * white[None, :])
    basis = vectors.T * white[None, :]
    sums, projected = basis.sum(axis=1), basis @ scores.y
    members = []
    for ratio in ratios:
        spectrum = ratio * np.clip(values, 0.0, None) + 1.0
        whole = float(sums @ (sums / spectrum))
        mean = float(sums @ (projected / spectrum)) / whole
        scaled_residuals = (projected - mean * sums) / spectrum
        squares = max(float((projected - mean * sums) @ scaled_residuals) + scores.squares, 1e-300)
        evidence = -0.5 * (np.sum(np.log(spectrum)) + np.log(whole) + scores.degrees * np.log(squares))
        members.append(
            _Member(
                kernel=kernel,
                ratio=float(ratio),
                log_weight=log_prior + float(evidence),
                basis=basis,
                spectrum=spectrum,
                mean=mean,
                noise=squares / scores.degrees,
                inverse_scores=basis.T @ scaled_residuals,
                ones=basis.T @ (sums / spectrum),
            )
        )
    return members
