"""The forms that a score may have as a function of an arm's parameters.

Scores are given so that lower is better. `x` has shape (arms, columns), as `encoding.Encoding` makes it; `is_amount`
marks the columns that are amounts (weights, ratios, numbers scaled to 0 to 1), whose square roots are features too. A
loss falls steeply with a source's first tokens and slowly with more, which a square root follows and a line does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray
CONSTANT = "constant"
"""Name of the form to beat."""


class Fitted(Protocol):
    """A form with its coefficients."""

    def predict(self, x: Array) -> Array:
        """The scores of the rows of `x`; shape (rows,)."""
        ...


class Form(Protocol):
    """A form before it is fitted."""

    @property
    def name(self) -> str: ...

    def fit(self, x: Array, y: Array) -> Fitted: ...


@dataclass(frozen=True, eq=False)
class Constant:
    """The mean score, whatever the parameters: the form to beat."""

    name: str = CONSTANT

    def fit(self, x: Array, y: Array) -> Fitted:
        return _Constant(float(np.mean(y)))


@dataclass(frozen=True, eq=False)
class _Constant:
    value: float

    def predict(self, x: Array) -> Array:
        return np.full(len(x), self.value)


# ------------------------------------------------------------------------------------------------- linear in features


@dataclass(frozen=True, eq=False)
class Ridge:
    """A linear form of (√x, x), their squares and products; or, without roots, the quadratic form of x.

    The penalty on the coefficients' squares is the one with the least leave-one-out error (scikit-learn's `RidgeCV`).
    """

    is_amount: Array
    has_roots: bool = True

    @property
    def name(self) -> str:
        return "ridge on (√x, x) with squares" if self.has_roots else "quadratic"

    def features(self, x: Array) -> Array:
        from sklearn.preprocessing import PolynomialFeatures

        linear = with_roots(x, self.is_amount) if self.has_roots else x
        features: Array = PolynomialFeatures(2, include_bias=False).fit_transform(linear)
        return features

    def fit(self, x: Array, y: Array) -> Fitted:
        from sklearn.linear_model import RidgeCV

        return _Ridge(self, RidgeCV(np.logspace(-5, 3, 17)).fit(self.features(x), y))


@dataclass(frozen=True, eq=False)
class _Ridge:
    form: Ridge
    model: Any

    def predict(self, x: Array) -> Array:
        scores: Array = self.model.predict(self.form.features(x))
        return scores


def with_roots(x: Array, is_amount: Array) -> Array:
    """The columns √x of the amounts, then all columns x."""
    return np.hstack([np.sqrt(np.clip(x[:, is_amount], 0.0, None)), x])


# ------------------------------------------------------------------------------------------------- log-linear

_EFFICIENT = 1.345
"""Bend of Huber's loss in standard deviations: 95 % efficient for normal errors (Huber 1981, Robust Statistics)."""
_FLOORS = (0.1, 1.0, 3.0)
"""Starting values of c, in standard deviations below the least score."""
_ROUGH = 1e-6
"""Tolerance of fits that choose a start: a tenth of the time."""


@dataclass(frozen=True, eq=False)
class LogLinear:
    """score = c + exp(b + Σ w·z) with z = (√x, x): an exponential of a linear form over a floor c.

    With z = x this is the data-mixing law of Ye et al. 2024 (Data Mixing Laws, arXiv 2403.16952, its form M4); the
    roots are ours. Fitted with Huber's loss by L-BFGS, from three starts; the loss bends at 1.345 robust standard
    deviations of a first fit's residuals. `penalty` on the squares of w, for scores of standard deviation 1.
    """

    is_amount: Array
    penalty: float

    @property
    def name(self) -> str:
        return f"log-linear (penalty {self.penalty:g})"

    def fit(self, x: Array, y: Array) -> Fitted:
        scale = _Scale.of(y)
        z, scaled = with_roots(x, self.is_amount), scale.down(y)
        starts = [_log_start(z, scaled, floor, self.penalty) for floor in _FLOORS]
        rough = [_log_fit(z, scaled, self.penalty, 1.0, start, _ROUGH) for start in starts]
        first = min(rough, key=lambda loss_and_coefficients: loss_and_coefficients[0])[1]
        residuals = np.abs(_log_linear(first, z) - scaled)
        bend = max(1e-3, _EFFICIENT * 1.4826 * float(np.median(residuals)))
        fitted = _log_fit(z, scaled, self.penalty, bend, first)[1]
        return _LogLinear(self, scale, fitted)


@dataclass(frozen=True, eq=False)
class _LogLinear:
    form: LogLinear
    scale: _Scale
    coefficients: Array
    """c, b, then w."""

    def predict(self, x: Array) -> Array:
        return self.scale.up(_log_linear(self.coefficients, with_roots(x, self.form.is_amount)))


