"""The objectives against each other, where a sweep has several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from raycodellm.report.answer import metric_in_words
from raycodellm.report.figures.figure import GROUP_COLOURS, QUIET, Figure, plain, points, title
from raycodellm.report.records import Records
from raycodellm.verdict import FrontArm

ON_FRONT, UNSURE, OTHERS = "Pareto front", "Pareto front, not told from being dominated", "other arms"


def pareto(records: Records) -> list[Figure]:
    """The first objective against each of the others. The front is that of all objectives together."""
    front, objectives = records.front, records.sweep.search.objectives
    if front is None or not front.arms:
        return []
    figures = []
    for place, objective in enumerate(objectives[1:], 1):
        known = [front_arm for front_arm in front.members if front_arm.is_known]
        unsure = [front_arm for front_arm in front.members if not front_arm.is_known]
        others = [front_arm for front_arm in front.arms if not front_arm.is_on_front]
        data = [
            *_line(front.members, place, len(objectives) == 2),
            _trace(OTHERS, others, place, {"color": QUIET, "symbol": "circle-open"}),
            _trace(UNSURE, unsure, place, {"color": GROUP_COLOURS[0], "symbol": "circle-open"}),
            _trace(ON_FRONT, known, place, {"color": GROUP_COLOURS[0], "symbol": "circle"}),
        ]
        layout = {
            "xaxis": {"title": title(metric_in_words(objectives[0]))},
            "yaxis": {"title": title(metric_in_words(objective))},
            "showlegend": True,
        }
        figures.append(Figure(f"pareto{place}", "", [trace for trace in data if trace["x"]], layout))
    return figures


def _line(members: Sequence[FrontArm], place: int, is_plane: bool) -> list[dict[str, Any]]:
    """The line along the front, of two objectives."""
    if not is_plane:
        return []
    line = {"color": GROUP_COLOURS[0], "width": 1}
    x, y = (plain(member.scores[number].value for member in members) for number in (0, place))
    return [
        {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "showlegend": False, "hoverinfo": "skip"}
    ]


def _trace(name: str, arms: Sequence[FrontArm], place: int, marker: dict[str, Any]) -> dict[str, Any]:
    first, other = ([front_arm.scores[number] for front_arm in arms] for number in (0, place))
    return {
        "type": "scatter",
        "name": name,
        "mode": "markers",
        "x": plain(score.value for score in first),
        "y": plain(score.value for score in other),
        "error_x": _bars([front_arm.bars[0] for front_arm in arms], marker["color"]),
        "error_y": _bars([front_arm.bars[place] for front_arm in arms], marker["color"]),
        "marker": {"size": 9, **marker},
        **points("arms", [front_arm.arm for front_arm in arms]),
    }


def _bars(lengths: Sequence[float], colour: str) -> dict[str, Any]:
    array = plain(length if math.isfinite(length) else 0.0 for length in lengths)
    return {"type": "data", "array": array, "thickness": 1, "width": 0, "color": colour}
