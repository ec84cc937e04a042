"""Parquet: a record is a row; a file is cut at its row groups."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from raycodellm.config import Source
from raycodellm.corpora.content import HUB, open_part
from raycodellm.corpora.documents import Record
from raycodellm.corpora.inputs import MIB, Part
from raycodellm.corpora.registry import Format
from raycodellm.corpora.tables import batch_records, columns_to_read, records_of_part, rows_at_once


def read_parquet(part: Part, source: Source) -> Iterator[Record]:
    """Row group k of n belongs to the part that holds byte k/n of the file, which is known without the footer."""
    with open_part(part) as file:
        # Arrow's threads would fetch ahead, and read a column each. Such a thread that still holds bytes of a hub's
        # file, which are Python objects, when Python ends makes the process abort.
        has_threads = not part.uri.startswith(HUB)
        parquet = pq.ParquetFile(file, pre_buffer=False)
        columns = columns_to_read(parquet.schema_arrow, source)
        count = parquet.num_row_groups

        def read_group(group: int, row: int) -> Iterator[Record]:
            rows = rows_at_once(_largest_dictionary(file, parquet.metadata.row_group(group), columns))
            for batch in parquet.iter_batches(rows, row_groups=[group], columns=columns, use_threads=has_threads):
                yield from batch_records(batch, row)
                row += batch.num_rows

        batches = (
            (group * part.num_bytes // count, parquet.metadata.row_group(group).num_rows, partial(read_group, group))
            for group in range(count)
        )
        yield from records_of_part(part, batches, "row group")


def _largest_dictionary(file: pa.NativeFile, group: pq.RowGroupMetaData, columns: list[str]) -> int:
    """Unpacked bytes of the largest dictionary among the row group's columns, as the heads of their pages say."""
    largest = 0
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema.split(".")[0] in columns and column.has_dictionary_page:
            place = min(column.dictionary_page_offset, column.data_page_offset)
            if 0 <= place < file.size():
                file.seek(place)
                largest = max(largest, _unpacked_size(file.read(16)))
    return largest


def _unpacked_size(head: bytes) -> int:
    """The second field of a Parquet page's head (Thrift compact protocol): a byte, then a zigzag varint."""
    number, place = 0, head.find(0x15, 2) + 1
    for shift, byte in enumerate(head[place : place + 5]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            break
    return number >> 1


def _columns(part: Part, source: Source) -> list[str]:
    with open_part(part) as file:
        return pq.ParquetFile(file).schema_arrow.names


FORMAT = Format(
    name="parquet",
    extensions=frozenset({".parquet", ".pq"}),
    read=read_parquet,
    smallest_sample=32 * MIB,  # a smaller part often holds no row group
    text_per_byte=3.0,
    columns=_columns,
)
