"""The trials as a table, one row per trial: `trials.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raycodellm.known_trials import open_trials
from raycodellm.records import ENDED, TrialResult

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_ROWS = 500
"""Rows that are made at once: each is a mapping of hundreds of columns."""


class GrowingTable:
    """Makes the table again and again while trials begin and end. The row of a trial that has ended is made once."""

    def __init__(self) -> None:
        self._in_table: dict[int, TrialResult] = {}
        """The trials that have ended and have their row in `_ended`."""
        self._ended: list[pa.Table] = []
        """At most one table: the rows of the trials `_in_table`, in the order in which they ended."""

    def of(self, results: Sequence[TrialResult]) -> pa.Table:
        """The table of these trials, in their order: a row for each, a column for whatever one of them has."""
        import pyarrow as pa

        try:
            return self._joined(results)
        except (pa.ArrowException, TypeError):  # values of several types in a column, which are then written as text
            self._in_table, self._ended = {}, []
            return table_of([result.row() for result in results])

    def _joined(self, results: Sequence[TrialResult]) -> pa.Table:
        new_results = [
            trial for trial in results if trial.state in ENDED and self._in_table.get(trial.number) is not trial
        ]
        if any(trial.number in self._in_table for trial in new_results):  # an ended trial has another result now
            self._in_table, self._ended = {}, []
            new_results = [trial for trial in results if trial.state in ENDED]
        batches = [new_results[start : start + _MOST_ROWS] for start in range(0, len(new_results), _MOST_ROWS)]
        for batch in batches:
            self._ended = [_concatenated([*self._ended, table_of([result.row() for result in batch])])]
            self._in_table |= {result.number: result for result in batch}
        open_rows = [result.row() for result in open_trials(results)]
        tables = [*self._ended, *([table_of(open_rows)] if open_rows else [])]
        numbers = [*self._in_table, *(row["number"] for row in open_rows)]
        table = _concatenated(tables)
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        return table if order == list(range(len(numbers))) else table.take(order)


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all tables. Raises `pa.ArrowException` where a column's types do not fit each other."""
    import pyarrow as pa

    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The rows as a table that has every row's columns."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """A column of the table. A parameter whose options are of several types is written as text."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
