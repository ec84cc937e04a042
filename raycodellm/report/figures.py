"""The report's figures as Plotly's JSON: traces and layout, made without importing Plotly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.config import Domain
from raycodellm.report.answer import interval_name, metric_in_words
from raycodellm.report.ranking import ArmScore
from raycodellm.report.records import Records
from raycodellm.tables import formats

# Okabe and Ito's colours for groups of arms, Paul Tol's muted colours for sources: colour-blind readers can tell each
# set apart, and the two sets share no colour.
GROUP_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GROUP_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down", "pentagon")
SOURCE_COLOURS = ("#332288", "#999933", "#882255", "#44AA99", "#CC6677", "#117733", "#AA4499", "#88CCEE", "#DDCC77")
OTHER_ARMS = 12
"""Arms besides the first one whose losses are drawn, pale."""


@dataclass(frozen=True)
class Figure:
    """One plot."""

    name: str
    """Identifier of the plot in the page."""
    title: str
    data: list[dict[str, Any]]
    """Plotly's traces."""
    layout: dict[str, Any]
    """Plotly's layout."""
    caption: str = ""


@dataclass(frozen=True)
class _Axes:
    """The searched parameter along the x axis, and the one that groups the arms by colour."""

    along: str
    domain: Domain
    by: str | None

    @property
    def is_numeric(self) -> bool:
        return self.domain.kind != "choice"

    def place(self, one: ArmScore) -> Any:
        """The arm's place along the x axis."""
        return one.params[self.along] if self.is_numeric else _shown(formats.value(one.params[self.along]))


def _scored(records: Records) -> list[ArmScore]:
    return [one for one in records.scores if one.score is not None]


def _axes(records: Records) -> _Axes | None:
    """A code ratio is along the x axis, else the first searched parameter; None where nothing is searched."""
    domains = records.file.domains
    ratios = [name for name in domains if name.endswith("code_ratio")]
    along = ratios[0] if ratios else next(iter(domains), None)
    if along is None:
        return None
    choices = [name for name, domain in domains.items() if domain.kind == "choice" and name != along]
    near = [name for name in choices if name.rpartition(".")[0] == along.rpartition(".")[0]]
    by = next((name for name in near if name.endswith("schedule")), None) or next(iter(near or choices), None)
    return _Axes(along, domains[along], by)


def _group(one: ArmScore, axes: _Axes | None) -> str:
    by = axes.by if axes else None
    return _shown(formats.value(one.params[by])) if by is not None and by in one.params else "all arms"


def _styles(records: Records, axes: _Axes | None) -> dict[str, dict[str, Any]]:
    """Colour and symbol of each group of arms, in the order of the sweep file."""
    options = records.file.domains[axes.by].options if axes and axes.by else ()
    named = [_shown(formats.value(option)) for option in options]
    groups = list(dict.fromkeys([*named, *(_group(one, axes) for one in records.scores)]))
    return {
        group: {
            "color": GROUP_COLOURS[place % len(GROUP_COLOURS)],
            "symbol": GROUP_SYMBOLS[place % len(GROUP_SYMBOLS)],
        }
        for place, group in enumerate(groups)
    }


def scores(records: Records) -> list[Figure]:
    """The first objective over the code ratio (or the first searched parameter), one colour per schedule."""
    axes = _axes(records)
    arms = [one for one in _scored(records) if axes and axes.along in one.params]
    if not axes or not arms:
        return []
    objective = records.sweep.search.objectives[0]
    data = []
    for group, style in _styles(records, axes).items():
        members = sorted(
            (one for one in arms if _group(one, axes) == group), key=lambda one: str(one.params[axes.along])
        )
        if members:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": group,
                    "x": [axes.place(one) for one in members],
                    "y": [one.score for one in members],
                    "error_y": _error_bars(members, style["color"]),
                    "marker": {**style, "size": 10, "line": {"color": "#fff", "width": 1}},
                    "text": [_hover(one, objective.metric) for one in members],
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
    is_ratio = axes.along.endswith("code_ratio")
    layout: dict[str, Any] = {
        "xaxis": {
            "title": {"text": f"{axes.along} (share of tokens)" if is_ratio else axes.along},
            **_x_range(axes.domain),
        },
        "yaxis": {"title": {"text": _shown(metric_in_words(objective))}},
        "showlegend": len(data) > 1,
        **_marks(records, arms[0], axes),
    }
    colour = f", colour: {axes.by}" if axes.by and len(data) > 1 else ""
    bars = f"{interval_name(records.scores)}, of each score alone"
    return [Figure("scores", "", data, layout, f"One point per arm; bars: {bars}{colour}.")]


