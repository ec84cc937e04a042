"""The table of evaluated items, one row each: its columns, and the samples whose means are a model's scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

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
COLUMNS = {"acc": "correct", "bpb": "bits_per_byte"}
"""Score -> the column whose mean it is."""
_NAMED_TASKS = b"named_tasks"
"""Key of the table's metadata. A group's members are in no column: an item may belong to several groups."""

Item = tuple[str, int]
"""Task and number of an item."""
Sample = dict[Item, float]


def items_table(rows: Sequence[Mapping[str, Any]], named: Mapping[str, Sequence[str]]) -> pa.Table:
    """`named`: each task as the settings name it -> the tasks that it stands for, itself or a group's members."""
    columns = [{name: row.get(name) for name in ITEMS_SCHEMA.names} for row in rows]
    said = json.dumps({name: list(members) for name, members in named.items()})
    return pa.Table.from_pylist(columns, schema=ITEMS_SCHEMA.with_metadata({_NAMED_TASKS: said}))


def named_tasks(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """Task as the settings name it -> the tasks that it stands for. A table that does not say it has no groups."""
    said = (table.schema.metadata or {}).get(_NAMED_TASKS)
    if said is None:
        return {name: (name,) for name in dict.fromkeys(table.column("task").to_pylist())}
    return {name: tuple(members) for name, members in json.loads(said).items()}


def samples(table: pa.Table, metric: str) -> list[Sample]:
    """The scored items that `metric` is made of: it is the unweighted mean of the samples' means.

    `mean/bpb` has a sample per named task, a group's members in one; `boxes/bpb` has one. Empty for a metric that is no
    such mean, and for one that no item has.
    """
    task, _, score = metric.partition("/")
    if score not in COLUMNS:
        return []
    named = named_tasks(table)
    groups = list(named.values()) if task == "mean" else [named.get(task, (task,))]
    columns = [table.column(column).to_pylist() for column in ("task", "item", COLUMNS[score])]
    by_task: dict[str, Sample] = {}
    for of, item, value in zip(*columns, strict=True):
        if value is not None and math.isfinite(value):
            by_task.setdefault(of, {})[of, item] = float(value)
    found = [{key: value for one in group for key, value in by_task.get(one, {}).items()} for group in groups]
    return [sample for sample in found if sample]
