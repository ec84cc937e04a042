"""Reads sources in Ray Data tasks; the only door of this folder to Ray Data.

Skips travel as rows with the documents, so that each is counted exactly once whatever Ray runs again.
"""

from __future__ import annotations

import itertools
import json
import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from raycodellm.config import Source
from raycodellm.corpora.cleaning.decision import Decision, SurveyResult, cleaned, decide
from raycodellm.corpora.cleaning.plan import CleaningPlan
from raycodellm.corpora.cleaning.survey import DocumentStats, survey
from raycodellm.corpora.documents import Document, Skip
from raycodellm.corpora.inputs import SourceInputs
from raycodellm.corpora.parts import MIB, Part
from raycodellm.corpora.reading import READ_BYTES, plan_parts, read_in_process, read_part

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

TABLE_BYTES = 2 * MIB
"""Bytes of text per Arrow table that a read task hands on, about."""
Keep = Callable[[Document], bool]
"""True for a document to read."""


def quiet_ray_data() -> None:
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
    documents read so far. The second reading is `read_documents` with the decision, or `cleaned`.
    """
    with SurveyResult() as result:
        for unit, first, stats in _survey(plan, inputs, num_tasks):
            result.add(unit, first, stats)
            if watch:
                watch(result.num_documents)
        return decide(plan, result, num_tasks)


def _survey(
    plan: CleaningPlan, inputs: SourceInputs, num_tasks: int | None
) -> Iterator[tuple[int, int, DocumentStats]]:
    """(unit, number of the first document in the unit, statistics of some documents)"""
    if num_tasks is None or inputs.is_builtin:
        first = 0
        for stats in survey(read_in_process(plan.source, inputs), plan):
            yield 0, first, stats
            first += len(stats.codes)
        return
    look = partial(_survey_unit, plan=plan, format=inputs.format)
    units = _unit_blocks(plan.source, inputs, num_tasks, None)
    for batch in units.map_batches(look, batch_format="pyarrow", batch_size=None).iter_batches(
        batch_size=None, batch_format="pyarrow"
    ):
        for row in batch.to_pylist():
            yield row["unit"], row["first"], pickle.loads(row["stats"])


def _survey_unit(batch: pa.Table, plan: CleaningPlan, format: str) -> Iterator[pa.Table]:
    import pyarrow as pa

    schema = pa.schema([("unit", pa.int64()), ("first", pa.int64()), ("stats", pa.large_binary())])
    for unit in batch.to_pylist():
        first = 0
        for stats in survey(_unit_rows(unit, plan.source, format), plan):
            row = {"unit": unit["unit"], "first": first, "stats": pickle.dumps(stats)}
            yield pa.Table.from_pylist([row], schema)
            first += len(stats.codes)
    yield schema.empty_table()


def _unit_blocks(source: Source, inputs: SourceInputs, num_tasks: int, decision: Decision | None) -> ray.data.Dataset:
    """A row per task (a unit): the parts that it reads and, with a decision, the codes of their documents."""
    import pyarrow as pa
    import ray.data

    part_bytes = max(MIB, min(READ_BYTES, inputs.num_bytes // max(1, num_tasks)))
    units = list(_units(plan_parts(source, inputs, part_bytes), part_bytes)) or [[]]
    # Excluded files go with the first unit, so that each file is counted once.
    excluded = [json.dumps(inputs.excluded)] + ["[]"] * (len(units) - 1)
    columns = {"unit": range(len(units)), "parts": [json.dumps(unit) for unit in units], "excluded": excluded}
    if decision:
        columns["codes"] = pa.array([decision.codes.get(unit, b"") for unit in range(len(units))], pa.large_binary())
    table = pa.table(columns)
    return ray.data.from_arrow([table.slice(i, 1) for i in range(len(units))])


def _unit_rows(unit: dict[str, Any], source: Source, format: str) -> Iterator[Document | Skip]:
    yield from itertools.starmap(Skip, json.loads(unit["excluded"]))
    for part in json.loads(unit["parts"]):
        yield from read_part(Part(*part), source, format)


def read_documents(
    source: Source,
    inputs: SourceInputs,
    num_tasks: int = 1,
    keep: Keep | None = None,
    decision: Decision | None = None,
) -> ray.data.Dataset:
    """The documents of a source as rows, in no promised order, read in at least `num_tasks` tasks if that pays.

    Columns: `document` (id) and `text`, or `prompt` and `response`; or instead of these `skipped` (reason), `count` and
    `num_bytes`. `keep` drops documents that are not counted; documents that `decision` leaves out are counted.
    """
    import ray.data

    if inputs.is_builtin:
        size = min(TABLE_BYTES, max(64_000, inputs.num_bytes // max(1, num_tasks)))
        rows: Iterable[Document | Skip] = read_in_process(source, inputs)
        if decision:
            rows = cleaned(rows, decision.codes.get(0, b""), decision.reasons)
        return ray.data.from_arrow(list(document_tables(_kept(rows, keep), source.is_instruct, size)))
    reasons = decision.reasons if decision else ()
    if decision and decision.num_tasks:
        num_tasks = decision.num_tasks  # the same units, even if the cluster has grown since
    read = partial(_read_units, source=source, format=inputs.format, keep=keep, reasons=reasons)
    blocks = _unit_blocks(source, inputs, num_tasks, decision)
    return blocks.map_batches(read, batch_format="pyarrow", batch_size=None)


def _units(parts: Iterable[Part], num_bytes: int) -> Iterator[list[Part]]:
    """Groups neighbouring parts, up to `num_bytes` or 1000 parts."""
    unit: list[Part] = []
    size = 0
    for part in parts:
        if unit and (size + part.stop - part.start > num_bytes or len(unit) >= 1000):
            yield unit
            unit, size = [], 0
        unit.append(part)
        size += part.stop - part.start
    if unit:
        yield unit


def _read_units(
    batch: pa.Table, source: Source, format: str, keep: Keep | None, reasons: tuple[str, ...]
) -> Iterator[pa.Table]:
    rows = itertools.chain.from_iterable(
        cleaned(_unit_rows(unit, source, format), unit["codes"], reasons)
        if "codes" in unit
        else _unit_rows(unit, source, format)
        for unit in batch.to_pylist()
    )
    yield from document_tables(_kept(rows, keep), source.is_instruct)


def _kept(rows: Iterable[Document | Skip], keep: Keep | None) -> Iterator[Document | Skip]:
    return (row for row in rows if isinstance(row, Skip) or keep is None or keep(row))


def document_tables(
    rows: Iterable[Document | Skip], instruct: bool, num_bytes: int = TABLE_BYTES
) -> Iterator[pa.Table]:
    """At least one Arrow table, each of about `num_bytes` of text; the last one holds the counts of skips."""
    documents: list[Document] = []
    skips: Counter[str] = Counter()
    skipped_bytes: Counter[str] = Counter()
    size = 0
    for row in rows:
        if isinstance(row, Skip):
            skips[row.reason] += row.count
            skipped_bytes[row.reason] += row.num_bytes
            continue
        documents.append(row)
        size += len(row.content)
        if size >= num_bytes:
            yield _table(documents, Counter(), Counter(), instruct)
            documents, size = [], 0
    yield _table(documents, skips, skipped_bytes, instruct)


def _table(documents: list[Document], skips: Counter[str], skipped_bytes: Counter[str], instruct: bool) -> pa.Table:
    import pyarrow as pa

    none, zeros = [None] * len(skips), [0] * len(documents)
    columns = {
        "document": pa.array([document.id for document in documents] + none, pa.string()),
        "prompt" if instruct else "text": pa.array([document.text for document in documents] + none, pa.string()),
        "skipped": pa.array([None] * len(documents) + sorted(skips), pa.string()),
        "count": pa.array(zeros + [skips[reason] for reason in sorted(skips)], pa.int64()),
        "num_bytes": pa.array(zeros + [skipped_bytes[reason] for reason in sorted(skips)], pa.int64()),
    }
    if instruct:
        columns["response"] = pa.array([document.response for document in documents] + none, pa.string())
    return pa.table(columns)
