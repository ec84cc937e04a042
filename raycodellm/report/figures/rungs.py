"""The trials at the rungs of early stopping: which values went on, and which were stopped."""

from __future__ import annotations

from typing import Any

from raycodellm.report.figures.figure import QUIET, Figure, plain, points, title
from raycodellm.report.records import Records
from raycodellm.tables.trials import Row, is_present

_PREFIX = "rungs."


def rungs(records: Records) -> list[Figure]:
    """Each trial's held-out text over the rungs that it was compared at; a cross where it was stopped."""
    early = records.sweep.search.early_stopping
    compared = [row for row in records.rows if _values(row)]
    if early is None or not compared:
        return []
    data: list[dict[str, Any]] = []
    for row in compared:
        places, values = zip(*_values(row), strict=True)
        line = {"type": "scatter", "mode": "lines+markers", "x": plain(places), "y": plain(values)}
        style = {"line": {"color": QUIET, "width": 1}, "marker": {"color": QUIET, "size": 5}, "showlegend": False}
        data.append({**line, **style, **points("trials", [row["number"]] * len(values))})
    stopped = [row for row in compared if row["state"] == "pruned" and is_present(row.get("stopped.value"))]
    if stopped:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "stopped",
                "x": plain(100 * row["stopped.share"] for row in stopped),
                "y": plain(row["stopped.value"] for row in stopped),
                "marker": {"symbol": "x-thin", "size": 9, "line": {"color": "--bad", "width": 2}},
                **points("trials", [row["number"] for row in stopped]),
            }
        )
    layout = {
        "xaxis": {"title": title("share of the stage (%)")},
        "yaxis": {"title": title(f"{early.metric} (bits per byte, lower is better)")},
        "showlegend": bool(stopped),
    }
    return [Figure("rungs", "", data, layout)]


def _values(row: Row) -> list[tuple[float, float]]:
    """(share of the stage in percent, value) of each rung that the trial was compared at, in order."""
    rung_values = ((name.removeprefix(_PREFIX), value) for name, value in row.items() if name.startswith(_PREFIX))
    return sorted((100 * float(share), float(value)) for share, value in rung_values if is_present(value))