def _x_range(domain: Domain) -> dict[str, Any]:
    if domain.kind == "loguniform":
        return {"type": "log"}
    if domain.kind == "choice":
        return {"type": "category"}
    margin = 0.04 * (domain.high - domain.low)
    return {"range": [domain.low - margin, domain.high + margin]}


def _error_bars(arms: Sequence[ArmScore], colour: str) -> dict[str, Any]:
    def length(end: float, score: float | None) -> float | None:
        return abs(end - score) if score is not None and math.isfinite(end) else None

    return {
        "type": "data",
        "symmetric": False,
        "array": [length(one.high, one.score) for one in arms],
        "arrayminus": [length(one.low, one.score) for one in arms],
        "color": colour,
        "thickness": 1.3,
        "width": 3,
    }


def _hover(one: ArmScore, metric: str) -> str:
    lines = [
        f"arm {one.arm}: {metric} {formats.score(one.score)} ({formats.interval(one.low, one.high)})",
        *(f"{name} {formats.value(value)}" for name, value in one.params.items()),
        f"accuracy {formats.score(one.accuracy)}, chance {formats.score(one.chance)}",
    ]
    return "<br>".join(map(_shown, lines))


def _shown(text: str) -> str:
    """`text` as Plotly shows it: Plotly would take some tags in it for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


GREY = "#5b6670"


def _marks(records: Records, best: ArmScore, axes: _Axes) -> dict[str, Any]:
    """A label at the first arm, and a line at chance where the score is an accuracy."""
    objective = records.sweep.search.objectives[0]
    place = axes.place(best)
    label = {
        "x": math.log10(place) if axes.domain.kind == "loguniform" else place,
        "y": best.score,
        "text": f"{'best' if best.separable else 'first in rank'}: arm {best.arm}",
        "showarrow": True,
        "arrowhead": 0,
        "arrowcolor": GREY,
        "ax": 34,
        "ay": 30 if objective.mode == "min" else -30,
    }
    if best.chance is None or not objective.metric.endswith("/acc"):
        return {"annotations": [label], "shapes": []}
    line = {"color": GREY, "width": 1.2, "dash": "dot"}
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": best.chance, "y1": best.chance}
    corner = {"xref": "paper", "x": 1, "y": best.chance, "xanchor": "right", "yanchor": "top"}
    guessing = {**corner, "text": "guessing", "showarrow": False}
    return {"annotations": [label, guessing], "shapes": [{"type": "line", **ends, "line": line}]}


def pareto(records: Records) -> list[Figure]:
    """The first two objectives against each other, where there are several."""
    objectives = records.sweep.search.objectives
    found = [one for one in _scored(records) if None not in one.scores]
    if len(objectives) < 2 or not found:
        return []
    data = []
    for front, colour, name in ((True, GROUP_COLOURS[0], "Pareto front"), (False, "#9aa5ae", "other arms")):
        arms = sorted((one for one in found if one.pareto == front), key=lambda one: one.scores[0] or 0.0)
        data.append(
            {
                "type": "scatter",
                "name": name,
                "mode": "lines+markers" if front else "markers",
                "x": [one.scores[0] for one in arms],
                "y": [one.scores[1] for one in arms],
                "text": [_hover(one, objectives[0].metric) for one in arms],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"size": 9, "color": colour},
                "line": {"color": colour, "width": 1},
            }
        )
    layout = {
        "xaxis": {"title": {"text": _shown(metric_in_words(objectives[0]))}},
        "yaxis": {"title": {"text": _shown(metric_in_words(objectives[1]))}},
    }
    return [Figure("pareto", "Objectives against each other", data, layout)]


def code_ratios(records: Records) -> list[Figure]:
    """Planned and real code ratio along each stage, of the first arm of each group."""
    axes = _axes(records)
    styles = _styles(records, axes)
    figures: list[Figure] = []
    best_of: dict[str, ArmScore] = {}
    for one in _scored(records):
        best_of.setdefault(_group(one, axes), one)
    for place, stage in enumerate(records.sweep.stages):
        data: list[dict[str, Any]] = []
        drawn: set[str | None] = set()
        for group, one in best_of.items():
            key = next(iter(_keys_of_stage(records, one.trials[0], stage.name)), None)
            curve = records.curves(key) if key and key not in drawn else {}
            drawn.add(key)
            # A stage that draws code alone, or no code, mixes nothing.
            if any(0 < planned < 1 for planned in curve.get("code_ratio_scheduled", ())):
                data += _planned_and_real(curve, f"{group} (arm {one.arm})", styles[group]["color"])
        if data:
            layout = {
                "xaxis": {"title": {"text": f"tokens of stage {stage.name}"}, "rangemode": "tozero"},
                "yaxis": {"title": {"text": "code ratio (share of tokens)"}, "range": [-0.03, 1.03]},
            }
            figures.append(Figure(f"ratio{place}", f"Stage {stage.name}", data, layout))
    return figures


def _planned_and_real(curve: dict[str, list[Any]], name: str, colour: str) -> list[dict[str, Any]]:
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
    scored = _scored(records)
    ranked = [one.trials[0] for one in scored] or [row["number"] for row in records.rows]
    figures = []
    for place, stage in enumerate(records.sweep.stages):
        keys = dict.fromkeys(key for trial in ranked for key in _keys_of_stage(records, trial, stage.name))
        shown = list(keys)[: 1 + OTHER_ARMS]
        data = [
            trace
            for key in reversed(shown)  # the first arm last, on top of the others
            for trace in _loss_traces(records, records.curves(key), is_first=key == shown[0])
        ]
        if data:
            layout = {
                "xaxis": {"title": {"text": f"tokens of stage {stage.name}"}, "rangemode": "tozero"},
                "yaxis": {"title": {"text": "loss (nats per token)"}},
                "showlegend": True,
            }
            figures.append(Figure(f"loss{place}", f"Stage {stage.name}", data, layout))
    return figures


def _loss_traces(records: Records, curve: dict[str, list[Any]], is_first: bool) -> list[dict[str, Any]]:
    """The losses of one stage, one trace per source that has a finite loss."""
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": curve["tokens"],
            "y": _plain(curve[f"loss/{name}"]),
            "line": {"color": SOURCE_COLOURS[place % len(SOURCE_COLOURS)], "width": 2.2 if is_first else 1},
            "opacity": 1.0 if is_first else 0.22,
            "showlegend": is_first,
            "hoverinfo": "all" if is_first else "skip",
        }
        for place, name in enumerate(records.sweep.sources)
        if any(value is not None and math.isfinite(value) for value in curve.get(f"loss/{name}", ()))
    ]


def _keys_of_stage(records: Records, trial: int, stage: str) -> list[str]:
    """Key of the trial's finished stage with this name; empty where the stage is not finished."""
    return [key for key in records.stage_keys(trial) if records.stages[key].name == stage]


def _plain(values: Sequence[float | None]) -> list[float | None]:
    """Replaces NaN and infinity, which JSON lacks, by null, where Plotly draws a gap."""
    return [value if value is not None and math.isfinite(value) else None for value in values]
