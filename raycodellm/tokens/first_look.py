"""Looks into every source before the first token store is made, to refuse a source without documents at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from raycodellm.config import Source, UserError
from raycodellm.corpora import Document, SourceInputs, columns_found, read_in_process

LOOK_RECORDS = 10_000
"""Records without a document after which the look ends; making the store then reads the whole source."""
LOOK_SECONDS = 5.0
"""Seconds without a document after which the look ends."""


def look_into(sources: Mapping[str, tuple[Source, SourceInputs]]) -> list[str]:
    """The sources' names, first those whose beginning holds no document: their stores are made first.

    Raises UserError for a source that is read to its end and holds no document, with the reasons counted.
    """
    doubtful = {}
    for name, (source, inputs) in sources.items():
        skipped = None if inputs.format == "builtin" else _skipped_at_first(source, inputs)
        if skipped is not None:
            doubtful[name] = skipped
    unreadable = [name for name, (skipped, is_end) in doubtful.items() if is_end]
    if unreadable:
        name = unreadable[0]
        error = no_document(name, *sources[name], doubtful[name][0])
        other_names = ", ".join(f"sources.{other}" for other in unreadable[1:4])
        raise UserError(f"{error}; nor in {other_names}" if other_names else str(error))
    return sorted(sources, key=lambda name: name not in doubtful)


def _skipped_at_first(source: Source, inputs: SourceInputs) -> tuple[Counter[str], bool] | None:
    """(records skipped by reason, whether the source has no more records); None when a document was found."""
    skipped: Counter[str] = Counter()
    began = time.monotonic()
    for row in read_in_process(source, inputs):
        if isinstance(row, Document):
            return None
        skipped[row.reason] += row.count
        if skipped.total() > LOOK_RECORDS or time.monotonic() - began > LOOK_SECONDS:
            return skipped, False
    return skipped, True


def no_document(name: str, source: Source, inputs: SourceInputs, skipped: Mapping[str, int]) -> UserError:
    """The error for a source without a document: the reasons counted, and the columns of its files."""
    by_count = sorted(skipped.items(), key=lambda item: -item[1])
    counts = ", ".join(f"{reason}: {count}" for reason, count in by_count[:6]) or "nothing was found to read"
    hint = ""
    if any(reason.startswith("no column") for reason in skipped):
        hint = f"; columns found: {columns_found(source, inputs)[:200]}; name one as text_field"
    return UserError(f"sources.{name}: {source.path}: no document could be read ({counts}){hint}")
