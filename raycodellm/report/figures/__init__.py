"""The report's figures as Plotly's JSON: traces and layout, made without importing Plotly."""

from raycodellm.report.figures.curves import (
    HELD_OUT,
    LOSS,
    RATIO,
    Curves,
    curve_data,
    curve_figures,
    num_arms_with_curves,
)
from raycodellm.report.figures.figure import Figure
from raycodellm.report.figures.fronts import pareto
from raycodellm.report.figures.groups import hover_texts, is_along_code_ratio
from raycodellm.report.figures.history import costs, order
from raycodellm.report.figures.importance import importance
from raycodellm.report.figures.rungs import rungs
from raycodellm.report.figures.scores import scores
from raycodellm.report.figures.what_if import MOST_CURVES, what_if

__all__ = [
    "HELD_OUT",
    "LOSS",
    "MOST_CURVES",
    "RATIO",
    "Curves",
    "Figure",
    "costs",
    "curve_data",
    "curve_figures",
    "hover_texts",
    "importance",
    "is_along_code_ratio",
    "num_arms_with_curves",
    "order",
    "pareto",
    "rungs",
    "scores",
    "what_if",
]
