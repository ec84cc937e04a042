"""Reports of the progress of a token store that is being made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raycodellm.tokens.manifest import Manifest


@dataclass(frozen=True)
class SourceProgress:
    """Progress of one source. The tokenizer is reported under the name `tokenizer`."""

    source: str
    state: str
    """running, done or reused"""
    documents: int = 0
    """Documents tokenised so far."""
    tokens: int = 0
    num_bytes: int = 0
    """UTF-8 bytes of the documents so far."""
    seconds: float = 0.0


Report = Callable[[SourceProgress], None]


def progress_of(name: str, state: str, manifest: Manifest, seconds: float) -> SourceProgress:
    """The progress of a finished store."""
    return SourceProgress(name, state, manifest.num_documents, manifest.num_tokens, manifest.num_bytes, seconds)
