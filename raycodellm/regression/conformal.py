"""Intervals for the scores of arms that were not measured, by CV+."""

from __future__ import annotations

import math

import numpy as np

from raycodellm.regression.crossval import CrossValidated
from raycodellm.regression.forms import Array


def conformal_interval(cross_validated: CrossValidated, x: Array, level: float = 0.9) -> tuple[Array, Array]:
    """(low, high), each of shape (rows of `x`,): the intervals for the scores of new arms, measured as the arms at hand
    were, with as many seeds each.

    CV+ (Barber, Candès, Ramdas and Tibshirani 2021, Predictive inference with the jackknife+, arXiv 1905.02928): the
    quantiles of the predictions of the fits that lack an arm, less or plus that arm's residual. If arms are
    exchangeable they cover at least 1 - 2·(1 - level), and about `level` where fits are stable, whatever the form and
    the noise. They hold on average over new arms, not for an arm that was chosen. Infinite where arms are too few.
    """
    num_arms = len(cross_validated.y)
    sizes = np.abs(cross_validated.residuals)
    centres = np.stack([fit.predict(x) for fit in cross_validated.fold_fits])[cross_validated.fold_of]  # (arms, rows)
    place = math.ceil(level * (num_arms + 1))
    if place > num_arms:
        return np.full(len(x), -np.inf), np.full(len(x), np.inf)
    lows = np.sort(centres - sizes[:, None], axis=0)
    highs = np.sort(centres + sizes[:, None], axis=0)
    return lows[num_arms - place], highs[place - 1]
