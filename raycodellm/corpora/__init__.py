"""Source files become documents; the only door to reading with Ray Data.

`source_fingerprint` finds the files of a source. `read_documents` reads them in Ray Data, piece by piece, with the
pure `read_part`; `sample_texts` reads a few pieces here. What could not be read is counted by reason: the counts travel
with the rows, so that each skip is counted exactly once whatever Ray retries.
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
from raycodellm.corpora.cleaning import (
    CleaningPlan,
    Decision,
    DocumentStats,
    SurveyResult,
    cleaned,
    cleaning_identity,
    decide,
    survey,
)
from raycodellm.corpora.contamination import Benchmark, benchmark_of, unfound
from raycodellm.corpora.finding import (
    BUILTINS,
    InputFile,
    SourceInputs,
    builtin_digest,
    builtin_digests,
    source_fingerprint,
)
from raycodellm.corpora.reading import (
    MIB,
    Document,
    Part,
    Skip,
    builtin_documents,
    columns_found,
    document_key,
    extra_columns,
    is_read_whole,
    plan_parts,
    read_part,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

__all__ = [
    "BUILTINS",
    "Benchmark",
    "CleaningPlan",
    "Decision",
    "Document",
    "InputFile",
    "Part",
    "Skip",
    "SourceInputs",
    "benchmark_of",
    "builtin_digest",
    "builtin_digests",
    "builtin_documents",
    "cleaned",
    "cleaning_identity",
    "columns_found",
    "document_bytes",
    "document_key",
    "extra_columns",
    "plan_parts",
    "quiet_ray_data",
    "read_documents",
    "read_here",
    "read_part",
    "sample_texts",
    "source_fingerprint",
    "survey_documents",
    "tables",
    "unfound",
]

READ_BYTES = 32 * MIB
"""Of files per read task, at most; large files are cut, small ones go together."""
TABLE_BYTES = 2 * MIB
"""Of text per Arrow table that a read task hands on."""
Keep = Callable[[Document], bool]
"""Which documents to take."""


def quiet_ray_data() -> None:
    """Ray Data draws progress bars, logs each execution and prints an error's trace before it raises the error:
    raycodellm reports progress and errors itself. What else it warns of, such as a cluster without CPUs, stays."""
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
    """What the source's cleaning leaves out: its first reading, in this process where `num_tasks` is None.

    `read_documents` with the decision, or `cleaned` over `read_here`, is the second reading.
    `watch` is told the number of documents that were looked at.
    """
    with SurveyResult() as gathered:
        for unit, first, chunk in _surveyed(plan, inputs, num_tasks):
            gathered.add(unit, first, chunk)
            if watch:
                watch(gathered.num_documents)
        return decide(plan, gathered, num_tasks)


def _surveyed(
    plan: CleaningPlan, inputs: SourceInputs, num_tasks: int | None
) -> Iterator[tuple[int, int, DocumentStats]]:
    """(unit, number of its first document in the unit, chunk)"""
    if num_tasks is None or inputs.format == "builtin":
        first = 0
        for chunk in survey(read_here(plan.source, inputs), plan):
            yield 0, first, chunk
            first += len(chunk.codes)
        return
    look = partial(_survey_unit, plan=plan, format=inputs.format)
    units = _unit_blocks(plan.source, inputs, num_tasks, None)
    for batch in units.map_batches(look, batch_format="pyarrow", batch_size=None).iter_batches(
        batch_size=None, batch_format="pyarrow"
    ):
        for row in batch.to_pylist():
            yield row["unit"], row["first"], pickle.loads(row["chunk"])


def _survey_unit(batch: pa.Table, plan: CleaningPlan, format: str) -> Iterator[pa.Table]:
    import pyarrow as pa

    schema = pa.schema([("unit", pa.int64()), ("first", pa.int64()), ("chunk", pa.large_binary())])
    for unit in batch.to_pylist():
        first = 0
        for chunk in survey(_unit_rows(unit, plan.source, format), plan):
            row = {"unit": unit["unit"], "first": first, "chunk": pickle.dumps(chunk)}
            yield pa.Table.from_pylist([row], schema)
            first += len(chunk.codes)
    yield schema.empty_table()


def _unit_blocks(source: Source, inputs: SourceInputs, num_tasks: int, decision: Decision | None) -> ray.data.Dataset:
    """A row per task: the parts that it reads, and of a decision the codes of the documents in them."""
    import pyarrow as pa
    import ray.data

    part_bytes = max(MIB, min(READ_BYTES, inputs.num_bytes // max(1, num_tasks)))
    units = list(_units(plan_parts(source, inputs, part_bytes), part_bytes)) or [[]]
    excluded = [json.dumps(inputs.excluded)] + ["[]"] * (len(units) - 1)  # with the first, so that it is counted once
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
    """Rows `document` (id), `text` or `prompt` and `response`, in no promised order; and rows with `skipped` (reason)
    and `count` instead. `keep` drops documents before they become rows; what a `decision` drops is counted with its
    bytes. At least `num_tasks` tasks where it pays.
    """
    import ray.data

    if inputs.format == "builtin":
        size = min(TABLE_BYTES, max(64_000, inputs.num_bytes // max(1, num_tasks)))
        rows = read_here(source, inputs)
        if decision:
            rows = cleaned(rows, decision.codes.get(0, b""), decision.reasons)
        return ray.data.from_arrow(list(tables(_kept(rows, keep), source.is_instruct, size)))
    reasons = decision.reasons if decision else ()
    if decision and decision.num_tasks:
        num_tasks = decision.num_tasks  # the same cut, should the cluster have grown in between
    read = partial(_read_units, source=source, format=inputs.format, keep=keep, reasons=reasons)
    blocks = _unit_blocks(source, inputs, num_tasks, decision)
    return blocks.map_batches(read, batch_format="pyarrow", batch_size=None)


def read_here(source: Source, inputs: SourceInputs) -> Iterator[Document | Skip]:
    """What `read_documents` reads, in order and in this process; pairs as one text for a plain kind."""
    if inputs.format == "builtin":
        for document in builtin_documents(inputs.files[0].name, inputs.seed):
            whole = document.response is None or source.is_instruct
            yield document if whole else Document(document.id, document.content)
        return
    yield from itertools.starmap(Skip, inputs.excluded)
    for part in plan_parts(source, inputs, READ_BYTES):
        yield from read_part(part, source, inputs.format)


def _units(parts: Iterable[Part], num_bytes: int) -> Iterator[list[Part]]:
    """Neighbouring parts together, up to `num_bytes` or 1000 files."""
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
    yield from tables(_kept(rows, keep), source.is_instruct)


def _kept(rows: Iterable[Document | Skip], keep: Keep | None) -> Iterator[Document | Skip]:
    return (row for row in rows if isinstance(row, Skip) or keep is None or keep(row))


def tables(rows: Iterable[Document | Skip], instruct: bool, num_bytes: int = TABLE_BYTES) -> Iterator[pa.Table]:
    """Arrow tables of about `num_bytes` of text, skips counted in the last; one at least."""
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


def sample_texts(
    sources: Iterable[tuple[Source, SourceInputs]], num_bytes: int, seed: int, chunk_bytes: int = 128 << 10
) -> Iterator[str]:
    """About `num_bytes` of UTF-8 text, equal shares of all sources: a small source gives all it has, the others more.

    Drawn from ranges all over the files, in an order given by the seed; prompts and responses together.
    """
    left = num_bytes
    ordered = sorted(sources, key=lambda item: (item[1].num_bytes, item[1].fingerprint))
    for rank, (source, inputs) in enumerate(ordered):
        budget = left // (len(ordered) - rank)
        for text in _sample(source, inputs, budget, seed, chunk_bytes):
            left -= len(text.encode())
            yield text


def _sample(source: Source, inputs: SourceInputs, budget: int, seed: int, chunk_bytes: int) -> Iterator[str]:
    for document in _draw(source, inputs, budget, seed, chunk_bytes):
        size = len(document.content.encode())
        if size > budget:  # a document larger than what is left ends the sample, cut
            yield document.content.encode()[:budget].decode(errors="ignore")
            return
        budget -= size
        yield document.content


def _draw(source: Source, inputs: SourceInputs, budget: int, seed: int, chunk_bytes: int) -> Iterator[Document]:
    if inputs.format == "builtin":
        yield from sorted(read_here(source, inputs), key=partial(document_key, seed))
        return
    size = READ_BYTES if inputs.format == "parquet" else max(chunk_bytes, inputs.num_bytes // 4096)
    parts = [
        part._replace(start=start, stop=min(start + size, part.stop))
        for part in plan_parts(source, inputs, READ_BYTES)
        for start in range(part.start, part.stop, part.stop if is_read_whole(part.uri, inputs.format) else size)
    ]
    most = max(2 * chunk_bytes, 4 * budget // len(parts))
    parts.sort(key=lambda part: document_key(seed, Document(f"{part.name}:{part.start}", "")))
    for part in parts:
        rows = (row for row in read_part(part, source, inputs.format) if isinstance(row, Document))
        yield from sorted(_up_to(rows, most), key=partial(document_key, seed))


def document_bytes(source: Source, inputs: SourceInputs) -> float:
    """Mean UTF-8 bytes of a document, from a few hundred of them; 0 where none can be read."""
    some = itertools.islice(_draw(source, inputs, 1 << 16, 0, 1 << 16), 300)
    sizes = [len(document.content.encode()) for document in some]
    return sum(sizes) / max(1, len(sizes))


def _up_to(documents: Iterable[Document], num_bytes: int) -> Iterator[Document]:
    for document in documents:
        yield document
        num_bytes -= len(document.content)
        if num_bytes <= 0:
            return
