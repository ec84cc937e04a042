"""The files of a source as they are listed before any of them is read, and the parts that they are cut into."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

MIB = 1 << 20
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


class InputFile(NamedTuple):
    uri: str
    num_bytes: int
    digest: str
    """Differs when the file has changed: a hash of the content, or of size and time; empty if it cannot be read."""
    name: str
    """Path inside the source. Document ids begin with this path, so that a moved folder stays the same source."""

    def part(self, start: int, stop: int) -> Part:
        return Part(self.uri, self.name, self.num_bytes, start, stop)


@dataclass(frozen=True)
class SourceInputs:
    """The files of a source and what identifies them."""

    fingerprint: str
    files: tuple[InputFile, ...]
    num_bytes: int
    """Bytes of the files; for a builtin source about the bytes of its text."""
    format: str
    """Name of the format that the files are read as (a file of `formats/`), or `builtin`."""
    seed: int = 0
    """Seed of a builtin source that is drawn at random."""
    excluded: tuple[tuple[str, int], ...] = ()
    """(reason, number of files, folders or commits) that listing left out. No part of the fingerprint."""

    @property
    def is_builtin(self) -> bool:
        return self.format == "builtin"


class Part(NamedTuple):
    """A byte range of a file. Every record that begins in the range belongs to the part."""

    uri: str
    name: str
    """Path of the file inside its source."""
    num_bytes: int
    """Size of the whole file."""
    start: int
    stop: int


def compression(name: str) -> str | None:
    """Name of the compression that the file name's extension says."""
    return COMPRESSIONS.get(os.path.splitext(name.lower())[1])


def extension(name: str) -> str:
    """The extension in lower case, without that of a compression: `.jsonl` for `a.jsonl.gz`."""
    stem, suffix = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if suffix in COMPRESSIONS else suffix
