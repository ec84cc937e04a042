"""The choice of the form: the one whose predictions of held-out arms are nearest to the measured scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycodellm.regression.forms import Array, Fitted, Form, GaussianProcess, LogLinear, Mean, all_forms

_FOLDS = 10
_MOST_LEFT_OUT_ONE_BY_ONE = 16
"""Arms up to which each is held out alone."""
MEAN = "mean of log-linear and Gaussian process"


@dataclass(frozen=True)
class CrossValidated:
    """A form, fitted to all arms and once more without each fold of them."""

    name: str
    fitted: Fitted
    """Fitted to all arms."""
    y: Array
    """The measured scores, one per arm."""
    fold_of: Array
    """The fold of each arm, from 0."""
    fold_fits: tuple[Fitted, ...]
    """The form fitted without the arms of each fold."""
    held_out: Array
    """Prediction of each arm by the fit that lacks its fold."""

    @property
    def residuals(self) -> Array:
        """Measured less predicted, of each arm by the fit that lacks it."""
        return self.y - self.held_out

    @property
    def error(self) -> float:
        """Root mean square of the residuals, in the score's unit."""
        return float(np.sqrt(np.mean(self.residuals**2)))


def choose_form(x: Array, y: Array, is_amount: Sequence[bool] | Array, seed: int = 0) -> list[CrossValidated]:
    """All forms, that of the least cross-validated error first; of equal ones the simpler first.

    Up to 16 arms each is held out alone; more are held out in 10 folds. The mean of the best log-linear form and the
    Gaussian process, one with a law's shape and one without, is a form like the others. Raises ValueError with fewer
    than three arms.
    """
    if len(y) < 3:
        raise ValueError(f"found {len(y)} arms; cross-validation needs 3")
    fold_of = _folds(len(y), seed)
    by_form = {form: _cross_validated(form, x, y, fold_of) for form in all_forms(is_amount)}
    log_linear = min(
        (candidate for form, candidate in by_form.items() if isinstance(form, LogLinear)),
        key=lambda candidate: candidate.error,
    )
    process = next(candidate for form, candidate in by_form.items() if isinstance(form, GaussianProcess))
    return sorted([*by_form.values(), _mean(MEAN, log_linear, process)], key=lambda candidate: candidate.error)


def _folds(num_arms: int, seed: int) -> Array:
    num_folds = num_arms if num_arms <= _MOST_LEFT_OUT_ONE_BY_ONE else _FOLDS
    return np.random.default_rng(seed).permutation(np.arange(num_arms) % num_folds)


def _cross_validated(form: Form, x: Array, y: Array, fold_of: Array) -> CrossValidated:
    fits, held_out = [], np.empty(len(y))
    for fold in range(int(fold_of.max()) + 1):
        inside = fold_of == fold
        fits.append(form.fit(x[~inside], y[~inside]))
        held_out[inside] = fits[-1].predict(x[inside])
    return CrossValidated(form.name, form.fit(x, y), y, fold_of, tuple(fits), held_out)


def _mean(name: str, one: CrossValidated, other: CrossValidated) -> CrossValidated:
    return CrossValidated(
        name,
        Mean((one.fitted, other.fitted)),
        one.y,
        one.fold_of,
        tuple(Mean(pair) for pair in zip(one.fold_fits, other.fold_fits, strict=True)),
        (one.held_out + other.held_out) / 2,
    )
