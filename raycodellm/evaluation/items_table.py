"""The table of evaluated items, one row each, and the samples of values whose means are a model's metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raycodellm.evaluation.metrics import BY_NAME, MEAN
from raycodellm.statistics import Sample, TaskSample

ITEMS_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("item", pa.int64(), nullable=False),  # index in the task's evaluated split
        pa.field("doc_hash", pa.string(), nullable=False),  # as lm-eval's: equal for equal items
        pa.field("prediction", pa.string()),
        pa.field("gold", pa.string()),
        pa.field("correct", pa.bool_()),  # null: too long, or a task without right and wrong
        pa.field("chance", pa.float64()),  # accuracy of guessing
        pa.field("bits_per_byte", pa.float64()),  # -log2 p(gold | prompt) / UTF-8 bytes of gold
        pa.field("num_prompt_tokens", pa.int64()),
        pa.field("too_long", pa.bool_(), nullable=False),
        pa.field("attributes", pa.string(), nullable=False),  # JSON object; `part`: the item's part or parts
    ]
)
_NAMED_TASKS = b"named_tasks"
"""Key of the table's metadata that holds the groups' members: an item may belong to several groups."""


def items_table(rows: Sequence[Mapping[str, Any]], named: Mapping[str, Sequence[str]]) -> pa.Table:
    """The table of `rows`. `named` maps each task as the settings name it to the tasks that the name stands for."""
    columns = [{name: row.get(name) for name in ITEMS_SCHEMA.names} for row in rows]
    return joined([pa.Table.from_pylist(columns, schema=ITEMS_SCHEMA)], named)


def joined(tables: Sequence[pa.Table], named: Mapping[str, Sequence[str]]) -> pa.Table:
    """The rows of all tables, without the tables' own metadata, as one table with `named`."""
    groups = json.dumps({name: list(members) for name, members in named.items()})
    return pa.concat_tables(tables, promote_options="default").replace_schema_metadata({_NAMED_TASKS: groups})


def named_tasks(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """Maps each task as the settings named it to the tasks of that name; without metadata to the task itself."""
    groups = (table.schema.metadata or {}).get(_NAMED_TASKS)
    if groups is None:
        return {name: (name,) for name in dict.fromkeys(table.column("task").to_pylist())}
    return {name: tuple(members) for name, members in json.loads(groups).items()}


class Items:
    """A table of items, sorted by task once for all metrics of a kind."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._named = named_tasks(table)
        self._by_task: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
        """Maps the metric's name to each task's items with a value: their numbers, and the values."""

    def samples(self, metric: str) -> list[Sample]:
        """The items' values, by (task, item number), of which `metric` is the unweighted mean of the samples' means.

        `mean/bpb` has one sample per named task or group, `boxes/bpb` one sample. Empty for a metric that is no such
        mean, and where no item has a value.
        """
        task, _, name = metric.partition("/")
        if name not in BY_NAME:
            return []
        if name not in self._by_task:
            self._by_task[name] = self._sorted(name)
        known = self._by_task[name]
        groups = [*self._named.values()] if task == MEAN else [self._named.get(task, (task,))]
        found: list[Sample] = []
        for group in groups:
            members = [(one, *known[one]) for one in dict.fromkeys(group) if one in known]
            if members:
                numbers = np.concatenate([values for _, _, values in members])
                found.append(TaskSample([(one, items) for one, items, _ in members], numbers))
        return found

    def _sorted(self, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        names, value_of = BY_NAME[name].columns, BY_NAME[name].value
        rows = zip(*(self._table.column(column).to_pylist() for column in names), strict=True)
        found = (value_of(dict(zip(names, row, strict=True))) for row in rows)
        values = np.array([math.nan if value is None else float(value) for value in found])
        tasks = self._table.column("task").combine_chunks().dictionary_encode()
        codes, items = tasks.indices.to_numpy(), self._table.column("item").to_numpy()
        by_task = {}
        for code, task in enumerate(tasks.dictionary.to_pylist()):
            places = np.flatnonzero((codes == code) & np.isfinite(values))
            if len(places):
                by_task[task] = (items[places], values[places])
        return by_task


def samples(table: pa.Table, metric: str) -> list[Sample]:
    """See `Items.samples`, for a single metric of a table."""
    return Items(table).samples(metric)
