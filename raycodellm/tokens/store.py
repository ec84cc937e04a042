"""Token stores on disk: one source, tokenised and shuffled once, read as sequences of any length.

A store is a folder of Arrow IPC files and a `manifest.json`, written last. `tokens-00000.arrow` holds documents one
after the other, each closed by the end-of-text token, as one column of uint16 (vocabularies up to 65,536) or uint32
in record batches of `BATCH_TOKENS`: memory-mapped on a local disk, fetched batch by batch from object storage. Stores
of instruction data also have `examples-00000.arrow`: tokens per example, and how many of them are prompt.

Opening a store imports neither Ray nor transformers.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raycodellm.config import INSTRUCT_KINDS
from raycodellm.files import Folder

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BATCH_TOKENS = 1 << 20
"""Tokens per record batch: the unit that is fetched from object storage."""
CACHED_BATCHES = 8
"""Record batches kept in memory per remote store, 16 MiB: a stage draws a source's sequences in order."""


class StoreError(RuntimeError):
    """A token store is damaged: which file, what was found, what to do."""


@dataclass(frozen=True)
class Shard:
    """One part of a store, as the manifest lists it."""

    number: int
    num_documents: int
    num_tokens: int
    num_bytes: int
    """UTF-8 bytes of the text that the tokens stand for."""
    files: dict[str, list]
    """File name: [bytes, BLAKE2b of the content, 32 hex digits]."""
    skipped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What a token store holds and was made from; every count is exact."""

    name: str
    kind: str
    fingerprint: str
    source_fingerprint: str
    tokenizer_fingerprint: str
    seed: int
    vocab_size: int
    eos_id: int
    num_tokens: int
    """End-of-text tokens included."""
    num_documents: int
    num_examples: int
    """Documents of instruction data; 0 for plain stores."""
    num_bytes: int
    """UTF-8 bytes of the documents."""
    skipped: dict[str, int]
    """Reason: records that became no document."""
    shards: tuple[Shard, ...]
    format_version: int = FORMAT_VERSION

    @property
    def dtype(self) -> np.dtype:
        return token_dtype(self.vocab_size)

    @property
    def is_instruct(self) -> bool:
        return self.kind in INSTRUCT_KINDS


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


# ------------------------------------------------------------------------------------------------------- writing


def write_shard(
    folder: Folder, number: int, rows: pa.Table, dtype: np.dtype, instruct: bool, batch_tokens: int = BATCH_TOKENS
) -> Shard:
    """Writes the rows of one shard, ordered by their keys: the same bytes whatever order they came in.

    `rows`: key (binary), tokens (binary: ids of `dtype`, closing end-of-text included), num_prompt (int32),
    num_bytes (int64), skipped (string), count (int64). A shard without a document has no files.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    skips = rows.filter(pc.is_valid(rows["skipped"]))
    skipped: Counter[str] = Counter()
    for reason, count in zip(skips["skipped"].to_pylist(), skips["count"].to_pylist(), strict=True):
        skipped[reason] += count
    rows = rows.filter(pc.is_null(rows["skipped"]))
    rows = rows.take(pc.sort_indices(rows["key"]))
    pieces = rows["tokens"].to_pylist()
    tokens = np.frombuffer(b"".join(pieces), dtype)
    files = {}
    if pieces:
        batches = [tokens[start : start + batch_tokens] for start in range(0, len(tokens), batch_tokens)]
        columns = [{"tokens": pa.array(batch)} for batch in batches]
        files[f"tokens-{number:05d}.arrow"] = _write_arrow(folder, f"tokens-{number:05d}.arrow", columns)
        if instruct:
            sizes = np.array([len(piece) // dtype.itemsize for piece in pieces], np.int32)
            prompts = rows["num_prompt"].combine_chunks().cast(pa.int32())
            columns = [{"num_tokens": pa.array(sizes), "num_prompt": prompts}]
            files[f"examples-{number:05d}.arrow"] = _write_arrow(folder, f"examples-{number:05d}.arrow", columns)
    num_bytes = pc.sum(rows["num_bytes"]).as_py() or 0
    return Shard(number, len(pieces), len(tokens), num_bytes, files, dict(sorted(skipped.items())))


def _write_arrow(folder: Folder, name: str, batches: list[dict[str, pa.Array]]) -> list:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    tables = [pa.record_batch(batch) for batch in batches]
    with pa.ipc.new_file(sink, tables[0].schema) as writer:
        for table in tables:
            writer.write_batch(table)
    data = sink.getvalue().to_pybytes()
    try:
        folder.write_bytes(name, data)
    except OSError as error:
        message = f"{folder.uri}/{name}: cannot be written ({len(data)} bytes): {error.strerror or error}"
        raise OSError(error.errno, message) from error
    return [len(data), _checksum(data)]


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def write_manifest(folder: Folder, shards: Iterable[Shard], **settings: Any) -> Manifest:
    """Counts the shards together and writes the manifest, which makes the store a finished one."""
    shards = tuple(sorted(shards, key=lambda shard: shard.number))
    skipped: Counter[str] = Counter()
    for shard in shards:
        skipped.update(shard.skipped)
    num_documents = sum(shard.num_documents for shard in shards)
    manifest = Manifest(
        **settings,
        num_tokens=sum(shard.num_tokens for shard in shards),
        num_documents=num_documents,
        num_examples=num_documents if settings["kind"] in INSTRUCT_KINDS else 0,
        num_bytes=sum(shard.num_bytes for shard in shards),
        skipped=dict(sorted(skipped.items())),
        shards=tuple(shard for shard in shards if shard.files),
    )
    folder.write_json(MANIFEST, asdict(manifest))
    return manifest


# ------------------------------------------------------------------------------------------------------- reading


class TokenStore:
    """An open token store. Threads may share it; pickling carries the folder only."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._stream = _Stream(folder, manifest)
        self._lock = threading.Lock()
        self._packings: dict[int, _Packing] = {}
        self._examples: _Examples | None = None

    @classmethod
    def open(cls, folder: Folder | str) -> TokenStore:
        """Raises FileNotFoundError for no finished store, StoreError where a file is missing or has another length."""
        folder = folder if isinstance(folder, Folder) else Folder(folder)
        if not folder.exists(MANIFEST):
            raise FileNotFoundError(f"{folder}: no finished token store; `raycodellm prepare` makes it")
        manifest = _read_manifest(folder)
        sizes = _file_sizes(folder)
        for shard in manifest.shards:
            for name, (size, _) in shard.files.items():
                if sizes.get(name) != size:
                    found = "is missing" if name not in sizes else f"has {sizes[name]} bytes"
                    raise StoreError(f"{folder}/{name}: {found}, written were {size}; delete {folder} to make it again")
        return cls(folder, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.folder,)

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

    def verify(self) -> None:
        """Reads every file and compares checksums. Raises StoreError."""
        for shard in self.manifest.shards:
            for name, (_, checksum) in shard.files.items():
                if _checksum(self.folder.read_bytes(name)) != checksum:
                    raise StoreError(f"{self.folder}/{name}: has changed since it was written; delete {self.folder}")

    def num_sequences(self, sequence_length: int) -> int:
        """Sequences in one epoch."""
        if self.manifest.is_instruct:
            return len(self._packing(sequence_length).bounds) - 1
        return self.manifest.num_tokens // sequence_length

    def num_too_long(self, sequence_length: int) -> int:
        """Examples that no sequence of this length can hold; they are left out. 0 for plain stores."""
        return self._packing(sequence_length).num_too_long if self.manifest.is_instruct else 0

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens int32[n, sequence_length], loss_mask bool[n, sequence_length]) of the sequences named.

        Raises IndexError for a number outside 0 … `num_sequences`.
        """
        sequences = np.asarray(sequences, np.int64)
        count = self.num_sequences(sequence_length)
        if len(sequences) and (sequences.min() < 0 or sequences.max() >= count):
            raise IndexError(f"{self.folder}: sequence {sequences.max()} of {count} of length {sequence_length}")
        instruct = self.manifest.is_instruct
        tokens = np.full((len(sequences), sequence_length), self.manifest.eos_id, np.int32)
        mask = np.full(tokens.shape, not instruct)
        for row, sequence in enumerate(sequences.tolist()):
            if instruct:
                self._read_examples(sequence, sequence_length, tokens[row], mask[row])
            else:
                self._stream.copy(sequence * sequence_length, tokens[row])
        return tokens, mask

    def _read_examples(self, sequence: int, length: int, tokens: np.ndarray, mask: np.ndarray) -> None:
        packing, examples = self._packing(length), self._all_examples()
        place = 0
        for example in packing.kept[packing.bounds[sequence] : packing.bounds[sequence + 1]].tolist():
            size = int(examples.num_tokens[example])
            self._stream.copy(int(examples.starts[example]), tokens[place : place + size])
            mask[place + int(examples.num_prompt[example]) : place + size] = True
            place += size

    def _packing(self, sequence_length: int) -> _Packing:
        examples = self._all_examples()
        with self._lock:
            if sequence_length not in self._packings:
                self._packings[sequence_length] = pack(examples.num_tokens, sequence_length)
            return self._packings[sequence_length]

    def _all_examples(self) -> _Examples:
        with self._lock:
            if self._examples is None:
                self._examples = _read_examples(self.folder, self.manifest)
            return self._examples


def _read_manifest(folder: Folder) -> Manifest:
    try:
        fields = folder.read_json(MANIFEST)
        manifest = Manifest(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}/{MANIFEST}: is not a manifest ({error}); delete {folder}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise StoreError(f"{folder}: has format {manifest.format_version}, read is {FORMAT_VERSION}; delete {folder}")
    return manifest


def _file_sizes(folder: Folder) -> dict[str, int]:
    from pyarrow.fs import FileSelector

    return {info.base_name: info.size for info in folder.filesystem.get_file_info(FileSelector(folder.path))}


@dataclass(frozen=True)
class _Examples:
    num_tokens: np.ndarray
    num_prompt: np.ndarray
    starts: np.ndarray
    """Place of each example's first token among all the store's tokens."""


def _read_examples(folder: Folder, manifest: Manifest) -> _Examples:
    import pyarrow as pa

    sizes, prompts = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for shard in manifest.shards:
        data = folder.read_bytes(f"examples-{shard.number:05d}.arrow")
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        sizes.append(table["num_tokens"].to_numpy())
        prompts.append(table["num_prompt"].to_numpy())
    num_tokens = np.concatenate(sizes).astype(np.int64)
    starts = np.cumsum(num_tokens) - num_tokens
    return _Examples(num_tokens, np.concatenate(prompts).astype(np.int64), starts)


@dataclass(frozen=True)
class _Packing:
    kept: np.ndarray
    """Examples that fit into a sequence, in order."""
    bounds: np.ndarray
    """Sequence i holds kept[bounds[i] : bounds[i + 1]]."""
    num_too_long: int


def pack(num_tokens: np.ndarray, sequence_length: int) -> _Packing:
    """Next-fit: whole examples in order, a new sequence where the next one does not fit into the rest of this one."""
    kept = np.flatnonzero(num_tokens <= sequence_length)
    ends = np.cumsum(num_tokens[kept]).tolist()
    bounds, start = [0], 0
    while bounds[-1] < len(ends):
        # The first example that ends beyond a full sequence; bisect among the few that could be meant.
        bounds.append(bisect_right(ends, start + sequence_length, bounds[-1]))
        start = ends[bounds[-1] - 1]
    return _Packing(kept, np.array(bounds, np.int64), len(num_tokens) - len(kept))


class _Stream:
    """All tokens of a store as one sequence, through memory maps or a few fetched record batches."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self._folder = folder
        self._shards = manifest.shards
        self._starts = np.cumsum([0, *(shard.num_tokens for shard in manifest.shards)]).tolist()
        self._lock = threading.Lock()
        self._readers: dict[int, _ShardReader] = {}
        self._batches: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def copy(self, start: int, target: np.ndarray) -> None:
        """Fills `target` with the tokens from `start` on."""
        filled = 0
        while filled < len(target):
            piece = self._from(start + filled)[: len(target) - filled]
            target[filled : filled + len(piece)] = piece
            filled += len(piece)

    def _from(self, start: int) -> np.ndarray:
        """Tokens from `start` to the end of the record batch that holds it."""
        shard = bisect_right(self._starts, start) - 1
        batch, place = divmod(start - self._starts[shard], self._reader(shard).batch_tokens)
        return self._batch(shard, batch)[place:]

    def _reader(self, shard: int) -> _ShardReader:
        reader = self._readers.get(shard)
        if reader is None:
            with self._lock:
                reader = self._readers.get(shard) or _ShardReader(self._folder, self._shards[shard])
                self._readers[shard] = reader
        return reader

    def _batch(self, shard: int, batch: int) -> np.ndarray:
        reader = self._readers[shard]
        if reader.mapped is not None:
            return reader.mapped[batch]
        with self._lock:
            key = (shard, batch)
            if key not in self._batches:
                self._batches[key] = reader.fetch(batch)
            self._batches.move_to_end(key)
            while len(self._batches) > CACHED_BATCHES:
                self._batches.popitem(last=False)
            return self._batches[key]


class _ShardReader:
    def __init__(self, folder: Folder, shard: Shard) -> None:
        import pyarrow as pa

        name = f"tokens-{shard.number:05d}.arrow"
        if folder.local is not None:
            source = pa.memory_map(str(folder.local / name))
        else:
            source = folder.filesystem.open_input_file(f"{folder.path}/{name}")
        try:
            self._file = pa.ipc.open_file(source)
            first = self.fetch(0)
        except pa.ArrowInvalid as error:
            raise StoreError(f"{folder}/{name}: is no Arrow file any more ({error}); delete {folder}") from error
        self.batch_tokens = len(first)
        # Numpy views of the map: they keep the pages alive and copy nothing.
        self.mapped = [self.fetch(i) for i in range(self._file.num_record_batches)] if folder.local else None

    def fetch(self, batch: int) -> np.ndarray:
        return self._file.get_batch(batch).column(0).to_numpy(zero_copy_only=True)
