"""The trials' scores in the order in which they were suggested, and against what the trials cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raycodellm.report.answer import metric_in_words
from raycodellm.report.figures import groups
from raycodellm.report.figures.figure import QUIET, Figure, legend, plain, points, title
from raycodellm.report.records import Records
from raycodellm.tables.trials import Row, is_present, metric_of

_SECONDS_PER_HOUR = 3600.0


def order(records: Records) -> list[Figure]:
    """Each complete trial's score over its number, the best until then, and the failed trials."""
    objective = records.sweep.search.objectives[0]
    rows = sorted(_complete(records), key=lambda row: row["number"])
    if not rows:
        return []
    pick = min if objective.mode == "min" else max
    best: list[float] = []
    for row in rows:
        score = metric_of(row, objective.metric) or 0.0
        best.append(pick(best[-1], score) if best else score)
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "best until then",
        "x": [row["number"] for row in rows],
        "y": plain(best),
        "line": {"shape": "hv", "color": QUIET, "width": 1.5},
        "hoverinfo": "skip",
    }
    data = [line, *_scatter(records, rows, lambda row: row["number"])]
    failed = [row["number"] for row in records.rows if row["state"] == "failed"]
    if failed:
        crosses = {"type": "scatter", "mode": "markers", "name": "failed", "x": failed, "y": [0.02] * len(failed)}
        data.append(
            {
                **crosses,
                "yaxis": "y2",
                "marker": {"symbol": "x-thin", "size": 9, "line": {"color": "--bad", "width": 2}},
            }
            | points("trials", failed)
        )
    layout = {
        "xaxis": {"title": title("trial, in the order in which the trials began")},
        "yaxis": {"title": title(metric_in_words(objective))},
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        **legend(groups.grouping_of_trials(records)),
    }
    return [Figure("order", "", data, layout)]


def costs(records: Records) -> list[Figure]:
    """Each complete trial's score over its trained tokens, and over its device hours, if these differ."""
    objective = records.sweep.search.objectives[0]
    figures = []
    for name, column, unit, words in (
        ("tokens", "tokens.total", 1.0, "tokens trained along the trial's stages"),
        ("hours", "device_seconds", _SECONDS_PER_HOUR, "device hours of the trial's stages and evaluation"),
    ):
        rows = [row for row in _complete(records) if is_present(row.get(column)) and row[column]]
        if len({row[column] for row in rows}) < 2:
            continue
        layout = {
            "xaxis": {"title": title(words), "rangemode": "normal"},
            "yaxis": {"title": title(metric_in_words(objective))},
            **legend(groups.grouping_of_trials(records)),
        }
        data = _scatter(records, rows, lambda row, column=column, unit=unit: row[column] / unit)  # type: ignore[misc]
        figures.append(Figure(f"cost-{name}", "", data, layout))
    return figures


def _complete(records: Records) -> list[Row]:
    metric = records.sweep.search.objectives[0].metric
    return [row for row in records.rows if metric_of(row, metric) is not None]


def _scatter(records: Records, rows: list[Row], place: Callable[[Row], Any]) -> list[dict[str, Any]]:
    """One trace per group of arms: the trials' scores over `place`."""
    parameter = groups.grouping_of_trials(records)
    metric = records.sweep.search.objectives[0].metric
    traces = []
    for group, style in groups.styles(records, parameter).items():
        members = [row for row in rows if groups.group_of_row(row, parameter) == group]
        if members:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": group,
                    "x": plain(place(row) for row in members),
                    "y": plain(metric_of(row, metric) for row in members),
                    "marker": {**style, "size": 8, "line": {"color": "--paper", "width": 1}},
                    **points("trials", [row["number"] for row in members]),
                }
            )
    return traces
