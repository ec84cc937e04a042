"""The table of trials as displays show it: the newest ones, in the width that there is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table as RichTable
from rich.text import Text

from raycodellm.records import TrialResult
from raycodellm.tables import Table, trials_table

NEWEST = 10
"""Trials that are shown unless all are asked for."""
_DISPENSABLE = ("device time", "wall time", "tokens", "seed", "arm")
"""Columns that are left out where the width does not suffice, the first one first."""


def newest_trials(
    results: Sequence[TrialResult], metrics: Sequence[str], width: int, most: int | None = NEWEST
) -> tuple[Table, int]:
    """The `most` newest trials (None: all), and the number of older ones. `metrics`: of the objectives.

    Columns are left out until the table is at most `width` characters wide, but never a parameter or a metric.
    """
    shown = list(results) if most is None else list(results)[-most:]
    table = trials_table([result.row() for result in shown], metrics)
    for name in _DISPENSABLE:
        if _width(table) <= width:
            break
        table = _without(table, name)
    return table, len(results) - len(shown)


def _width(table: Table) -> int:
    """Characters of the rendered table: each column has a space on both sides."""
    lines = [table.header, *table.rows]
    return sum(2 + max(len(line[column]) for line in lines) for column in range(len(table.header)))


def _without(table: Table, name: str) -> Table:
    kept = [place for place, title in enumerate(table.header) if title != name]
    rows = [tuple(row[place] for place in kept) for row in table.rows]
    left = tuple(place for place, old in enumerate(kept) if old in table.left)
    return Table(tuple(table.header[place] for place in kept), rows, left, table.is_first_best)


def rich_table(table: Table) -> RichTable:
    """Renders a table for a terminal. Where the terminal is narrow, cells are broken into lines and never shortened."""
    rendered = RichTable(box=None, padding=(0, 1))
    for place, name in enumerate(table.header):
        rendered.add_column(name, overflow="fold", justify="left" if place in table.left else "right")
    for row in table.rows:
        rendered.add_row(*(Text(cell) for cell in row))
    return rendered


def older_line(num_older: int) -> str:
    return f"… {num_older} more"
