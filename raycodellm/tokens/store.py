"""Token stores on disk: one source, tokenised and shuffled once, read as sequences of any length.

A store is a folder of Arrow IPC files and a `manifest.json`, written last. `tokens-00000.arrow` holds documents one
after the other, each closed by the end-of-text token, as one column of uint16 (vocabularies up to 65,536) or uint32
in record batches: memory-mapped on a local disk, fetched by ranges from object storage. `documents-00000.arrow` holds
the tokens per document; stores of instruction data have `examples-00000.arrow` instead, with the prompt tokens too.

Opening a store imports neither Ray nor transformers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from pyarrow.fs import FileSelector

from raycodellm import retrying
from raycodellm.files import Folder, fingerprint
from raycodellm.identity import file_hashes
from raycodellm.tokens.documents import Documents, Reading, Stretches, read_documents
from raycodellm.tokens.manifest import MANIFEST, Manifest, StoreError, read_manifest
from raycodellm.tokens.packing import PACKING_VERSION, PACKINGS, Packing, PackingReport, pack, report
from raycodellm.tokens.packing_file import cached_packing, file_name
from raycodellm.tokens.stream import Stream

REMOTE_VERIFIED_BYTES = 1 << 30
"""Stores on object storage up to this size are verified, which reads them whole, before they are trained on."""


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
        """Opens a finished store.

        Raises FileNotFoundError for no finished store, StoreError when a file is missing or has another length.
        """
        folder = folder if isinstance(folder, Folder) else Folder(folder)
        if not folder.exists(MANIFEST):
            raise FileNotFoundError(f"{folder}: no finished token store; `raycodellm prepare` makes it")
        manifest = read_manifest(folder)
        sizes = _file_sizes(folder)
        for shard in manifest.shards:
            for name, (size, _) in shard.files.items():
                if sizes.get(name) != size:
                    problem = "is missing" if name not in sizes else f"has {sizes[name]} bytes"
                    raise StoreError(
                        f"{folder}/{name}: {problem}, written were {size}; delete {folder} to make it again"
                    )
        return cls(folder, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder,)

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def num_tokens(self) -> int:
        return self.manifest.num_tokens

    def verify(self) -> None:
        """Compares every file with its checksum, once per node until the file changes. Raises StoreError."""
        expected = {name: checksum for shard in self.manifest.shards for name, (_, checksum) in shard.files.items()}
        hashes = file_hashes.stored_hashes(self.folder, list(expected))
        for (name, checksum), current in zip(expected.items(), hashes, strict=True):
            if current != checksum:
                raise StoreError(
                    f"{self.folder}/{name}: has changed since it was written; run again, or `raycodellm prepare`, to "
                    "make this token store again"
                )

    def verify_before_use(self) -> None:
        """Verifies the store, but for a large one on object storage. Raises StoreError.

        Object storage has checksums of its own, and reading a large store whole would delay every start; such a store
        is verified when it is copied to a node's disk (`scaling.cache`).
        """
        num_bytes = sum(size for shard in self.manifest.shards for size, _ in shard.files.values())
        if self.folder.local is not None or num_bytes <= REMOTE_VERIFIED_BYTES:
            self.verify()

    def held_out(self, num_tokens: int) -> int:
        """Tokens of the whole documents that are held out when `num_tokens` are asked for."""
        return self._stretches_of(Reading(held_out_tokens=num_tokens, measured=True)).num_tokens

    def held_out_documents(self, num_tokens: int) -> Iterator[np.ndarray]:
        """The tokens of each document that is held out when `num_tokens` are asked for, without the end-of-text token,
        in the store's order."""
        documents = self._all_documents().included_by(Reading(held_out_tokens=num_tokens, measured=True))
        for start, size in zip(documents.start.tolist(), documents.num_tokens.tolist(), strict=True):
            yield self._stream.gather(np.array([start]), size - 1)[0]

    def num_sequences(self, sequence_length: int, reading: Reading | str = "concatenate") -> int:
        """Sequences in one epoch. A `reading` given as text names the packing, with no document held out."""
        reading = _as_reading(reading)
        table = self._table(sequence_length, reading)
        if table is not None:
            return table.num_sequences
        num_tokens = self._stretches_of(reading).num_tokens if reading.held_out_tokens else self.manifest.num_tokens
        return num_tokens // sequence_length

    def packing_report(self, sequence_length: int, packing: str = "concatenate") -> PackingReport:
        """Tokens dropped and padded and documents split in one epoch of sequences of this length."""
        table, sizes = self._table(sequence_length, _as_reading(packing)), self._all_documents().num_tokens
        return report(sizes, sequence_length, packing, self.manifest.is_instruct, table)

    def packed(self, reading: Reading | str) -> PackedStore:
        """This store, always read as `reading` says."""
        return PackedStore(self, _as_reading(reading))

    def read(
        self, sequences: np.ndarray, sequence_length: int, reading: Reading | str = "concatenate"
    ) -> tuple[np.ndarray, np.ndarray]:
        """(tokens int32[n, sequence_length], loss_mask bool[n, sequence_length]) of the numbered sequences.

        Raises IndexError for a number outside 0..`num_sequences`-1.
        """
        tokens, mask = self.read_raw(sequences, sequence_length, reading)
        return tokens.astype(np.int32), np.ones(tokens.shape, bool) if mask is None else mask

    def read_raw(
        self, sequences: np.ndarray, sequence_length: int, reading: Reading | str = "concatenate"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """As `read`, with tokens of the store's own dtype, and None for the mask when every token counts."""
        sequences, reading = np.asarray(sequences, np.int64), _as_reading(reading)
        count = self.num_sequences(sequence_length, reading)
        if len(sequences) and (sequences.min() < 0 or sequences.max() >= count):
            raise IndexError(f"{self.folder}: sequence {sequences.max()} of {count} of length {sequence_length}")
        table = self._table(sequence_length, reading)
        if table is None:
            places, run = sequences * sequence_length, self._stretches_of(reading) if reading.held_out_tokens else None
            gather = self._stream.gather if run is None else partial(run.gather, self._stream)
            return gather(places, sequence_length), None
        tokens, inside, answers = self._read_pieces(table, sequences, sequence_length)
        return tokens, inside if reading.prompts_count or answers is None else answers

    def _read_pieces(
        self, table: Packing, sequences: np.ndarray, length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(tokens, mask of tokens that are no padding, mask of response tokens: None for plain documents)"""
        first_pieces, counts = table.bounds[sequences], np.diff(table.bounds)[sequences]
        pieces = np.repeat(first_pieces - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        sizes = table.size[pieces].astype(np.int64)
        filled = np.bincount(np.repeat(np.arange(len(sequences)), counts), sizes, minlength=len(sequences))
        inside = np.arange(length) < filled[:, None]  # pieces fill a sequence from its beginning
        tokens = np.full(inside.shape, self.manifest.eos_id, self.manifest.dtype)
        tokens[inside] = self._stream.stretches(table.start[pieces], sizes)
        if table.num_prompt is None:
            return tokens, inside, None
        mask = np.zeros(inside.shape, bool)
        place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        mask[inside] = place >= np.repeat(table.num_prompt[pieces], sizes)
        return tokens, inside, mask

    def _table(self, sequence_length: int, reading: Reading) -> Packing | None:
        """The table of sequences; None for plain documents end to end, which need no table."""
        if reading.packing == "concatenate" and not self.manifest.is_instruct:
            return None
        with self._lock:
            table = self._packings.get((sequence_length, reading))
        if table is None:
            table = cached_packing(
                self.folder,
                file_name(reading.packing, sequence_length, reading.held_out_tokens, reading.measured),
                self._packing_fingerprint(sequence_length, reading),
                partial(self._pack, sequence_length, reading),
            )
            with self._lock:
                self._packings[sequence_length, reading] = table
        return table

    def _pack(self, sequence_length: int, reading: Reading) -> Packing:
        documents = self._all_documents().included_by(reading)
        return pack(documents.num_tokens, sequence_length, reading.packing, documents.num_prompt, documents.start)

    def _packing_fingerprint(self, sequence_length: int, reading: Reading) -> str:
        """The fingerprint of all that decides the packing."""
        checksums = [[name, *entry] for shard in self.manifest.shards for name, entry in sorted(shard.files.items())]
        packing, held_out_tokens, measured, _ = reading
        return fingerprint([PACKING_VERSION, packing, held_out_tokens, measured, sequence_length, checksums])

    def _stretches_of(self, reading: Reading) -> Stretches:
        """The documents that `reading` includes, end to end."""
        reading = Reading(held_out_tokens=reading.held_out_tokens, measured=reading.measured)
        with self._lock:
            if reading not in self._stretches:
                # The documents are not kept: they take 16 bytes each, in every process that reads.
                documents = self._documents or read_documents(self.folder, self.manifest)
                for part in (reading, reading._replace(measured=not reading.measured)):
                    self._stretches[part] = Stretches(documents.included_by(part))
            return self._stretches[reading]

    def _all_documents(self) -> Documents:
        with self._lock:
            if self._documents is None:
                self._documents = read_documents(self.folder, self.manifest)
            return self._documents


def _as_reading(reading: Reading | str) -> Reading:
    reading = Reading(reading) if isinstance(reading, str) else reading
    if reading.packing not in PACKINGS:
        raise ValueError(f"packing {reading.packing!r} is not one of {', '.join(PACKINGS)}")
    return reading


@dataclass(frozen=True)
class PackedStore:
    """A token store and one way to read it; pickles as both."""

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
        """True if every token of every sequence counts in the loss: no prompts, no padding."""
        return self.packing == "concatenate" and not self.manifest.is_instruct

    def measured(self) -> PackedStore:
        """The documents that are held out of this store."""
        return PackedStore(self.store, self.reading._replace(measured=True))

    def num_sequences(self, sequence_length: int) -> int:
        return self.store.num_sequences(sequence_length, self.reading)

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]:
        """As `TokenStore.read`."""
        return self.store.read(sequences, sequence_length, self.reading)

    def read_raw(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray | None]:
        """As `TokenStore.read_raw`."""
        return self.store.read_raw(sequences, sequence_length, self.reading)


def _reopened(folder: Folder) -> TokenStore:
    """The unpickled store, opened once per process until its manifest changes."""
    return retrying.patiently(lambda: _open_once(folder, folder.stamp(MANIFEST)), "a token store")


@lru_cache(maxsize=64)
def _open_once(folder: Folder, stamp: tuple[int, int] | None) -> TokenStore:
    return TokenStore.open(folder)


def _file_sizes(folder: Folder) -> dict[str, int]:
    return {info.base_name: info.size for info in folder.filesystem.get_file_info(FileSelector(folder.path))}
