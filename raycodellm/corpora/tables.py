"""Tables in Parquet and Arrow files: which columns are read, how many rows at once, and what damage costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from raycodellm.config import Source
from raycodellm.corpora.content import LONGEST_LINE, is_failure
from raycodellm.corpora.documents import Record, SkipError
from raycodellm.corpora.inputs import Part
from raycodellm.corpora.registry import row_reader

Batch = tuple[int, int, Callable[[int], Iterator[Record]]]
"""(byte of the file at which the batch counts as beginning, its rows, a function that reads its records, given the
number of its first row)"""


def records_of_part(part: Part, batches: Iterable[Batch], unit: str) -> Iterator[Record]:
    """The records of the batches that begin in the part. A damaged batch is a SkipError, and the next one is read."""
    row = 0
    for start, num_rows, read_records in batches:
        if part.start <= start < part.stop:
            try:
                yield from read_records(row)
            except (OSError, ValueError, pa.ArrowException) as error:
                if is_failure(error, part):
                    raise
                yield f":{row}", SkipError(f"unreadable {unit}")
        row += num_rows


def columns_to_read(schema: pa.Schema, source: Source) -> list[str]:
    """The columns that can matter, in the order of the schema."""
    rows = row_reader(source)
    columns = rows.columns(source)
    return [
        field.name
        for field in schema
        if columns is None or field.name in columns or (rows.reads_other_text and _holds_text(field.type))
    ]


def _holds_text(type: pa.DataType) -> bool:
    """True if values of this type hold texts, and no bytes, which may be pictures."""
    leaves = [str(leaf) for leaf in _leaves(type)]
    return any("string" in leaf for leaf in leaves) and not any("binary" in leaf for leaf in leaves)


def _leaves(type: pa.DataType) -> Iterator[pa.DataType]:
    """The types at the ends of a nested type."""
    if hasattr(type, "value_type"):  # lists and dictionaries
        yield from _leaves(type.value_type)
    elif hasattr(type, "item_type"):  # maps
        yield from _leaves(type.item_type)
    elif type.num_fields:
        for place in range(type.num_fields):
            yield from _leaves(type.field(place).type)
    else:
        yield type


def rows_at_once(dictionary_bytes: int) -> int:
    """512 rows, or fewer if rows repeat a large value of a dictionary: 2 KB of a file may stand for gigabytes."""
    return max(1, min(512, 4 * LONGEST_LINE // max(1, dictionary_bytes)))


def batch_records(batch: pa.RecordBatch, row: int) -> Iterator[Record]:
    """The rows of an Arrow batch, the first of which is number `row` of the file."""
    records = batch.to_pylist() if batch.num_columns and batch.schema.names != [""] else [{}] * batch.num_rows
    for number, record in enumerate(records, row):
        yield f":{number}", record
