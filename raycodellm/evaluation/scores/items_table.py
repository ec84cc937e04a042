"""The table of evaluated items, one row each, and the samples of values whose means are a model's metrics."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycodellm.evaluation.scores.averages import Averages, members
from raycodellm.evaluation.scores.metrics import (
    AVERAGED,
    BY_NAME,
    CLUSTER,
    MEAN,
    Metric,
    by_cluster,
    cluster_of,
    metric_called,
    parts_of,
    pseudo_values,
    scores_of,
)
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
        pa.field("num_bytes", pa.int64()),  # UTF-8 bytes of gold, or of a whole text
        pa.field("num_prompt_tokens", pa.int64()),
        pa.field("too_long", pa.bool_(), nullable=False),
        pa.field("not_run", pa.bool_()),  # true: the sandbox or the machine failed, so the item is in no mean
        pa.field("contaminated", pa.bool_()),  # true: the item is in the training data; null: not looked for
        pa.field("scores", pa.map_(pa.string(), pa.float64())),  # the task's own scores of the item, by name
        pa.field("corpus_scores", pa.string()),  # JSON object: what the task's own aggregation over all items takes
        pa.field("attributes", pa.string(), nullable=False),  # JSON object; `part`: the item's part or parts
    ]
)
"""Columns of the table. Tables of older versions lack `num_bytes`, `not_run`, `contaminated`, `scores` and
`corpus_scores`."""
_NAMED_TASKS = b"named_tasks"
"""Key of the table's metadata that holds the groups' members: an item may belong to several groups."""


def items_table(rows: Sequence[Mapping[str, Any]], tasks_by_name: Mapping[str, Sequence[str]]) -> pa.Table:
    """The table of `rows`. `tasks_by_name` maps each task as the settings name it to the tasks that the name stands
    for."""
    columns = [
        {**{name: row.get(name) for name in ITEMS_SCHEMA.names}, "scores": [*scores_of(row).items()]} for row in rows
    ]
    return joined([pa.Table.from_pylist(columns, schema=ITEMS_SCHEMA)], tasks_by_name)


def joined(tables: Sequence[pa.Table], tasks_by_name: Mapping[str, Sequence[str]]) -> pa.Table:
    """The rows of all tables, without the tables' own metadata, as one table with `tasks_by_name`."""
    groups = json.dumps({name: list(members) for name, members in tasks_by_name.items()})
    return pa.concat_tables(tables, promote_options="default").replace_schema_metadata({_NAMED_TASKS: groups})


