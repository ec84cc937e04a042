"""Reads sources in Ray Data tasks; the only door of this folder to Ray Data.

Skips travel with the documents, so that each is counted exactly once whatever Ray runs again.
"""

from __future__ import annotations

import itertools
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from raycodellm.config import Source
from raycodellm.corpora.cleaning.decision import Decision, SurveyResult, cleaned, decide
from raycodellm.corpora.cleaning.plan import CleaningPlan
from raycodellm.corpora.cleaning.survey import DocumentStats, survey
from raycodellm.corpora.documents import Document, Skip
from raycodellm.corpora.grouping import grouped
from raycodellm.corpora.inputs import MIB, Part, SourceInputs
from raycodellm.corpora.reading import READ_BYTES, plan_parts, read_in_process, read_part

if TYPE_CHECKING:
    import ray.data

PARTS_PER_TASK = 1000
ToTables = Callable[[int, Iterable[Document | Skip]], Iterator[pa.Table]]
"""(number of a unit, its documents and skips) -> at least one Arrow table, made inside a task."""


def _quiet_ray_data() -> None:
    """Turns off Ray Data's progress bars, execution logs and traces of errors that it raises anyway.

    raycodellm reports progress and errors itself. Other warnings, such as of a cluster without CPUs, stay.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in _LOUD:
        logging.getLogger(f"ray.data.{name}").setLevel(logging.CRITICAL)


_LOUD = (
    "exceptions",
    "_internal.progress",
    "_internal.execution.streaming_executor_state",
    "_internal.execution.operators.shuffle_operators.shuffle_reduce_operator",
)


def survey_documents(
    plan: CleaningPlan, inputs: SourceInputs, num_tasks: int | None, watch: Callable[[int], None] | None = None
) -> Decision:
    """Reads a source for the first time and decides which documents cleaning leaves out.

    Reads in `num_tasks` Ray Data tasks, or in this process if `num_tasks` is None. `watch` is called with the number of
    documents read so far. The second reading is `read_in_tasks` with the decision, or `cleaned`.
    """
    with SurveyResult() as result:
        for stats in _survey(plan, inputs, num_tasks):
            result.add(stats)
            if watch:
                watch(result.num_documents)
        return decide(plan, result, num_tasks)


def _survey(plan: CleaningPlan, inputs: SourceInputs, num_tasks: int | None) -> Iterator[DocumentStats]:
    if num_tasks is None:
        yield from survey(read_in_process(plan.source, inputs), plan)
        return
    dataset = read_in_tasks(plan.source, inputs, num_tasks, partial(_survey_tables, plan=plan))
    for batch in dataset.iter_batches(**_WHOLE_BLOCKS):
        yield from map(pickle.loads, batch["stats"].to_pylist())


def _survey_tables(unit: int, rows: Iterable[Document | Skip], plan: CleaningPlan) -> Iterator[pa.Table]:
    for stats in survey(rows, plan, unit):
        yield pa.table({"stats": pa.array([pickle.dumps(stats)], pa.large_binary())})
    yield pa.table({"stats": pa.array([], pa.large_binary())})


def read_in_tasks(
    source: Source, inputs: SourceInputs, num_tasks: int, to_tables: ToTables, decision: Decision | None = None
) -> ray.data.Dataset:
    """The tables that `to_tables` makes of a source, in no promised order, in at least `num_tasks` tasks if that pays.

    Documents that `decision` leaves out come as skips.
    """
    if decision and decision.num_tasks:
        num_tasks = decision.num_tasks  # the same units, even if the cluster has grown since
    reasons = decision.reasons if decision else None
    read_units = partial(_read_units, source=source, format=inputs.format, to_tables=to_tables, reasons=reasons)
    return _units(source, inputs, num_tasks, decision).map_batches(read_units, **_WHOLE_BLOCKS)


def _read_units(
    batch: pa.Table, source: Source, format: str, to_tables: ToTables, reasons: tuple[str, ...] | None
) -> Iterator[pa.Table]:
    for unit in map(pickle.loads, batch["unit"].to_pylist()):
        rows = _rows(unit, source, format)
        yield from to_tables(unit.number, rows if reasons is None else cleaned(rows, unit.codes, reasons))


# ------------------------------------------------------------------------------------------------------------- units

_WHOLE_BLOCKS: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}


class _Unit(NamedTuple):
    """The input of one task."""

    number: int
    parts: list[Part]
    excluded: tuple[tuple[str, int], ...]
    """Files that listing left out, in the first unit alone, so that each is counted once."""
    codes: bytes
    """The decisions about the documents of the parts."""


def _units(source: Source, inputs: SourceInputs, num_tasks: int, decision: Decision | None) -> ray.data.Dataset:
    """A block of one row, a pickled `_Unit`, per task."""
    import ray.data

    _quiet_ray_data()
    part_bytes = max(MIB, min(READ_BYTES, inputs.num_bytes // max(1, num_tasks)))
    parts = plan_parts(source, inputs, part_bytes)
    groups = list(grouped(parts, lambda part: part.stop - part.start, part_bytes, PARTS_PER_TASK)) or [[]]
    units = [
        _Unit(number, parts, () if number else inputs.excluded, decision.codes.get(number, b"") if decision else b"")
        for number, parts in enumerate(groups)
    ]
    return ray.data.from_arrow([pa.table({"unit": [pickle.dumps(unit)]}) for unit in units])


def _rows(unit: _Unit, source: Source, format: str) -> Iterator[Document | Skip]:
    yield from itertools.starmap(Skip, unit.excluded)
    for part in unit.parts:
        yield from read_part(part, source, format)
