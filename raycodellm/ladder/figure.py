"""The plot of each arm's effect against the size of the model."""

from __future__ import annotations

import math
from typing import Any

from raycodellm.config import Objective
from raycodellm.ladder.effects import ArmEffects, LadderResult
from raycodellm.ladder.words import axis_title, effect_text, size
from raycodellm.report.figures import Figure
from raycodellm.report.figures.figure import GROUP_COLOURS, GROUP_SYMBOLS, QUIET, as_markup, plain, title
from raycodellm.tables import formats

_APART = 0.012
"""Distance of two arms' points at one size, as a share of the axis, so that their intervals do not cover each other."""
_MOST_ARMS = 14
"""Arms in one plot."""


def effects_by_size(result: LadderResult) -> list[Figure]:
    """One plot for each objective of which an effect is known at a size."""
    found = []
    for place, objective in enumerate(result.objectives):
        arms = [one for one in result.effects if one.objective.metric == objective.metric][:_MOST_ARMS]
        if arms:
            found.append(_figure(f"effects-{place}", result, objective, arms))
    return found


def _figure(name: str, result: LadderResult, objective: Objective, arms: list[ArmEffects]) -> Figure:
    sizes = [rung.facts.parameters for rung in result.rungs]
    span = math.log10(max(sizes) / min(sizes)) or 1.0
    traces = [_trace(one, place, _APART * span * (place - (len(arms) - 1) / 2)) for place, one in enumerate(arms)]
    layout = {
        "xaxis": {
            "title": title("parameters of the model"),
            "type": "log",
            "tickvals": sizes,
            "ticktext": [as_markup(size(rung.facts)) for rung in result.rungs],
            "range": [math.log10(min(sizes)) - 0.08 * span, math.log10(max(sizes)) + 0.08 * span],
        },
        "yaxis": {"title": title(axis_title(objective))},
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": 0,
                "y1": 0,
                "line": {"color": QUIET, "width": 1, "dash": "dot"},
            }
        ],
        "showlegend": True,
    }
    return Figure(name, "", traces, layout, height=430)


def _trace(one: ArmEffects, place: int, shift: float) -> dict[str, Any]:
    """`shift`: along the axis of sizes, in powers of ten."""
    ends = [(effect.difference.value - effect.difference.low) for effect in one.effects]
    above = [(effect.difference.high - effect.difference.value) for effect in one.effects]
    colour = GROUP_COLOURS[place % len(GROUP_COLOURS)]
    name = f"arm {one.number}: {formats.params(one.params)}"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": as_markup(name),
        "x": plain(effect.rung.parameters * 10**shift for effect in one.effects),
        "y": plain(effect.difference.value for effect in one.effects),
        "error_y": {"type": "data", "symmetric": False, "array": plain(above), "arrayminus": plain(ends), "width": 3},
        "text": [
            f"{as_markup(name)}<br>{as_markup(f'{size(effect.rung)}: {effect_text(effect)}')}" for effect in one.effects
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": colour, "width": 1.2},
        "marker": {"color": colour, "symbol": GROUP_SYMBOLS[place % len(GROUP_SYMBOLS)], "size": 8},
    }
