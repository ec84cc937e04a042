"""The table of trials as displays show it: the newest ones, in the width that there is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table as RichTable
from rich.text import Text

from raycodellm.records import TrialResult
from raycodellm.tables import Table, fitted, trials_table
from raycodellm.tables.trials import score_columns

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
    shown = results if most is None else results[-most:]
    table = trials_table([result.row(score_columns(metrics)) for result in shown], metrics)
    return fitted(table, width, _DISPENSABLE), len(results) - len(shown)


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
