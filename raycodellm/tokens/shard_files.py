"""The files of one shard of a token store: tokens end to end, and the length of each document."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raycodellm.files import Folder
from raycodellm.identity import file_hashes
from raycodellm.tokens.manifest import Shard

BATCH_TOKENS = 1 << 20
"""Tokens per record batch."""


def write_shard(
    folder: Folder, number: int, rows: pa.Table, dtype: np.dtype, instruct: bool, batch_tokens: int = BATCH_TOKENS
) -> Shard:
    """Writes the rows of one shard, ordered by their keys: the same bytes in whatever order the rows come.

    `rows`: key (binary), tokens (binary: ids of `dtype`, closing end-of-text included), num_prompt (int32),
    num_bytes (int64), skipped (string), count (int64). A row with `skipped` is no document but the reason why `count`
    records, with `num_bytes` of text, became none. A shard without a document has no files. Raises OSError, with the
    file's name and size, when a file cannot be written.
    """
    import pyarrow.compute as pc

    skips = rows.filter(pc.is_valid(rows["skipped"])).group_by("skipped")
    skip_rows = skips.aggregate([("count", "sum"), ("num_bytes", "sum")]).sort_by("skipped").to_pylist()
    rows = rows.filter(pc.is_null(rows["skipped"]))
    rows = rows.take(pc.sort_indices(rows["key"]))
    tokens, sizes = _join_values(rows["tokens"], dtype)
    files = {}
    if len(sizes):
        batches = [tokens[start : start + batch_tokens] for start in range(0, len(tokens), batch_tokens)]
        arrays = [{"tokens": pa.array(batch)} for batch in batches]
        files[f"tokens-{number:05d}.arrow"] = _write_arrow(folder, f"tokens-{number:05d}.arrow", arrays)
        name, column = (f"documents-{number:05d}.arrow", {"num_tokens": pa.array(sizes)})
        if instruct:
            name = f"examples-{number:05d}.arrow"
            column["num_prompt"] = rows["num_prompt"].combine_chunks().cast(pa.int32())
        files[name] = _write_arrow(folder, name, [column])
    num_bytes = pc.sum(rows["num_bytes"]).as_py() or 0
    skipped = {skip["skipped"]: skip["count_sum"] for skip in skip_rows}
    skipped_bytes = {skip["skipped"]: skip["num_bytes_sum"] for skip in skip_rows if skip["num_bytes_sum"]}
    return Shard(number, len(sizes), len(tokens), num_bytes, files, skipped, skipped_bytes)


def _join_values(column: pa.ChunkedArray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """(all ids, int32 number of ids per row) of a column of binary values; copies nothing when it is one chunk."""
    joined = pa.concat_arrays(
        [chunk.cast(pa.large_binary()) for chunk in column.chunks] or [pa.array([], pa.large_binary())]
    )
    offsets = np.frombuffer(joined.buffers()[1], np.int64)[joined.offset : joined.offset + len(joined) + 1]
    if not len(joined):
        return np.zeros(0, dtype), np.zeros(0, np.int32)
    data = np.frombuffer(joined.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data.view(dtype), (np.diff(offsets) // dtype.itemsize).astype(np.int32)


def _write_arrow(folder: Folder, name: str, batches: list[dict[str, pa.Array]]) -> list:
    """[bytes, checksum] of the written file."""
    sink = pa.BufferOutputStream()
    tables = [pa.record_batch(batch) for batch in batches]
    with pa.ipc.new_file(sink, tables[0].schema) as writer:
        for table in tables:
            writer.write_batch(table)
    data = memoryview(sink.getvalue())
    try:
        folder.write_bytes(name, data)
    except OSError as error:
        message = f"{folder.uri}/{name}: cannot be written ({len(data)} bytes): {error.strerror or error}"
        raise OSError(error.errno, message) from error
    return [len(data), file_hashes.digest([data])]
