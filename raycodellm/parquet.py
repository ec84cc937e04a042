"""Tables as the content of Parquet files."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def from_bytes(data: bytes, columns: Container[str] | None = None) -> pa.Table:
    """The table in a file's content: `columns`, where the file has them, or all.

    The calling thread alone reads. `pyarrow.parquet.read_table` has Arrow's threads hold `data` for a moment longer
    than the call takes, and the process aborts if Python ends in that moment.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    names = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
    return file.read(names, use_threads=False)


def to_bytes(table: pa.Table) -> bytes:
    """The content of the file that holds the table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content
