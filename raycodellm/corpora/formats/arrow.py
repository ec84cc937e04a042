"""Arrow IPC files, and the Arrow streams that Hugging Face data sets are saved as: a record is a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa

from raycodellm.config import Source
from raycodellm.corpora.content import HUB, open_part
from raycodellm.corpora.documents import Record, SkipError
from raycodellm.corpora.inputs import Part
from raycodellm.corpora.registry import Format
from raycodellm.corpora.tables import batch_records, columns_to_read, records_of_part, rows_at_once

_Place = tuple[int, int, Callable[[], pa.RecordBatch]]
"""(byte of the file at which the batch counts as beginning, its rows, a function that reads it)"""


def read_arrow(part: Part, source: Source) -> Iterator[Record]:
    """A batch of a stream belongs to the part in which it begins; batch k of n of a file to the part with byte k/n."""
    with open_part(part, memory_map=True) as file:
        if part.num_bytes == 0:
            yield "", SkipError("empty file")
            return
        reader = _open(file, part)
        is_file = isinstance(reader, pa.ipc.RecordBatchFileReader)
        places = _file_batches(reader, part) if is_file else _stream_batches(reader, file)
        batches = ((start, num_rows, partial(_records, read_batch, source)) for start, num_rows, read_batch in places)
        yield from records_of_part(part, batches, "batch")


def _open(file: pa.NativeFile, part: Part) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    """A file of the hub is read as the stream that follows the first 8 bytes: `open_file` reads the footer in a thread
    of Arrow's, and such a thread that still holds a file of Python's when Python ends makes the process abort."""
    is_file = file.read(8)[:6] == b"ARROW1"
    if is_file and part.uri.startswith(HUB):
        return pa.ipc.open_stream(file)
    file.seek(0)
    return pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)


def _records(read_batch: Callable[[], pa.RecordBatch], source: Source, row: int) -> Iterator[Record]:
    batch = read_batch()
    columns = columns_to_read(batch.schema, source)
    # Selected by place: a name may stand twice, and the later column is then the one that is read.
    places = [place for place, name in enumerate(batch.schema.names) if name in columns]
    batch = batch.select(places) if places else pa.record_batch([pa.nulls(batch.num_rows)], [""])
    batch.validate(full=True)  # a damaged offset beyond a buffer would end the process
    dictionaries = (c.dictionary for c in batch.columns if pa.types.is_dictionary(c.type))
    rows = rows_at_once(max((values.nbytes for values in dictionaries), default=0))
    for start in range(0, batch.num_rows, rows):
        yield from batch_records(batch.slice(start, rows), row + start)


def _file_batches(reader: pa.ipc.RecordBatchFileReader, part: Part) -> Iterator[_Place]:
    count = reader.num_record_batches
    for number in range(count):
        read_batch = partial(reader.get_batch, number)
        try:
            num_rows = read_batch().num_rows
        except (OSError, ValueError, pa.ArrowException):
            num_rows = 0  # the part that the batch belongs to meets the error again, and counts it
        yield number * part.num_bytes // count, num_rows, read_batch


def _stream_batches(reader: pa.ipc.RecordBatchStreamReader, file: pa.NativeFile) -> Iterator[_Place]:
    while True:
        start = file.tell()
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        yield start, batch.num_rows, partial(batch.slice, 0)


def _columns(part: Part, source: Source) -> list[str]:
    with open_part(part) as file:
        return _open(file, part).schema.names


FORMAT = Format(
    name="arrow",
    extensions=frozenset({".arrow"}),
    read=read_arrow,
    can_start_inside=lambda uri: "://" not in uri,  # finding a place in a remote stream would read all before it
    columns=_columns,
)
