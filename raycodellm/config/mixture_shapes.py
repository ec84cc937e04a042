"""The named shapes of a stage's code ratio. A shape turns the mean code ratio into a curve over the stage's progress.

A new shape is one function and its entry in SHAPES: the sweep file takes the name, and the settings reference shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple


class CodeRatioCurve(NamedTuple):
    """The code ratio along a stage, as knots."""

    progress: list[float]
    """Progress of each knot: from 0 to 1, never falling. Two knots at one progress make a jump."""
    code_ratios: list[float]
    """Code ratio at each knot, 0 to 1."""
    interpolation: str
    """How the ratio moves between two knots: step, linear or cosine."""


class Shape(NamedTuple):
    curve: Callable[[float], CodeRatioCurve]
    """Mean code ratio, strictly between 0 and 1 -> the curve whose mean over the stage is exactly that ratio."""
    meaning: str
    """For the settings reference."""


def code_ratio_curve(shape: str, mean: float) -> CodeRatioCurve:
    """The curve of a named shape whose mean over the stage is exactly `mean`. A mean of 0 or 1 leaves no room for a
    shape: the ratio is constant."""
    return _constant(mean) if mean in (0.0, 1.0) else SHAPES[shape].curve(mean)


def _constant(mean: float) -> CodeRatioCurve:
    return CodeRatioCurve([0.0, 1.0], [mean, mean], "step")


def _steps(steps: Sequence[float], mean: float) -> CodeRatioCurve:
    """Four equal phases in the proportions of `steps`. Where scaling the code shares would pass 1, the text shares are
    scaled instead, so that no phase leaves 0 to 1."""
    average = math.fsum(steps) / len(steps)
    ratios = [step * mean / average for step in steps]
    if max(ratios) > 1.0:
        ratios = [1.0 - (1.0 - step) * (1.0 - mean) / (1.0 - average) for step in steps]
    return CodeRatioCurve([0.0, 0.25, 0.5, 0.75, 1.0], [*ratios, ratios[-1]], "step")


def _ramp(interpolation: str, rises: bool, mean: float) -> CodeRatioCurve:
    """From one end to the other through the mean at half way, as steep as 0 to 1 allows."""
    swing = min(mean, 1.0 - mean)
    low, high = mean - swing, mean + swing
    return CodeRatioCurve([0.0, 1.0], [low, high] if rises else [high, low], interpolation)


def _code_first(mean: float) -> CodeRatioCurve:
    return CodeRatioCurve([0.0, mean, 1.0], [1.0, 0.0, 0.0], "step")


def _text_first(mean: float) -> CodeRatioCurve:
    return CodeRatioCurve([0.0, 1.0 - mean, 1.0], [0.0, 1.0, 1.0], "step")


_MA_DECREASE = (0.50, 0.40, 0.30, 0.30)
"""Code shares of the four equal phases of "stepwise decrease"; their mean is 0.375 (Ma et al., ICLR 2024, table 5)."""
_MA_INCREASE = (0.30, 0.30, 0.40, 0.50)

SHAPES: dict[str, Shape] = {
    "constant": Shape(_constant, "the same code ratio all along"),
    "increase": Shape(partial(_steps, _MA_INCREASE), "the four equal phases of `decrease` in the opposite order"),
    "decrease": Shape(
        partial(_steps, _MA_DECREASE),
        "four equal phases with code ratios in the proportions 50 : 40 : 30 : 30 (Ma et al., ICLR 2024, table 5)",
    ),
    "linear_up": Shape(
        partial(_ramp, "linear", True),
        "a straight line through the mean at half way, as steep as the limits 0 and 1 allow",
    ),
    "linear_down": Shape(partial(_ramp, "linear", False), "`linear_up` in the opposite direction"),
    "cosine_up": Shape(partial(_ramp, "cosine", True), "half a cosine between the same ends as `linear_up`"),
    "cosine_down": Shape(partial(_ramp, "cosine", False), "`cosine_up` in the opposite direction"),
    "code_first": Shape(_code_first, "first all the code, then all the text"),
    "text_first": Shape(_text_first, "first all the text, then all the code"),
}
