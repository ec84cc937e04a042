"""Token stores on disk: one source, tokenised and shuffled once, read as sequences of any length.

A store is a folder of Arrow IPC files and a `manifest.json`, written last. `tokens-00000.arrow` holds documents one
after the other, each closed by the end-of-text token, as one column of uint16 (vocabularies up to 65,536) or uint32
in record batches of `BATCH_TOKENS`: memory-mapped on a local disk, fetched batch by batch from object storage. Stores
of instruction data also have `examples-00000.arrow`: tokens per example, and how many of them are prompt.

Opening a store imports neither Ray nor transformers.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from raycodellm import retrying
from raycodellm.files import Folder, fingerprint
from raycodellm.identity import file_hashes
from raycodellm.tokens.documents import Documents, Reading, Stretches, read_documents
from raycodellm.tokens.manifest import MANIFEST, Manifest, Shard, StoreError, read_manifest
from raycodellm.tokens.packing import PACKING_VERSION, PACKINGS, Packing, PackingReport, pack, report
from raycodellm.tokens.packing_file import file_name, kept_packing
from raycodellm.tokens.stream import Stream

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_TOKENS = 1 << 20
"""Tokens per record batch."""
REMOTE_VERIFIED_BYTES = 1 << 30
"""Stores on object storage up to this size are read whole, once per node, before they are trained on."""


# ------------------------------------------------------------------------------------------------------- writing


def write_shard(
    folder: Folder, number: int, rows: pa.Table, dtype: np.dtype, instruct: bool, batch_tokens: int = BATCH_TOKENS
) -> Shard:
    """Writes the rows of one shard, ordered by their keys: the same bytes whatever order they came in.

    `rows`: key (binary), tokens (binary: ids of `dtype`, closing end-of-text included), num_prompt (int32),
    num_bytes (int64), skipped (string), count (int64). A shard without a document has no files. Where `skipped` is
    set, num_bytes is what was left out for that reason.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    skips = rows.filter(pc.is_valid(rows["skipped"]))
    skipped: Counter[str] = Counter()
    skipped_bytes: Counter[str] = Counter()
    columns = (skips[name].to_pylist() for name in ("skipped", "count", "num_bytes"))
    for reason, count, left_out in zip(*columns, strict=True):
        skipped[reason] += count
        skipped_bytes[reason] += left_out
    rows = rows.filter(pc.is_null(rows["skipped"]))
    rows = rows.take(pc.sort_indices(rows["key"]))
    tokens, sizes = _end_to_end(rows["tokens"], dtype)
    files = {}
    if len(sizes):
        batches = [tokens[start : start + batch_tokens] for start in range(0, len(tokens), batch_tokens)]
        columns = [{"tokens": pa.array(batch)} for batch in batches]
        files[f"tokens-{number:05d}.arrow"] = _write_arrow(folder, f"tokens-{number:05d}.arrow", columns)
        name, column = (f"documents-{number:05d}.arrow", {"num_tokens": pa.array(sizes)})
        if instruct:
            name = f"examples-{number:05d}.arrow"
            column["num_prompt"] = rows["num_prompt"].combine_chunks().cast(pa.int32())
        files[name] = _write_arrow(folder, name, [column])
    num_bytes = pc.sum(rows["num_bytes"]).as_py() or 0
    counts = dict(sorted(skipped.items())), {reason: size for reason, size in sorted(skipped_bytes.items()) if size}
    return Shard(number, len(sizes), len(tokens), num_bytes, files, *counts)


