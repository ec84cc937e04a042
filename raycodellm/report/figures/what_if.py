"""The predicted score along each parameter, with its band, and the arms that were run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycodellm.regression import Curve
from raycodellm.report.answer import metric_in_words
from raycodellm.report.figures import groups
from raycodellm.report.figures.figure import GROUP_COLOURS, QUIET, Figure, as_markup, plain, points, title
from raycodellm.report.records import Records
from raycodellm.tables import formats

MOST_CURVES = 8


def what_if(records: Records, curves: list[Curve], base: Mapping[str, Any]) -> list[Figure]:
    """One plot per curve. `base`: the point that all other parameters are held at."""
    plots = []
    for number, curve in enumerate(curves[:MOST_CURVES]):
        domain = records.file.domains[curve.name]
        is_choice = domain.kind == "choice" and not all(isinstance(value, (int, float)) for value in curve.values)
        values = [as_markup(formats.value(value)) for value in curve.values] if is_choice else list(curve.values)
        kind = "category" if is_choice else "log" if domain.kind == "loguniform" else "linear"
        data = [_arms(records, curve.name, is_choice), *(_bars(curve, values) if is_choice else _band(curve, values))]
        layout = {
            "xaxis": {"title": title(curve.name), "type": kind},
            "yaxis": {"title": title(metric_in_words(records.sweep.search.objectives[0]))},
            "showlegend": True,
        }
        plots.append(Figure(f"whatif{number}", "", data, layout, height=360))
    return plots


def _arms(records: Records, name: str, is_choice: bool) -> dict[str, Any]:
    arms = [arm_score for arm_score in groups.scored(records) if arm_score.params.get(name) is not None]
    values = [arm_score.params[name] for arm_score in arms]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "arms as measured, whatever else they differ in",
        "x": [as_markup(formats.value(value)) for value in values] if is_choice else plain(values),
        "y": plain(arm_score.score for arm_score in arms),
        "marker": {"color": QUIET, "size": 6, "opacity": 0.5},
        **points("arms", [arm_score.arm for arm_score in arms]),
    }


def _band(curve: Curve, values: list[Any]) -> list[dict[str, Any]]:
    colour, band = GROUP_COLOURS[0], curve.band
    common = {"type": "scatter", "mode": "lines", "name": "predicted, with its 95 % band", "legendgroup": "predicted"}
    area = {
        "x": plain([*values, *reversed(values)]),
        "y": plain([*map(float, band.high), *map(float, band.low[::-1])]),
        "fill": "toself",
        "fillcolor": colour,
        "line": {"width": 0, "color": colour},
        "opacity": 0.14,
        "showlegend": False,
        "hoverinfo": "skip",
    }
    line = {"x": plain(values), "y": plain(map(float, band.value)), "line": {"color": colour, "width": 2}}
    return [common | area, common | line]


def _bars(curve: Curve, values: list[Any]) -> list[dict[str, Any]]:
    colour, band = GROUP_COLOURS[0], curve.band
    bars = {"type": "data", "symmetric": False, "color": colour, "thickness": 1.3, "width": 3}
    bars |= {"array": plain(map(float, band.high - band.value)), "arrayminus": plain(map(float, band.value - band.low))}
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "predicted, with its 95 % interval",
            "x": values,
            "y": plain(map(float, band.value)),
            "error_y": bars,
            "marker": {"color": colour, "size": 9, "symbol": "square"},
        }
    ]
