"""The files of a source, as they are listed before any of them is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class InputFile(NamedTuple):
    uri: str
    num_bytes: int
    digest: str
    """Hash of the content, or of size and time of change; empty if the file cannot be read."""
    name: str
    """Path inside the source. Documents are called after it, so that a moved folder stays the same source."""


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