@dataclass(frozen=True, eq=False)
class _Scale:
    """Scores with mean 0 and standard deviation 1."""

    mean: float
    deviation: float

    @staticmethod
    def of(y: Array) -> _Scale:
        return _Scale(float(np.mean(y)), float(np.std(y)) or 1.0)

    def down(self, y: Array) -> Array:
        return (y - self.mean) / self.deviation

    def up(self, y: Array) -> Array:
        return self.mean + self.deviation * y


def _log_linear(coefficients: Array, z: Array) -> Array:
    scores: Array = coefficients[0] + np.exp(np.clip(coefficients[1] + z @ coefficients[2:], -50.0, 50.0))
    return scores


def _log_start(z: Array, y: Array, floor: float, penalty: float) -> Array:
    """The least-squares fit of log(y - c) for a given floor c."""
    c = float(np.min(y)) - floor
    design = np.hstack([np.ones((len(z), 1)), z])
    gram = design.T @ design + max(penalty, 1e-4) * len(z) * np.eye(design.shape[1])
    return np.concatenate([[c], np.linalg.solve(gram, design.T @ np.log(y - c))])


def _log_fit(
    z: Array, y: Array, penalty: float, bend: float, start: Array, tolerance: float = 1e-9
) -> tuple[float, Array]:
    """(mean loss, coefficients) of least penalised Huber loss; ends once a step gains less than `tolerance` of it."""
    from scipy.optimize import minimize

    num_rows, turned, gradient = len(y), z.T, np.empty(len(start))

    def loss(coefficients: Array) -> tuple[float, Array]:
        """(loss, gradient). A fit calls this a thousand times with a few dozen rows, so it uses plain ufuncs alone."""
        weights = coefficients[2:]
        exponent = np.minimum(np.maximum(coefficients[1] + z @ weights, -50.0), 50.0)
        above = np.exp(exponent)
        error = coefficients[0] + above - y
        slope = np.minimum(np.maximum(error, -bend), bend)
        value = np.add.reduce(slope * (error - slope / 2)) / num_rows
        by_form = slope * above / num_rows
        gradient[0], gradient[1] = np.add.reduce(slope) / num_rows, np.add.reduce(by_form)
        gradient[2:] = turned @ by_form + penalty * weights
        return float(value + penalty / 2 * np.add.reduce(weights**2)), gradient.copy()

    minimum = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": tolerance})
    return float(minimum.fun), minimum.x


# ------------------------------------------------------------------------------------------------- Gaussian process


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A Gaussian process over (√x of amounts, x of the others): Matérn 5/2 with one length scale, and noise.

    Between two mixtures the Euclidean distance of the roots is √2 times the Hellinger distance. Length scale, height
    and noise have the greatest marginal likelihood (Rasmussen and Williams 2006, chapter 5).
    """

    is_amount: Array
    name: str = "Gaussian process"

    def inputs(self, x: Array) -> Array:
        return np.where(self.is_amount, np.sqrt(np.clip(x, 0.0, None)), x)

    def fit(self, x: Array, y: Array) -> Fitted:
        from sklearn.gaussian_process import GaussianProcessRegressor, kernels

        inputs = self.inputs(x)
        kernel = kernels.ConstantKernel(1.0, (1e-3, 1e4)) * kernels.Matern(1.0, (1e-2, 1e3), nu=2.5)
        kernel += kernels.WhiteKernel(0.1, (1e-6, 3.0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a hyper-parameter at its bound is no fault: noise may be 0
            model = GaussianProcessRegressor(kernel, normalize_y=True).fit(inputs, y)
        return _GaussianProcess(self, model)


@dataclass(frozen=True, eq=False)
class _GaussianProcess:
    form: GaussianProcess
    model: Any

    def predict(self, x: Array) -> Array:
        scores: Array = self.model.predict(self.form.inputs(x))
        return scores


# ------------------------------------------------------------------------------------------------- a mean of forms


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of several fitted forms' predictions."""

    parts: tuple[Fitted, ...]

    def predict(self, x: Array) -> Array:
        scores: Array = np.mean([part.predict(x) for part in self.parts], axis=0)
        return scores


def all_forms(is_amount: Sequence[bool] | Array) -> list[Form]:
    """Every form that cross-validation chooses among, but the mean of two of them (`crossval.choose_form`)."""
    amounts = np.asarray(is_amount, dtype=bool)
    return [
        Constant(),
        Ridge(amounts),
        Ridge(amounts, has_roots=False),
        *(LogLinear(amounts, penalty) for penalty in (1e-5, 1e-3, 1e-1)),
        GaussianProcess(amounts),
    ]
