"""Tables on disk: Parquet by row groups; Arrow IPC files, and the streams that Hugging Face keeps, by batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from raycodellm.config import Source
from raycodellm.corpora.finding import reads_pairs
from raycodellm.corpora.parts import LONGEST_LINE, Part, is_failure, open_part
from raycodellm.corpora.records import Record, SkipError, wanted_columns

if TYPE_CHECKING:
    import pyarrow as pa

_FILE_SIGN = b"ARROW1"


def read_parquet(part: Part, source: Source) -> Iterator[Record]:
    """Row groups number k of n belong to the part that holds byte k/n of the file: known without the footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_part(part) as file:
        parquet = pq.ParquetFile(file)
        groups = parquet.num_row_groups
        columns = _columns(parquet.schema_arrow, source)
        row = 0
        for group in range(groups):
            if part.start <= group * part.num_bytes // groups < part.stop:
                try:
                    rows = _rows_at_once(_largest_dictionary(file, parquet.metadata.row_group(group), columns))
                    for batch in parquet.iter_batches(batch_size=rows, row_groups=[group], columns=columns):
                        yield from _rows(batch, row)
                        row += batch.num_rows
                    continue
                except (OSError, ValueError, pa.ArrowException) as error:
                    if is_failure(error, part):
                        raise
                    row = sum(parquet.metadata.row_group(before).num_rows for before in range(group))
                    yield f":{row}", SkipError("unreadable row group")  # the next group may be sound
            row += parquet.metadata.row_group(group).num_rows


def read_arrow(part: Part, source: Source) -> Iterator[Record]:
    """A batch belongs to the part in which it begins (a stream) or that holds byte k/n (batch k of n of a file)."""
    import pyarrow as pa

    with open_part(part, memory_map=True) as file:
        if part.num_bytes == 0:
            yield "", SkipError("empty file")
            return
        is_file = file.read(len(_FILE_SIGN)) == _FILE_SIGN
        file.seek(0)
        row = 0
        for begins, rows, read in _file_batches(file, part) if is_file else _stream_batches(file):
            if part.start <= begins < part.stop:
                try:
                    yield from _batch_records(read(), source, row)
                except (OSError, ValueError, pa.ArrowException) as error:
                    if is_failure(error, part):
                        raise
                    yield f":{row}", SkipError("unreadable batch")  # the next one may be sound
            row += rows


def _batch_records(batch: Any, source: Source, row: int) -> Iterator[Record]:
    import pyarrow as pa

    columns = _columns(batch.schema, source)
    # By their places: a name may stand twice, and the later column is then the one that is read.
    places = [place for place, name in enumerate(batch.schema.names) if name in columns]
    batch = batch.select(places) if places else pa.record_batch([pa.nulls(batch.num_rows)], [""])
    batch.validate(full=True)  # a place beyond a buffer, as damage makes it, would end the process
    dictionaries = (c.dictionary for c in batch.columns if pa.types.is_dictionary(c.type))
    rows = _rows_at_once(max((values.nbytes for values in dictionaries), default=0))
    for start in range(0, batch.num_rows, rows):
        yield from _rows(batch.slice(start, rows), row + start)


def _rows_at_once(dictionary_bytes: int) -> int:
    """512, or less where rows repeat a large value of a dictionary: 2 KB of a file may stand for gigabytes of rows."""
    return max(1, min(512, 4 * LONGEST_LINE // max(1, dictionary_bytes)))


def _largest_dictionary(file: Any, group: Any, columns: list[str]) -> int:
    """Bytes of the largest dictionary of the row group's columns, unpacked, as the heads of their pages say."""
    largest = 0
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema.split(".")[0] in columns and column.has_dictionary_page:
            place = min(column.dictionary_page_offset, column.data_page_offset)
            if 0 <= place < file.size():
                file.seek(place)
                largest = max(largest, _unpacked_size(file.read(16)))
    return largest


def _unpacked_size(head: bytes) -> int:
    """The second number of a Parquet page's head, in Thrift's compact form: a byte, then 7 bits of it in each byte."""
    number, place = 0, head.find(0x15, 2) + 1
    for shift, byte in enumerate(head[place : place + 5]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            break
    return number >> 1  # of a number that may be negative


_Batch = tuple[int, int, Callable[[], Any]]
"""(byte of the file at which a batch counts as beginning, its rows, what gives it)"""


def _file_batches(file: Any, part: Part) -> Iterator[_Batch]:
    import pyarrow as pa

    reader = pa.ipc.open_file(file)
    count = reader.num_record_batches
    for number in range(count):
        get = partial(reader.get_batch, number)
        try:
            rows = get().num_rows
        except (OSError, ValueError, pa.ArrowException):
            rows = 0  # counted by the part that the batch belongs to, which meets the error again
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


def arrow_columns(part: Part) -> list[str]:
    import pyarrow as pa

    with open_part(part) as file:
        is_file = file.read(len(_FILE_SIGN)) == _FILE_SIGN
        file.seek(0)
        return (pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)).schema.names


def _columns(schema: pa.Schema, source: Source) -> list[str]:
    """Those that can matter. Of instruction data all that hold text: what is not used of them is counted."""
    wanted, pairs = wanted_columns(source), reads_pairs(source)
    return [
        field.name for field in schema if wanted is None or field.name in wanted or (pairs and _holds_text(field.type))
    ]


def _holds_text(type: pa.DataType) -> bool:
    """True if texts stand in values of this type, and no bytes, which may be pictures."""
    leaves = list(_leaves(type))
    return any(map(_is_text, leaves)) and not any("binary" in str(leaf) for leaf in leaves)


def _is_text(type: pa.DataType) -> bool:
    return "string" in str(type)


def _leaves(type: pa.DataType) -> Iterator[pa.DataType]:
    if hasattr(type, "value_type"):  # lists and dictionaries
        yield from _leaves(type.value_type)
    elif hasattr(type, "item_type"):  # maps
        yield from _leaves(type.item_type)
    elif type.num_fields:
        for place in range(type.num_fields):
            yield from _leaves(type.field(place).type)
    else:
        yield type


def _rows(batch: Any, row: int) -> Iterator[Record]:
    records = batch.to_pylist() if batch.num_columns and batch.schema.names != [""] else [{}] * batch.num_rows
    for number, record in enumerate(records, row):
        yield f":{number}", record
