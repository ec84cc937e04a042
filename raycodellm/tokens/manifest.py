"""A token store's manifest, written last, and the error of a store that differs from its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from raycodellm.config import INSTRUCT_KINDS
from raycodellm.files import Damaged, Folder

FORMAT_VERSION = 2
MANIFEST = "manifest.json"


class StoreError(Damaged, RuntimeError):
    """A token store is damaged; the message names the file, the damage and the remedy."""


@dataclass(frozen=True)
class Shard:
    """One part of a store, as the manifest lists it."""

    number: int
    num_documents: int
    num_tokens: int
    num_bytes: int
    """UTF-8 bytes of the documents."""
    files: dict[str, list]
    """[bytes, BLAKE2b of the content as 32 hex digits] of each file, by name."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Records that became no document, by reason."""
    skipped_bytes: dict[str, int] = field(default_factory=dict)
    """UTF-8 bytes of the documents that cleaning left out, by reason."""


@dataclass(frozen=True)
class Manifest:
    """Contents and origin of a token store; every count is exact."""

    name: str
    kind: str
    fingerprint: str
    source_fingerprint: str
    tokenizer_fingerprint: str
    seed: int
    vocab_size: int
    eos_id: int
    num_tokens: int
    """All tokens, end-of-text tokens included."""
    num_documents: int
    num_examples: int
    """Examples of instruction data; 0 for plain stores."""
    num_bytes: int
    """UTF-8 bytes of the documents."""
    skipped: dict[str, int]
    """Records that became no document, by reason."""
    shards: tuple[Shard, ...]
    format_version: int = FORMAT_VERSION
    skipped_bytes: dict[str, int] = field(default_factory=dict)
    """UTF-8 bytes of the documents that cleaning left out, by reason; unknown, so absent, for unreadable records."""
    content_digest: str = ""
    """Digest of a builtin corpus's documents before cleaning; see `corpora.builtin_digest`."""

    @property
    def dtype(self) -> np.dtype:
        return token_dtype(self.vocab_size)

    @property
    def is_instruct(self) -> bool:
        return self.kind in INSTRUCT_KINDS


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every token id."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def write_manifest(folder: Folder, shards: Iterable[Shard], **settings: Any) -> Manifest:
    """Adds up the shards' counts and writes the manifest, which finishes the store."""
    shards = tuple(sorted(shards, key=lambda shard: shard.number))
    num_documents = sum(shard.num_documents for shard in shards)
    manifest = Manifest(
        **settings,
        num_tokens=sum(shard.num_tokens for shard in shards),
        num_documents=num_documents,
        num_examples=num_documents if settings["kind"] in INSTRUCT_KINDS else 0,
        num_bytes=sum(shard.num_bytes for shard in shards),
        skipped=added_counts(shard.skipped for shard in shards),
        shards=tuple(shard for shard in shards if shard.files),
        skipped_bytes=added_counts(shard.skipped_bytes for shard in shards),
    )
    folder.write_json(MANIFEST, asdict(manifest))
    return manifest


def added_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of counts by reason, in the order of the reasons' names."""
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(sorted(total.items()))


def read_manifest(folder: Folder) -> Manifest:
    """The manifest of a store; raises StoreError when it is damaged or of another format version."""
    try:
        fields = folder.read_json(MANIFEST)
        manifest = Manifest(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}/{MANIFEST}: is not a manifest ({error}); delete {folder}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise StoreError(f"{folder}: has format {manifest.format_version}, read is {FORMAT_VERSION}; delete {folder}")
    return manifest
