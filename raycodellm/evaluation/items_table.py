"""The table of evaluated items, one row each, and the samples of values whose means are a model's metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from raycodellm.evaluation.metrics import BY_NAME, MEAN
from raycodellm.statistics import Sample

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
        pa.field("attributes", pa.string(), nullable=False),  # JSON object; `part` is the item's part of the task
    ]
)
_NAMED_TASKS = b"named_tasks"
"""Key of the table's metadata that holds the groups' members: an item may belong to several groups."""


def items_table(rows: Sequence[Mapping[str, Any]], named: Mapping[str, Sequence[str]]) -> pa.Table:
    """The table of `rows`. `named` maps each task as the settings name it to the tasks that the name stands for."""
    columns = [{name: row.get(name) for name in ITEMS_SCHEMA.names} for row in rows]
    groups = json.dumps({name: list(members) for name, members in named.items()})
    return pa.Table.from_pylist(columns, schema=ITEMS_SCHEMA.with_metadata({_NAMED_TASKS: groups}))


def named_tasks(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """Maps each task as the settings named it to the tasks of that name; without metadata to the task itself."""
    groups = (table.schema.metadata or {}).get(_NAMED_TASKS)
    if groups is None:
        return {name: (name,) for name in dict.fromkeys(table.column("task").to_pylist())}
    return {name: tuple(members) for name, members in json.loads(groups).items()}


def samples(table: pa.Table, metric: str) -> list[Sample]:
    """The items' values, by (task, item number), of which `metric` is the unweighted mean of the samples' means.

    `mean/bpb` has one sample per named task or group, `boxes/bpb` one sample. Empty for a metric that is no such mean,
    and where no item has a value.
    """
    task, _, name = metric.partition("/")
    if name not in BY_NAME:
        return []
    named = named_tasks(table)
    groups = list(named.values()) if task == MEAN else [named.get(task, (task,))]
    by_task: dict[str, dict[tuple[str, int], float]] = {}
    value_of, names = BY_NAME[name].value, BY_NAME[name].columns
    columns = (table.column(column).to_pylist() for column in ("task", "item", *names))
    for task_, item, *values in zip(*columns, strict=True):
        value = value_of(dict(zip(names, values, strict=True)))
        if value is not None and math.isfinite(value):
            by_task.setdefault(task_, {})[task_, item] = float(value)
    found = [{key: value for one in group for key, value in by_task.get(one, {}).items()} for group in groups]
    return [sample for sample in found if sample]
