"""Tables on disk: Parquet by row groups; Arrow IPC files, and the streams that Hugging Face keeps, by batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from raycodellm.config import Source
from raycodellm.corpora.finding import reads_pairs
from raycodellm.corpora.lines import Part, open_part
from raycodellm.corpora.records import Record, SkipError, wanted_columns

if TYPE_CHECKING:
    import pyarrow as pa

Failure = Callable[[Exception, Part], bool]
"""Is the error one of the storage, which must stop the run, and not damage?"""
_FILE_SIGN = b"ARROW1"


def read_parquet(part: Part, source: Source, is_failure: Failure) -> Iterator[Record]:
    """Row groups number k of n belong to the part that holds byte k/n of the file: known without the footer."""
    import pyarrow.parquet as pq

    with open_part(part) as file:
        parquet = pq.ParquetFile(file)
        groups = parquet.num_row_groups
        columns = _columns(parquet.schema_arrow, source)
        row = 0
        for group in range(groups):
            if part.start <= group * part.num_bytes // groups < part.stop:
                try:
                    for batch in parquet.iter_batches(batch_size=512, row_groups=[group], columns=columns):
                        yield from _rows(batch, row)
                        row += batch.num_rows
                    continue
                except (OSError, ValueError) as error:
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
        for begins, batch in _file_batches(file, part) if is_file else _stream_batches(file):
            if part.start <= begins < part.stop:
                columns = _columns(batch.schema, source)
                # By their places: a name may stand twice, and the later column is then the one that is read.
                places = [place for place, name in enumerate(batch.schema.names) if name in columns]
                batch = batch.select(places) if places else pa.record_batch([pa.nulls(batch.num_rows)], [""])
                for start in range(0, batch.num_rows, 512):
                    yield from _rows(batch.slice(start, 512), row + start)
            row += batch.num_rows


def _file_batches(file: Any, part: Part) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa

    reader = pa.ipc.open_file(file)
    count = reader.num_record_batches
    for number in range(count):
        yield number * part.num_bytes // count, reader.get_batch(number)


def _stream_batches(file: Any) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa

    reader = pa.ipc.open_stream(file)
    while True:
        begins = file.tell()
        try:
            yield begins, reader.read_next_batch()
        except StopIteration:
            return


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
    """Whether texts stand in values of this type, and no bytes, which may be pictures."""
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
