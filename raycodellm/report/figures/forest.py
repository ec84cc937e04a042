"""Values with their intervals, one line per arm: verdicts look by look, differences by task, noise between seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm import search
from raycodellm.report.figures.figure import QUIET, Figure, as_markup, plain, title
from raycodellm.report.records import Records
from raycodellm.statistics import Interval
from raycodellm.tables import formats
from raycodellm.tables.trials import params_of
from raycodellm.verdict.arms import equal_params

COLOURS = {"better": "--good", "worse": "--bad"}
"""Colours of the verdicts; any other one is quiet."""
_SYMBOLS = {"better": "circle", "worse": "square", "equal": "diamond"}
_NAMES = ("better", "worse", "equal", "not known", "")
_GAP, _TITLE_PIXELS, _ROW_PIXELS, _LEGEND_PIXELS = 0.025, 70, 22, 44
_MOST_CHARACTERS = 70
MOST_ARMS = 40
"""Arms that a plot shows: the first in rank."""


@dataclass(frozen=True)
class Line:
    """One value of a panel."""

    label: str
    value: Interval
    word: str = ""
    """The verdict, which gives the colour; empty for a value without one."""


@dataclass(frozen=True)
class Panel:
    """One plot among several that share their labels."""

    title: str
    lines: Sequence[Line]


def forest(
    name: str, panels: Sequence[Panel], x_title: str, columns: int, caption: str, at: float = 0.0, is_log: bool = False
) -> list[Figure]:
    """The panels, `columns` side by side, with a line at `at` in each; no figure without a line."""
    panels = [panel for panel in panels if panel.lines]
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    if not labels:
        return []
    columns = min(columns, len(panels))
    num_rows = math.ceil(len(panels) / columns)
    height = num_rows * (_TITLE_PIXELS + _ROW_PIXELS * len(labels))
    has_words = any(line.word for line in panels[0].lines)
    height += _LEGEND_PIXELS if has_words else 0
    layout: dict[str, Any] = {"annotations": [], "shapes": [], "showlegend": has_words}
    data: list[dict[str, Any]] = []
    named_words: set[str] = set()
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        x, y = _axis("x", place), _axis("y", row)
        width, row_height = (1 - _GAP * (columns - 1)) / columns, 1 / num_rows
        left, top = column * (width + _GAP), 1 - row * row_height
        bottom, top = top - row_height + 36 / height, top - 26 / height
        is_last = place + columns >= len(panels)
        layout[_axis("xaxis", place)] = {
            "domain": [left, left + width],
            "anchor": y,
            "title": title(x_title if is_last else ""),
            **({"type": "log"} if is_log else {"nticks": 4}),
        }
        layout[_axis("yaxis", row)] = {
            "domain": [bottom, top],
            "anchor": _axis("x", row * columns),
            "type": "category",
            "categoryorder": "array",
            "categoryarray": labels[::-1],
            "range": [-0.6, len(labels) - 0.4],
        }
        layout["annotations"].append(_panel_title(panel.title, left + width / 2, top))
        if not is_log:
            ends = {"xref": x, "yref": f"{y} domain", "x0": at, "x1": at, "y0": 0, "y1": 1}
            layout["shapes"].append({"type": "line", **ends, "line": {"color": QUIET, "width": 1, "dash": "dot"}})
        for word in _NAMES:
            lines = [line for line in panel.lines if line.word == word]
            data += [_trace(lines, word, x, y, word not in named_words)] if lines else []
            named_words |= {word} if lines else set()
    return [Figure(name, "", data, layout, caption, height)]


def _axis(name: str, place: int) -> str:
    """Plotly's name of the axis: x, x2, x3 …"""
    return f"{name}{place + 1}" if place else name


def _panel_title(text: str, x: float, y: float) -> dict[str, Any]:
    where = {"xref": "paper", "yref": "paper", "x": x, "y": y, "xanchor": "center", "yanchor": "bottom"}
    return {**where, "text": as_markup(text), "showarrow": False, "font": {"size": 13}}


def _trace(lines: Sequence[Line], word: str, x: str, y: str, is_named: bool) -> dict[str, Any]:
    colour = COLOURS.get(word, QUIET)

    def length(end: float, value: float) -> float | None:
        return abs(end - value) if math.isfinite(end) else None

    bars = {"type": "data", "symmetric": False, "color": colour, "thickness": 1.5, "width": 3}
    bars["array"] = plain(length(line.value.high, line.value.value) for line in lines)
    bars["arrayminus"] = plain(length(line.value.low, line.value.value) for line in lines)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": word or "arms",
        "legendgroup": word,
        "showlegend": is_named and bool(word),
        "x": plain(line.value.value for line in lines),
        "y": [line.label for line in lines],
        "xaxis": x,
        "yaxis": y,
        "error_x": bars,
        "marker": {"color": colour, "size": 8, "symbol": _SYMBOLS.get(word, "circle-open")},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }


def arm_labels(records: Records, arms: Sequence[int]) -> dict[int, str]:
    """Maps each arm to its number and what it differs in from the reference, as Plotly shows it; without a reference to
    all its parameters. To its number alone where that would leave no room for the plots."""
    params = {row["arm"]: params_of(row) for row in reversed(records.rows)}
    words = {arm: arm_words(records, params[arm]) for arm in arms}
    if max(map(len, words.values()), default=0) > _MOST_CHARACTERS:
        return {arm: f"arm {arm}" for arm in arms}
    return {arm: as_markup(f"{arm}: {text}") for arm, text in words.items()}


def arm_words(records: Records, params: Mapping[str, Any]) -> str:
    """The parameters in which an arm differs from the reference; all of them without a reference.

    The reference's value of a parameter that has no effect in it, such as the schedule of no code, counts too.
    """
    point = search.reference_point(records.file)
    if point is not None and equal_params(params, point):
        return "reference"
    present = {name: params[name] for name in records.file.domains if params.get(name) is not None}
    point = {**(records.file.reference() or {}), **(point or {})}
    return formats.params({name: value for name, value in present.items() if _differs(name, value, point)} or present)


def _differs(name: str, value: Any, point: Mapping[str, Any]) -> bool:
    return name not in point or not equal_params({name: value}, {name: point[name]})
