"""The report's figures as Plotly's own JSON: traces and layout, made without importing the library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycodellm.report import text
from raycodellm.report.ranking import ArmScore

if TYPE_CHECKING:
    from raycodellm.report import Records

# Okabe and Ito's colours for groups of arms, Paul Tol's muted ones for sources: each told apart by colour-blind eyes,
# and one colour never means two things on a page.
GROUP_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GROUP_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down", "pentagon")
SOURCE_COLOURS = ("#332288", "#999933", "#882255", "#44AA99", "#CC6677", "#117733", "#AA4499", "#88CCEE", "#DDCC77")
_OTHER_ARMS = 12
"""Whose losses are drawn pale."""


@dataclass(frozen=True)
class Figure:
    name: str
    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    caption: str = ""


def _scored(records: Records) -> list[ArmScore]:
    return [one for one in records.scores if one.score is not None]


def _axes(records: Records) -> tuple[str | None, str | None]:
    """Names of the parameter along the axis (a code ratio, else the first searched one) and of the one that groups."""
    domains = records.file.domains
    ratios = [name for name in domains if name.endswith("code_ratio")]
    along = ratios[0] if ratios else next(iter(domains), None)
    choices = [name for name, domain in domains.items() if domain.kind == "choice" and name != along]
    near = [name for name in choices if along and name.rpartition(".")[0] == along.rpartition(".")[0]]
    by = next((name for name in near if name.endswith("schedule")), None) or next(iter(near or choices), None)
    return along, by


def _group(one: ArmScore, by: str | None) -> str:
    return _shown(text.value(one.params[by])) if by in one.params else "all arms"


def _styles(records: Records) -> dict[str, dict[str, Any]]:
    """Colour and symbol of each group of arms, in the order of the sweep file."""
    _, by = _axes(records)
    named = [_shown(text.value(option)) for option in records.file.domains[by].options] if by else []
    groups = list(dict.fromkeys([*named, *(_group(one, by) for one in records.scores)]))
    return {
        group: {
            "color": GROUP_COLOURS[place % len(GROUP_COLOURS)],
            "symbol": GROUP_SYMBOLS[place % len(GROUP_SYMBOLS)],
        }
        for place, group in enumerate(groups)
    }


def scores(records: Records) -> list[Figure]:
    """The first objective over the code ratio (or the first searched parameter), one colour per schedule."""
    along, by = _axes(records)
    found = [one for one in _scored(records) if along in one.params]
    if not found:
        return []
    objective = records.sweep.search.objectives[0]
    numeric = records.file.domains[along].kind != "choice"
    data = []
    for group, style in _styles(records).items():
        arms = sorted((one for one in found if _group(one, by) == group), key=lambda one: str(one.params[along]))
        if arms:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": group,
                    "x": [one.params[along] if numeric else _shown(text.value(one.params[along])) for one in arms],
                    "y": [one.score for one in arms],
                    "error_y": _error_bars(arms, style["color"]),
                    "marker": {**style, "size": 10, "line": {"color": "#fff", "width": 1}},
                    "text": [_hover(one, objective.metric) for one in arms],
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": f"{along} (share of tokens)" if along.endswith("code_ratio") else along}},
        "yaxis": {"title": {"text": _shown(text.better(objective))}},
        "showlegend": len(data) > 1,
    }
    if records.file.domains[along].kind == "loguniform":
        layout["xaxis"]["type"] = "log"
    elif numeric:
        low, high = records.file.domains[along].low, records.file.domains[along].high
        layout["xaxis"]["range"] = [low - 0.04 * (high - low), high + 0.04 * (high - low)]
    else:
        layout["xaxis"]["type"] = "category"
    layout |= _marks(records, found[0], along, numeric)
    what = f", colour: {by}" if by and len(data) > 1 else ""
    bars = f"{text.interval_name(records.scores)}, of each score alone"
    return [Figure("scores", "", data, layout, f"One point per arm; bars: {bars}{what}.")]


def _error_bars(arms: Sequence[ArmScore], colour: str) -> dict[str, Any]:
    def reach(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "type": "data",
        "symmetric": False,
        "array": [reach(one.high - one.score) for one in arms],
        "arrayminus": [reach(one.score - one.low) for one in arms],
        "color": colour,
        "thickness": 1.3,
        "width": 3,
    }


def _hover(one: ArmScore, metric: str) -> str:
    lines = [
        f"arm {one.arm}: {metric} {text.score(one.score)} ({text.interval(one.low, one.high)})",
        *(f"{name} {text.value(value)}" for name, value in one.params.items()),
        f"accuracy {text.score(one.accuracy)}, chance {text.score(one.chance)}",
    ]
    return "<br>".join(map(_shown, lines))


def _shown(words: str) -> str:
    """Plotly takes some tags in its texts for what they mean; here they are shown."""
    return words.replace("&", "&amp;").replace("<", "&lt;")


def _marks(records: Records, best: ArmScore, along: str, numeric: bool) -> dict[str, Any]:
    """A word at the first arm, and a line at chance where the score is an accuracy."""
    x = best.params[along]
    notes = [
        {
            "x": (math.log10(x) if records.file.domains[along].kind == "loguniform" else x)
            if numeric
            else _shown(text.value(x)),
            "y": best.score,
            "text": f"{'best' if best.separable else 'first in rank'}: arm {best.arm}",
            "showarrow": True,
            "arrowhead": 0,
            "arrowcolor": "#5b6670",
            "ax": 34,
            "ay": 30 if records.sweep.search.objectives[0].mode == "min" else -30,
        }
    ]
    shapes = []
    if best.chance is not None and records.sweep.search.objectives[0].metric.endswith("/acc"):
        line = {"color": "#5b6670", "width": 1.2, "dash": "dot"}
        shapes.append(
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": best.chance, "y1": best.chance, "line": line}
        )
        notes.append(
            {
                "xref": "paper",
                "x": 1,
                "y": best.chance,
                "text": "guessing",
                "showarrow": False,
                "xanchor": "right",
                "yanchor": "top",
            }
        )
    return {"annotations": notes, "shapes": shapes}


def pareto(records: Records) -> list[Figure]:
    """The first two objectives against each other, where there are several."""
    objectives = records.sweep.search.objectives
    found = [one for one in _scored(records) if None not in one.scores]
    if len(objectives) < 2 or not found:
        return []
    data = []
    for front, colour, name in ((True, GROUP_COLOURS[0], "Pareto front"), (False, "#9aa5ae", "other arms")):
        arms = sorted((one for one in found if one.pareto == front), key=lambda one: one.scores)
        trace = {"type": "scatter", "name": name, "mode": "lines+markers" if front else "markers"}
        trace |= {"x": [one.scores[0] for one in arms], "y": [one.scores[1] for one in arms]}
        trace |= {
            "text": [_hover(one, objectives[0].metric) for one in arms],
            "hovertemplate": "%{text}<extra></extra>",
        }
        data.append(trace | {"marker": {"size": 9, "color": colour}, "line": {"color": colour, "width": 1}})
    layout = {
        "xaxis": {"title": {"text": _shown(text.better(objectives[0]))}},
        "yaxis": {"title": {"text": _shown(text.better(objectives[1]))}},
    }
    return [Figure("pareto", "Objectives against each other", data, layout)]


def code_ratios(records: Records) -> list[Figure]:
    """Planned and real code ratio along each stage, of the first arm of each group."""
    _, by = _axes(records)
    styles, figures = _styles(records), []
    best_of: dict[str, ArmScore] = {}
    for one in _scored(records):
        best_of.setdefault(_group(one, by), one)
    for place, stage in enumerate(records.sweep.stages):
        data, drawn = [], set()
        for group, one in best_of.items():
            key = next((k for k in records.stage_keys(one.trials[0]) if k.rpartition("-")[0] == stage.name), None)
            curve = records.curves(key) if key and key not in drawn else {}
            drawn.add(key)
            # With one kind alone there is nothing to mix.
            if any(0 < planned < 1 for planned in curve.get("code_ratio_scheduled", ())):
                data += _planned_and_real(curve, f"{group} (arm {one.arm})", styles[group]["color"])
        if data:
            layout = {
                "xaxis": {"title": {"text": f"tokens of stage {stage.name}"}, "rangemode": "tozero"},
                "yaxis": {"title": {"text": "code ratio (share of tokens)"}, "range": [-0.03, 1.03]},
            }
            figures.append(Figure(f"ratio{place}", f"Stage {stage.name}", data, layout))
    return figures


def _planned_and_real(curve: dict[str, list], name: str, colour: str) -> list[dict[str, Any]]:
    common = {"type": "scatter", "mode": "lines", "x": curve["tokens"], "legendgroup": name}
    return [
        common | {"name": name, "y": _plain(curve["code_ratio_window"]), "line": {"color": colour, "width": 2}},
        common
        | {
            "name": f"{name}, planned",
            "y": _plain(curve["code_ratio_scheduled"]),
            "line": {"color": colour, "width": 1.5, "dash": "dash"},
            "showlegend": False,
        },
    ]


def losses(records: Records) -> list[Figure]:
    """Loss per source along each stage: the first arm's in full colour, the others' pale."""
    colours = {name: SOURCE_COLOURS[place % len(SOURCE_COLOURS)] for place, name in enumerate(records.sweep.sources)}
    scored = _scored(records)
    ranked = [one.trials[0] for one in scored] or [row["number"] for row in records.rows]
    figures = []
    for place, stage in enumerate(records.sweep.stages):
        keys = [k for n in ranked for k in records.stage_keys(n) if k.rpartition("-")[0] == stage.name]
        keys = list(dict.fromkeys(keys))[: 1 + _OTHER_ARMS]
        data = []
        for key in reversed(keys):  # the best last, on top
            curve = records.curves(key)
            for name, colour in colours.items():
                if any(value is not None and math.isfinite(value) for value in curve.get(f"loss/{name}", ())):
                    best = key == keys[0]
                    data.append(
                        {
                            "type": "scatter",
                            "mode": "lines",
                            "name": name,
                            "x": curve["tokens"],
                            "y": _plain(curve[f"loss/{name}"]),
                            "line": {"color": colour, "width": 2.2 if best else 1},
                            "opacity": 1.0 if best else 0.22,
                            "showlegend": best,
                            "hoverinfo": "all" if best else "skip",
                        }
                    )
        if data:
            layout = {
                "xaxis": {"title": {"text": f"tokens of stage {stage.name}"}, "rangemode": "tozero"},
                "yaxis": {"title": {"text": "loss (nats per token)"}},
                "showlegend": True,
            }
            figures.append(Figure(f"loss{place}", f"Stage {stage.name}", data, layout))
    return figures


def _plain(values: Sequence[float | None]) -> list[float | None]:
    """JSON knows no NaN; Plotly draws a gap at null."""
    return [value if value is not None and math.isfinite(value) else None for value in values]
