"""The table of trials, from rows of `trials.parquet`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from raycodellm.tables import cells
from raycodellm.tables.table import Table

Row = Mapping[str, Any]
"""A row of `trials.parquet`, or of `records.TrialResult.row()`."""


def trials_table(rows: Sequence[Row], metrics: Sequence[str]) -> Table:
    """One row per trial: its state, parameters, `metrics` (of complete trials alone), tokens and seconds."""
    names = list(dict.fromkeys(name for row in rows for name in params_of(row)))
    header = ("trial", "state", "arm", "seed", *names, *metrics, "tokens", "wall time", "device time")
    return Table(header, [_cells(row, names, metrics) for row in rows], left=(0, 1))


def _cells(row: Row, names: Sequence[str], metrics: Sequence[str]) -> tuple[str, ...]:
    params, tokens = params_of(row), row.get("tokens.total")
    return (
        trial_name(row["number"]),
        row["state"],
        str(row["arm"]),
        str(row["seed"]),
        *(cells.value(params.get(name)) for name in names),
        *(cells.score(metric_of(row, name)) for name in metrics),
        cells.count(tokens if is_present(tokens) else None),
        *(cells.seconds(row.get(name)) for name in ("wall_seconds", "device_seconds")),
    )


def trial_name(number: int) -> str:
    """The trial's number in four digits, which is also the name of its folder."""
    return f"{number:04d}"


def params_of(row: Row) -> dict[str, Any]:
    """Maps the parameters that the trial has to their values."""
    pairs = ((name, row[column]) for column, name in _param_columns(tuple(row)))
    return {name: value for name, value in pairs if is_present(value)}


@lru_cache(maxsize=256)
def _param_columns(columns: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The columns of parameters, each with the parameter's name. Kept, since a row has hundreds of columns."""
    return tuple((column, column.removeprefix("params.")) for column in columns if column.startswith("params."))


def score_columns(metrics: Iterable[str]) -> list[str]:
    """The metrics with the ends of their intervals: all that a table of trials needs of an evaluation's hundreds."""
    return [f"{name}{end}" for name in metrics for end in ("", "_low", "_high")]


def stages_of(row: Row) -> list[str]:
    """Keys of the trial's stages, in order."""
    stages = row.get("stages")
    return list(stages) if isinstance(stages, (list, tuple)) else []


def metric_of(row: Row, name: str) -> float | None:
    """The metric of a complete trial; None where it is missing or not finite, and for every other trial."""
    value = row.get(f"metrics.{name}") if row["state"] == "complete" else None
    return float(value) if value is not None and math.isfinite(value) else None


def is_present(value: Any) -> bool:
    """True if a cell of a table has a value: a column that a row lacks holds null or NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))