def _end_to_end(column: pa.ChunkedArray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """(all ids, int32 ids per row) of a column of binary values, without a copy where it is one chunk."""
    import pyarrow as pa

    whole = pa.concat_arrays(
        [chunk.cast(pa.large_binary()) for chunk in column.chunks] or [pa.array([], pa.large_binary())]
    )
    offsets = np.frombuffer(whole.buffers()[1], np.int64)[whole.offset : whole.offset + len(whole) + 1]
    if not len(whole):
        return np.zeros(0, dtype), np.zeros(0, np.int32)
    data = np.frombuffer(whole.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data.view(dtype), (np.diff(offsets) // dtype.itemsize).astype(np.int32)


def _write_arrow(folder: Folder, name: str, batches: list[dict[str, pa.Array]]) -> list:
    import pyarrow as pa

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


# ------------------------------------------------------------------------------------------------------- reading


class TokenStore:
    """An open token store. Threads may share it; pickling carries the folder only."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._stream = Stream(folder, manifest)
        self._lock = threading.Lock()
        self._packings: dict[tuple[int, Reading], Packing] = {}
        self._stretches: dict[Reading, Stretches] = {}
        self._documents: Documents | None = None

    @classmethod
    def open(cls, folder: Folder | str) -> TokenStore:
        """Raises FileNotFoundError for no finished store, StoreError where a file is missing or has another length."""
        folder = folder if isinstance(folder, Folder) else Folder(folder)
        if not folder.exists(MANIFEST):
            raise FileNotFoundError(f"{folder}: no finished token store; `raycodellm prepare` makes it")
        manifest = read_manifest(folder)
        sizes = _file_sizes(folder)
        for shard in manifest.shards:
            for name, (size, _) in shard.files.items():
                if sizes.get(name) != size:
                    found = "is missing" if name not in sizes else f"has {sizes[name]} bytes"
                    raise StoreError(f"{folder}/{name}: {found}, written were {size}; delete {folder} to make it again")
        return cls(folder, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder,)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def num_tokens(self) -> int:
        return self.manifest.num_tokens

    @property
    def every_token_counts(self) -> bool:
        """Whether no sequence holds a token that the loss leaves out: prompts and padding."""
        return not self.manifest.is_instruct

    def verify(self) -> None:
        """Compares every file with its checksum; each is read once per node, until it changes. Raises StoreError."""
        expected = {name: checksum for shard in self.manifest.shards for name, (_, checksum) in shard.files.items()}
        found = file_hashes.stored_hashes(self.folder, list(expected))
        for (name, checksum), now in zip(expected.items(), found, strict=True):
            if now != checksum:
                raise StoreError(
                    f"{self.folder}/{name}: has changed since it was written; run again, or `raycodellm prepare`, to "
                    "make this token store again"
                )

    def verify_before_use(self) -> None:
        """As `verify`; but a large store on object storage, which has checksums of its own, is verified only where it
        is copied to a node's disk (`scaling.cache`): reading it whole would hold up every start. Raises StoreError."""
        num_bytes = sum(size for shard in self.manifest.shards for size, _ in shard.files.values())
        if self.folder.local is not None or num_bytes <= REMOTE_VERIFIED_BYTES:
            self.verify()

    def held_out(self, num_tokens: int) -> int:
        """Tokens of the whole documents that are held out where this many are asked for."""
        return self._run_of(Reading(held_out_tokens=num_tokens, measured=True)).num_tokens

    def num_sequences(self, sequence_length: int, reading: Reading | str = "concatenate") -> int:
        """Sequences in one epoch. A `reading` that is a text names the packing of all documents."""
        reading = _reading(reading)
        packed = self._packed(sequence_length, reading)
        if packed is not None:
            return packed.num_sequences
        whole = self._run_of(reading).num_tokens if reading.held_out_tokens else self.manifest.num_tokens
        return whole // sequence_length

    def num_too_long(self, sequence_length: int) -> int:
        """Examples that no sequence of this length can hold; they are left out. 0 for plain stores."""
        return int((self._all_documents().num_tokens > sequence_length).sum()) if self.manifest.is_instruct else 0

    def packing_report(self, sequence_length: int, packing: str = "concatenate") -> PackingReport:
        """What is dropped, padded and split in one epoch of sequences of this length."""
        packed, sizes = self._packed(sequence_length, packing), self._all_documents().num_tokens
        return report(sizes, sequence_length, packing, self.manifest.is_instruct, packed)

    def packed(self, reading: Reading | str) -> PackedStore:
        """This store, read in one way."""
        return PackedStore(self, _reading(reading))

    def read(
        self, sequences: np.ndarray, sequence_length: int, reading: Reading | str = "concatenate"
    ) -> tuple[np.ndarray, np.ndarray]:
        """(tokens int32[n, sequence_length], loss_mask bool[n, sequence_length]) of the sequences named.

        Raises IndexError for a number outside 0 … `num_sequences`.
        """
        tokens, mask = self.read_raw(sequences, sequence_length, reading)
        return tokens.astype(np.int32), np.ones(tokens.shape, bool) if mask is None else mask

    def read_raw(
        self, sequences: np.ndarray, sequence_length: int, reading: Reading | str = "concatenate"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """As `read`, with tokens of the store's own dtype, and None for a mask where every token counts."""
        sequences, reading = np.asarray(sequences, np.int64), _reading(reading)
        count = self.num_sequences(sequence_length, reading)
        if len(sequences) and (sequences.min() < 0 or sequences.max() >= count):
            raise IndexError(f"{self.folder}: sequence {sequences.max()} of {count} of length {sequence_length}")
        packed = self._packed(sequence_length, reading)
        if packed is None:
            places, run = sequences * sequence_length, self._run_of(reading) if reading.held_out_tokens else None
            gather = self._stream.gather if run is None else partial(run.gather, self._stream)
            return gather(places, sequence_length), None
        tokens, inside, answers = self._read_pieces(packed, sequences, sequence_length)
        return tokens, inside if reading.prompts_count or answers is None else answers

    def _read_pieces(
        self, packed: Packing, sequences: np.ndarray, length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(tokens, which of them are no padding, which are neither padding nor prompt; None for plain documents)"""
        first, counts = packed.bounds[sequences], np.diff(packed.bounds)[sequences]
        pieces = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        sizes = packed.size[pieces].astype(np.int64)
        used = np.bincount(np.repeat(np.arange(len(sequences)), counts), sizes, minlength=len(sequences))
        inside = np.arange(length) < used[:, None]  # pieces stand one after the other from the sequence's beginning on
        tokens = np.full(inside.shape, self.manifest.eos_id, self.manifest.dtype)
        tokens[inside] = self._stream.stretches(packed.start[pieces], sizes)
        if packed.num_prompt is None:
            return tokens, inside, None
        mask = np.zeros(inside.shape, bool)
        place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        mask[inside] = place >= np.repeat(packed.num_prompt[pieces], sizes)
        return tokens, inside, mask

    def _packed(self, sequence_length: int, reading: Reading | str) -> Packing | None:
        """None for plain documents end to end, which need no table."""
        reading = _reading(reading)
        if reading.packing == "concatenate" and not self.manifest.is_instruct:
            return None
        with self._lock:
            found = self._packings.get((sequence_length, reading))
        if found is None:
            found = kept_packing(
                self.folder,
                file_name(reading.packing, sequence_length, reading.held_out_tokens, reading.measured),
                self._made_of(sequence_length, reading),
                partial(self._pack, sequence_length, reading),
            )
            with self._lock:
                self._packings[sequence_length, reading] = found
        return found

    def _pack(self, sequence_length: int, reading: Reading) -> Packing:
        documents = self._all_documents().of(reading)
        return pack(documents.num_tokens, sequence_length, reading.packing, documents.num_prompt, documents.start)

    def _made_of(self, sequence_length: int, reading: Reading | str) -> str:
        checksums = [[name, *said] for shard in self.manifest.shards for name, said in sorted(shard.files.items())]
        packing, held_out_tokens, measured, _ = _reading(reading)
        return fingerprint([PACKING_VERSION, packing, held_out_tokens, measured, sequence_length, checksums])

    def _run_of(self, reading: Reading) -> Stretches:
        """The documents that are read, end to end."""
        reading = Reading(held_out_tokens=reading.held_out_tokens, measured=reading.measured)
        with self._lock:
            if reading not in self._stretches:
                # The documents are not kept: 16 bytes each, in every process that reads.
                documents = self._documents or read_documents(self.folder, self.manifest)
                for part in (reading, reading._replace(measured=not reading.measured)):
                    self._stretches[part] = Stretches(documents.of(part))
            return self._stretches[reading]

    def _all_documents(self) -> Documents:
        with self._lock:
            if self._documents is None:
                self._documents = read_documents(self.folder, self.manifest)
            return self._documents


def _reading(reading: Reading | str) -> Reading:
    reading = Reading(reading) if isinstance(reading, str) else reading
    if reading.packing not in PACKINGS:
        raise ValueError(f"packing {reading.packing!r} is not one of {', '.join(PACKINGS)}")
    return reading


@dataclass(frozen=True)
class PackedStore:
    """A token store that is read in one way; travels as its folder and how it is read."""

    store: TokenStore
    reading: Reading

    @property
    def packing(self) -> str:
        return self.reading.packing

    @property
    def manifest(self) -> Manifest:
        return self.store.manifest

    @property
    def every_token_counts(self) -> bool:
        """Whether no sequence holds a token that the loss leaves out: prompts and padding."""
        return self.packing == "concatenate" and not self.manifest.is_instruct

    def measured(self) -> PackedStore:
        """The documents that are held out of this one."""
        return PackedStore(self.store, self.reading._replace(measured=True))

    def num_sequences(self, sequence_length: int) -> int:
        return self.store.num_sequences(sequence_length, self.reading)

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
        return self.store.read(sequences, sequence_length, self.reading)

    def read_raw(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.store.read_raw(sequences, sequence_length, self.reading)


def _reopened(folder: Folder) -> TokenStore:
    """The store of a pickled one, opened once per process as long as its manifest is the same file."""
    return retrying.patiently(lambda: _opened(folder, _stamp(folder)), "a token store")


@lru_cache(maxsize=64)
def _opened(folder: Folder, stamp: tuple[int, ...]) -> TokenStore:
    return TokenStore.open(folder)


def _stamp(folder: Folder) -> tuple[int, ...]:
    """What changes when the store is made again."""
    if folder.local is not None:
        try:
            found = (folder.local / MANIFEST).stat()
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns
    info = folder.filesystem.get_file_info(f"{folder.path}/{MANIFEST}")
    return info.size or 0, info.mtime_ns or 0


def _file_sizes(folder: Folder) -> dict[str, int]:
    from pyarrow.fs import FileSelector

    return {info.base_name: info.size for info in folder.filesystem.get_file_info(FileSelector(folder.path))}