def named_tasks(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """Maps each task as the settings named it to the tasks of that name; without metadata to the task itself."""
    groups = (table.schema.metadata or {}).get(_NAMED_TASKS)
    if groups is None:
        return {name: (name,) for name in dict.fromkeys(table.column("task").to_pylist())}
    return {name: tuple(members) for name, members in json.loads(groups).items()}


_Values = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Numbers of the items of a task that have a value, the values, and their weights; or of a task's clusters of items."""


_ALONE = -1
"""The cluster's number of an item whose task has no clusters."""


class Items:
    """A table of items, sorted by task once for all metrics of a kind."""

    def __init__(self, table: pa.Table, averages: Averages | None = None) -> None:
        """`averages`: the suites' averages, whose samples `samples` gives as well."""
        self._table, self._averages = table, averages or {}
        self._named = named_tasks(table)
        self._values_by_name: dict[str, dict[str, _Values]] = {}
        """Maps the metric's name, with a part's, to the values of each task."""
        self._parts: list[tuple[str, ...]] | None = None
        self._cluster_numbers: np.ndarray | None = None

    def samples(self, metric: str) -> list[Sample]:
        """The items' values, by (task, item number), of which `metric` is the unweighted mean of the samples' means.

        Items of a cluster are not independent: a task whose items are in clusters has one value for each of these, by
        (task, cluster's number).

        `mean/bpb` has one sample per named task or group, the average of a suite one per task, `boxes/bpb` and
        `boxes/acc_nontrivial` one sample. Empty for a metric that is no such mean, and where no item has a value.
        """
        if metric in self._averages:
            samples_by_task = [self._first_samples(names) for names in members(metric, self._averages[metric])]
            return list(itertools.chain(*samples_by_task)) if all(samples_by_task) else []
        task, _, name = metric.rpartition("/")
        if task == MEAN and BY_NAME.get(name) not in AVERAGED:
            return []
        if name not in self._values_by_name:
            self._values_by_name[name] = self._values_of_name(name)
        values_by_task = self._values_by_name[name]
        groups = [*self._named.values()] if task == MEAN else [self._named.get(task, (task,))]
        samples: list[Sample] = []
        for group in groups:
            parts = [(member, *values_by_task[member]) for member in dict.fromkeys(group) if member in values_by_task]
            if parts:
                values, weights = (np.concatenate([part[column] for part in parts]) for column in (2, 3))
                sample_values = pseudo_values(values, weights)
                samples.append(TaskSample([(member, items) for member, items, _, _ in parts], sample_values))
        return samples

    def _first_samples(self, names: Sequence[str]) -> list[Sample]:
        """The samples of the first of the metrics that has any."""
        return next((task_samples for name in names if (task_samples := self.samples(name))), [])

    def metric_names(self) -> list[str]:
        """The names, behind a task's, of all metrics that some task may have: `METRICS`, the items' own scores, and the
        accuracy in each part."""
        has_scores = "scores" in self._table.column_names
        rows = self._table.column("scores").to_pylist() if has_scores else []
        score_names = dict.fromkeys(name for scores in rows for name, _ in scores or ())
        parts = sorted({part for item_parts in self._item_parts() for part in item_parts})
        return [*dict.fromkeys([*BY_NAME, *score_names]), *(f"acc_{part}" for part in parts)]

    def _values_of_name(self, name: str) -> dict[str, _Values]:
        """The values of a metric, or of a metric in one part of the tasks: the longest name of a part wins."""
        values_by_task = self._values_of_metric(metric_called(name), None)
        if values_by_task or "_" not in name:
            return values_by_task
        parts = sorted({part for item_parts in self._item_parts() for part in item_parts}, key=len, reverse=True)
        part = next((part for part in parts if name.endswith(f"_{part}")), None)
        return {} if part is None else self._values_of_metric(metric_called(name.removesuffix(f"_{part}")), part)

    def _item_parts(self) -> list[tuple[str, ...]]:
        if self._parts is None:
            self._parts = [parts_of({"attributes": text}) for text in self._attributes()]
        return self._parts

    def _values_of_metric(self, metric: Metric, part: str | None) -> dict[str, _Values]:
        values, weights = self._column_values(metric) or self._row_values(metric)
        has_value = np.isfinite(values)
        if part is not None:
            has_value &= np.array([part in item_parts for item_parts in self._item_parts()], dtype=bool)
        tasks = self._table.column("task").combine_chunks().dictionary_encode()
        codes, items = tasks.indices.to_numpy(), self._table.column("item").to_numpy()
        by_task = {}
        for code, task in enumerate(tasks.dictionary.to_pylist()):
            indices = np.flatnonzero((codes == code) & has_value)
            if not len(indices):
                continue
            by_task[task] = (items[indices], values[indices], weights[indices])
            clusters = self._clusters()[indices]
            if (clusters != _ALONE).all():
                numbers, means, sums = by_cluster(values[indices], weights[indices], clusters)
                by_task[task] = (numbers, means, sums)
        return by_task

    def _column_values(self, metric: Metric) -> tuple[np.ndarray, np.ndarray] | None:
        """The items' values, NaN where they have none, and weights, from a column alone: a sweep has a thousand times
        as many items as a model. None where the rows are needed."""
        if metric.column is None or metric.column not in self._table.column_names:
            return None
        column = self._table.column(metric.column)
        if metric.is_elsewhere and column.null_count:
            return None
        values = column.cast(pa.float64()).to_numpy().copy()
        if "not_run" in self._table.column_names:
            values[self._table.column("not_run").fill_null(False).to_numpy()] = math.nan
        return values, np.ones(len(values))

    def _row_values(self, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
        """The items' values, NaN where they have none, and weights, from their rows."""
        rows = self._rows(metric.columns)
        item_values = [metric.value(row) for row in rows]
        values = np.array([math.nan if value is None else float(value) for value in item_values])
        has_value = np.isfinite(values)
        return values, np.array(
            [metric.weight(row) if is_valued else 1.0 for row, is_valued in zip(rows, has_value, strict=True)]
        )

    def _clusters(self) -> np.ndarray:
        """The number of each item's cluster. An item that stands alone has a negative number of its own in a task that
        has clusters, else `_ALONE`."""
        if self._cluster_numbers is None and not self._may_have_clusters():
            self._cluster_numbers = np.full(self._table.num_rows, _ALONE)
        if self._cluster_numbers is None:
            clusters = [cluster_of({"attributes": text}) for text in self._attributes()]
            tasks, items = (self._table.column(name).to_pylist() for name in ("task", "item"))
            clustered_tasks = {task for task, cluster in zip(tasks, clusters, strict=True) if cluster is not None}
            numbers = [
                cluster if cluster is not None else _ALONE - 1 - item if task in clustered_tasks else _ALONE
                for cluster, task, item in zip(clusters, tasks, items, strict=True)
            ]
            self._cluster_numbers = np.array(numbers, dtype=np.int64)
        return self._cluster_numbers

    def _may_have_clusters(self) -> bool:
        """False where no item's attributes have the word of `CLUSTER`."""
        if "attributes" not in self._table.column_names:
            return False
        return bool(pc.any(pc.match_substring(self._table.column("attributes"), CLUSTER)).as_py())

    def _attributes(self) -> list[str | None]:
        has_attributes = "attributes" in self._table.column_names
        return self._table.column("attributes").to_pylist() if has_attributes else [None] * self._table.num_rows

    def _rows(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The items' values in the columns; a column that the table lacks is left out, and an item that was not run has
        no values."""
        names = [name for name in (*columns, "not_run") if name in self._table.column_names]
        cells = (self._table.column(name).to_pylist() for name in names)
        rows = [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]
        rows = rows or [{} for _ in range(self._table.num_rows)]
        return [{} if row.get("not_run") else row for row in rows]


def samples(table: pa.Table, metric: str) -> list[Sample]:
    """`Items.samples` for a single metric of a table."""
    return Items(table).samples(metric)
