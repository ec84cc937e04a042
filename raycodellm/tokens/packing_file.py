"""The files in which a store keeps its packings, each worked out once per sequence length.

`packing-best_fit-2048.arrow` has one row per sequence, a list of its pieces: a process that reads the store maps the
file and looks at the rows that it needs. When documents are held out, `-without-10000` in a name says that all other
documents are packed, `-of-10000` that only the held-out ones are. A file holds a checksum, and
the fingerprint of all that decides the packing: a damaged file, or one of other shards, is made again. When the storage
cannot be written, the packing stays in memory, and each process works it out for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from raycodellm.files import Folder
from raycodellm.tokens.packing import Packing


def file_name(packing: str, sequence_length: int, held_out_tokens: int = 0, measured: bool = False) -> str:
    """The name of a packing's file; the arguments as in `documents.Reading`."""
    part = f"-{'of' if measured else 'without'}-{held_out_tokens}" if held_out_tokens else ""
    return f"packing-{packing}-{sequence_length}{part}.arrow"


def cached_packing(folder: Folder, name: str, made_of: str, make: Callable[[], Packing]) -> Packing:
    """The packing in the file if it is whole and of the same `made_of`; else it is made, and written if possible."""
    stored = read_packing(folder, name, made_of)
    if stored is not None:
        return stored
    packing = make()
    try:
        folder.write_bytes(name, _in_bytes(packing, made_of))
    except OSError:
        return packing  # a full or read-only storage: this process keeps the packing in memory
    return read_packing(folder, name, made_of) or packing


def read_packing(folder: Folder, name: str, made_of: str) -> Packing | None:
    """The packing in a file, mapped if the folder is local; None for a missing, damaged or other file."""
    try:
        if folder.local is not None:
            source = pa.memory_map(str(folder.local / name))
        else:
            source = pa.BufferReader(folder.read_bytes(name))
        file = pa.ipc.open_file(source)
        metadata = file.schema.metadata or {}
        if metadata.get(b"made_of") != made_of.encode() or file.num_record_batches != 1:
            return None
        sequences = file.get_batch(0).column(0)
        pieces = [sequences.values.field(place).to_numpy() for place in range(sequences.type.value_type.num_fields)]
        packing = Packing(sequences.offsets.to_numpy(), *pieces)
        return packing if metadata.get(b"checksum") == _checksum(packing) else None
    except (OSError, pa.ArrowException, AttributeError, TypeError):
        return None  # Arrow has many errors for a damaged file, which is made again after any of them


def _in_bytes(packing: Packing, made_of: str) -> memoryview:
    columns = {"start": packing.start, "size": packing.size}
    if packing.num_prompt is not None:
        columns["num_prompt"] = packing.num_prompt
    pieces = pa.StructArray.from_arrays([pa.array(values) for values in columns.values()], list(columns))
    sequences = pa.LargeListArray.from_arrays(pa.array(packing.bounds), pieces)
    batch = pa.record_batch({"sequence": sequences})
    batch = batch.replace_schema_metadata({"made_of": made_of, "checksum": _checksum(packing)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


def _checksum(packing: Packing) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for values in (packing.bounds, packing.start, packing.size, packing.num_prompt):
        if values is not None:
            digest.update(f"{values.dtype} {len(values)}\n".encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest().encode()
