"""The verdicts as a table of arms and metrics, each with its mark, from the content of `verdict.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycodellm.tables import Cell, Table, cells, formats

MARKS: dict[str, str] = {"better": " ▲", "worse": " ▼", "equal": " =", "not known": " ≈"}
"""The mark of each verdict."""
KEY = "▲ better, ▼ worse, = equal within the margin, ≈ not known"
"""The meaning of the marks."""


def marks(document: Mapping[str, Any]) -> Table:
    """One row per arm that has verdicts, one column per metric: the score with the verdict's mark."""
    verdicts = document["verdicts"]
    metrics = list(dict.fromkeys(verdict["metric"] for verdict in verdicts))
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict["params"]))
    by_arm: dict[int, dict[str, Mapping[str, Any]]] = {}
    for verdict in verdicts:
        by_arm.setdefault(verdict["arm"], {})[verdict["metric"]] = verdict
    rows = []
    for arm, by_metric in by_arm.items():
        params = next(iter(by_metric.values()))["params"]
        scores = {name: marked(verdict["score"], verdict["verdict"]) for name, verdict in by_metric.items()}
        rows.append(
            (
                Cell(str(arm), arm),
                *(cells.value(params.get(name)) for name in names),
                *(scores.get(name, formats.NOTHING) for name in metrics),
                cells.whole(max(verdict["seeds"] for verdict in by_metric.values())),
            )
        )
    return Table(("arm", *names, *metrics, "seeds"), rows)


def marked(score: float | None, word: str) -> Cell:
    """A score with the mark of its verdict."""
    return Cell(formats.score(score) + MARKS[word], score, word.replace(" ", "-"))
