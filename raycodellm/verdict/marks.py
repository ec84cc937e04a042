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
    metrics = list(dict.fromkeys(one["metric"] for one in verdicts))
    names = list(dict.fromkeys(name for one in verdicts for name in one["params"]))
    by_arm: dict[int, dict[str, Mapping[str, Any]]] = {}
    for one in verdicts:
        by_arm.setdefault(one["arm"], {})[one["metric"]] = one
    rows = []
    for arm, found in by_arm.items():
        params = next(iter(found.values()))["params"]
        scores = {name: marked(one["score"], one["verdict"]) for name, one in found.items()}
        rows.append(
            (
                Cell(str(arm), arm),
                *(cells.value(params.get(name)) for name in names),
                *(scores.get(name, formats.NOTHING) for name in metrics),
                cells.whole(max(one["seeds"] for one in found.values())),
            )
        )
    return Table(("arm", *names, *metrics, "seeds"), rows)


def marked(score: float | None, word: str) -> Cell:
    """A score with the mark of its verdict."""
    return Cell(formats.score(score) + MARKS[word], score, word.replace(" ", "-"))
