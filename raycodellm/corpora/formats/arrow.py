"""Arrow IPC files, and the Arrow streams that Hugging Face data sets are saved as: a record is a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from raycodellm.config import Source
from raycodellm.corpora.documents import Record, SkipError
from raycodellm.corpora.parts import Part, is_failure, open_part
from raycodellm.corpora.registry import Format
from raycodellm.corpora.tables import batch_records, columns_to_read, rows_at_once

_FILE_SIGN = b"ARROW1"
_Batch = tuple[int, int, Callable[[], Any]]
"""(byte of the file at which the batch counts as beginning, its rows, a function that reads it)"""


def read_arrow(part: Part, source: Source) -> Iterator[Record]:
    """A batch of a stream belongs to the part in which it begins; batch k of n of a file to the part with byte k/n."""
    import pyarrow as pa

    with open_part(part, memory_map=True) as file:
        if part.num_bytes == 0:
            yield "", SkipError("empty file")
            return
        row = 0
        for begins, rows, read in _file_batches(file, part) if _is_file(file) else _stream_batches(file):
            if part.start <= begins < part.stop:
                try:
                    yield from _records(read(), source, row)
                except (OSError, ValueError, pa.ArrowException) as error:
                    if is_failure(error, part):
                        raise
                    yield f":{row}", SkipError("unreadable batch")  # the next one may be sound
            row += rows


def _is_file(file: Any) -> bool:
    """True for an IPC file, False for a stream."""
    sign = file.read(len(_FILE_SIGN))
    file.seek(0)
    return sign == _FILE_SIGN


def _records(batch: Any, source: Source, row: int) -> Iterator[Record]:
    import pyarrow as pa

    columns = columns_to_read(batch.schema, source)
    # Selected by place: a name may stand twice, and the later column is then the one that is read.
    places = [place for place, name in enumerate(batch.schema.names) if name in columns]
    batch = batch.select(places) if places else pa.record_batch([pa.nulls(batch.num_rows)], [""])
    batch.validate(full=True)  # a damaged offset beyond a buffer would end the process
    dictionaries = (c.dictionary for c in batch.columns if pa.types.is_dictionary(c.type))
    rows = rows_at_once(max((values.nbytes for values in dictionaries), default=0))
    for start in range(0, batch.num_rows, rows):
        yield from batch_records(batch.slice(start, rows), row + start)


def _file_batches(file: Any, part: Part) -> Iterator[_Batch]:
    import pyarrow as pa

    reader = pa.ipc.open_file(file)
    count = reader.num_record_batches
    for number in range(count):
        get = partial(reader.get_batch, number)
        try:
            rows = get().num_rows
        except (OSError, ValueError, pa.ArrowException):
            rows = 0  # the part that the batch belongs to meets the error again, and counts it
        yield number * part.num_bytes // count, rows, get


def _stream_batches(file: Any) -> Iterator[_Batch]:
    import pyarrow as pa

    reader = pa.ipc.open_stream(file)
    while True:
        begins = file.tell()
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        yield begins, batch.num_rows, partial(batch.slice, 0)


def _columns(part: Part, source: Source) -> list[str]:
    import pyarrow as pa

    with open_part(part) as file:
        return (pa.ipc.open_file(file) if _is_file(file) else pa.ipc.open_stream(file)).schema.names


FORMAT = Format(
    name="arrow",
    extensions=frozenset({".arrow"}),
    read=read_arrow,
    can_start_inside=lambda uri: "://" not in uri,  # finding a place in a remote stream would read all before it
    columns=_columns,
)
