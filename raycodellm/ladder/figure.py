"""The plots of effects and of scores against the size of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.config import Objective
from raycodellm.ladder.effects import ArmKey, LadderResult, SizeResult, arm_key
from raycodellm.ladder.folder import SizeFacts
from raycodellm.ladder.words import axis_title, interval_text, size_text
from raycodellm.report.answer import metric_in_words
from raycodellm.report.figures import Figure
from raycodellm.report.figures.figure import GROUP_COLOURS, GROUP_SYMBOLS, QUIET, as_markup, plain, title
from raycodellm.statistics import Interval
from raycodellm.tables import formats

MOST_ARMS = 14
"""Arms in one plot."""
_APART = 0.012
"""Distance of two arms' points at one size, as a share of the axis, so that their intervals do not cover each other."""


@dataclass(frozen=True)
class _Line:
    """One arm's values, from the smallest size to the largest."""

    name: str
    colour_index: int
    """Index of the arm's colour and symbol, the same in all plots; 0 for the reference."""
    points: Sequence[tuple[SizeFacts, Interval]]
    is_signed: bool
    """True if the values are differences, which are written with a sign."""


def effects_by_size(result: LadderResult) -> list[Figure]:
    """One plot for each objective of which an effect is known at a size."""
    figures = []
    for index, objective in enumerate(result.objectives):
        arms = [arm_effects for arm_effects in result.effects if arm_effects.objective.metric == objective.metric]
        lines = [
            _Line(
                _arm_name(arm_effects.number, arm_effects.params),
                _colour_indices(result)[arm_key(arm_effects.params)],
                [(effect.size, effect.difference) for effect in arm_effects.effects],
                is_signed=True,
            )
            for arm_effects in arms
        ]
        if lines:
            figures.append(_figure(f"effects-{index}", result, axis_title(objective), lines))
    return figures


def scores_by_size(result: LadderResult) -> list[Figure]:
    """A plot of the arms' scores in the first objective, the reference among them; none without a score."""
    lines: dict[ArmKey, tuple[str, list[tuple[SizeFacts, Interval]]]] = {}
    for size in result.begun:
        for name, key, score in _scores(size):
            lines.setdefault(key, (name, []))[1].append((size.facts, score))
    if not lines:
        return []
    objective: Objective = result.objectives[0]
    colour_indices = _colour_indices(result)
    arm_lines = [
        _Line(name, colour_indices.get(key, 0), points, is_signed=False) for key, (name, points) in lines.items()
    ]
    return [_figure("scores-by-size", result, metric_in_words(objective), arm_lines, has_zero=False)]


def _scores(size: SizeResult) -> list[tuple[str, ArmKey, Interval]]:
    """Name, key and score of each arm that counts at the size, in the order of their numbers."""
    scores = sorted(size.records.scores, key=lambda arm_score: arm_score.arm) if size.records is not None else []
    return [
        (
            _arm_name(arm_score.arm, arm_score.params) + (", the reference" if arm_score.arm == size.reference else ""),
            arm_key(arm_score.params),
            Interval(arm_score.score, arm_score.low, arm_score.high),
        )
        for arm_score in scores
        if arm_score.score is not None and arm_score.arm in size.counted
    ]


def _colour_indices(result: LadderResult) -> dict[ArmKey, int]:
    """Maps each arm beside the reference to the index of its colour, from 1 on."""
    return {key: index for index, key in enumerate(result.arms, start=1)}


def _arm_name(number: int, params: Any) -> str:
    return f"arm {number}: {formats.params(params)}"


def _figure(name: str, result: LadderResult, y_title: str, lines: Sequence[_Line], has_zero: bool = True) -> Figure:
    num_parameters = [size.facts.parameters for size in result.sizes]
    span, drawn = math.log10(max(num_parameters) / min(num_parameters)) or 1.0, lines[:MOST_ARMS]
    traces = [_trace(line, _APART * span * (index - (len(drawn) - 1) / 2)) for index, line in enumerate(drawn)]
    zero = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"color": QUIET, "width": 1}}
    layout = {
        "xaxis": {
            "title": title("parameters of the model"),
            "type": "log",
            "tickvals": num_parameters,
            "ticktext": [as_markup(size_text(size.facts)) for size in result.sizes],
            "range": [math.log10(min(num_parameters)) - 0.08 * span, math.log10(max(num_parameters)) + 0.08 * span],
        },
        "yaxis": {"title": title(y_title)},
        "shapes": [zero] if has_zero else [],
        "showlegend": True,
    }
    caption = "" if len(lines) <= MOST_ARMS else f"The first {MOST_ARMS} of {len(lines)} arms; the table has all."
    return Figure(name, "", traces, layout, caption, height=430)


def _trace(line: _Line, shift: float) -> dict[str, Any]:
    """`shift`: along the axis of sizes, in powers of ten."""
    colour = GROUP_COLOURS[line.colour_index % len(GROUP_COLOURS)]
    values = [score for _, score in line.points]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": as_markup(line.name),
        "x": plain(size.parameters * 10**shift for size, _ in line.points),
        "y": plain(score.value for score in values),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": plain(score.high - score.value for score in values),
            "arrayminus": plain(score.value - score.low for score in values),
            "width": 3,
        },
        "text": [
            f"{as_markup(line.name)}<br>{as_markup(f'{size_text(size)}: {interval_text(score, line.is_signed)}')}"
            for size, score in line.points
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": colour, "width": 1.2},
        "marker": {"color": colour, "symbol": GROUP_SYMBOLS[line.colour_index % len(GROUP_SYMBOLS)], "size": 8},
    }
