"""The plan of a source's cleaning: its settings, the reasons for leaving documents out, the checks of one document.

A source is read twice. The first reading (`survey`) notes for each document a code for the first check that it fails,
or else its score, hashes and signature, some 300 bytes at most. `decide` brings them together, in columns on the local
disk, and gives one byte per document. The second reading (`cleaned`) drops documents by these bytes.

The order is fixed, and a document is counted under the first reason that holds:

1. checks of the document by itself: paths, licenses, length, script, score, words shared with an evaluation item;
2. exact duplicates, then near duplicates, of the documents left: the first in the source's order stays;
3. `take` by score, of the documents left; documents of equal score in the source's order;
4. `limit_documents`, of the documents left.

Documents that hold evaluation items are left out before the search for duplicates, so that a clean document is never
left out as a duplicate of one of them.
The result does not depend on how the source was cut into parts, nor on which process read them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from raycodellm.config import Cleaning, NearDuplicates, Source
from raycodellm.corpora.cleaning.contamination import Benchmark
from raycodellm.corpora.cleaning.words import script_share
from raycodellm.corpora.documents import Document
from raycodellm.corpora.listing.globs import Glob

CLEANING_VERSION = 2
"""To be raised whenever equal settings keep other documents."""
CONTAMINATED = "words of an evaluation item"
EXACT = "exact duplicate"
NEAR = "near duplicate"
LIMIT = "over limit_documents"
Check = Callable[[Document], bool]
"""True for a document to leave out."""


@dataclass(frozen=True)
class CleaningPlan:
    """Settings by which one source is cleaned."""

    source: Source
    """The source with the sweep's cleaning settings filled in."""
    seed: int
    """Seed of the order in which `limit_documents` counts documents."""
    benchmark: Benchmark | None = None

    @property
    def cleaning(self) -> Cleaning:
        return self.source.cleaning or Cleaning()

    @property
    def near(self) -> NearDuplicates | None:
        settings = self.cleaning.near_duplicates
        return settings if settings and settings.enabled else None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons for leaving a document out, that of a code at place code - 1; a document with code 0 stays."""
        take = self.source.take
        take_reasons = (f"not in the {take.end} {100 * take.share:g} % by {self.source.score_field}",) if take else ()
        return (*(reason for reason, _ in checks(self.source)), CONTAMINATED, EXACT, NEAR, *take_reasons, LIMIT)

    @property
    def take_reason(self) -> str:
        """The reason for documents that `take` leaves out."""
        return self.reasons[-2]


def cleaning_identity(source: Source, benchmark: Benchmark | None) -> list[Any] | None:
    """The settings and items that the result depends on, beside the source; None if nothing is cleaned."""
    settings = (source.cleaning or Cleaning()).active_settings()
    if source.take:
        settings["take"] = [source.take.end, source.take.share, source.score_field]
    if "licenses" in settings:
        settings["licenses"] = [source.license_field, sorted(name.lower() for name in settings["licenses"])]
    if not settings:
        return None
    return [CLEANING_VERSION, settings, benchmark.identity if benchmark and "decontaminate" in settings else None]


# ------------------------------------------------------------------------------------ checks of one document


def checks(source: Source) -> Iterator[tuple[str, Check]]:
    """(reason, check) in the order in which they count."""
    cleaning = source.cleaning or Cleaning()
    if cleaning.paths and cleaning.paths.include:
        included = _any_glob(cleaning.paths.include)
        yield "path not included", lambda document: not included(_path(document))
    if cleaning.paths and cleaning.paths.exclude:
        excluded = _any_glob(cleaning.paths.exclude)
        yield "path excluded", lambda document: excluded(_path(document))
    if cleaning.licenses:
        column, allowed_licenses = source.license_field or "", frozenset(name.lower() for name in cleaning.licenses)
        yield "no license", lambda document: not _licenses(column_value(document, column))
        yield "license not allowed", lambda document: not _is_allowed(column_value(document, column), allowed_licenses)
    if min_characters := cleaning.min_characters:
        yield f"under {min_characters} characters", lambda document: len(document.content) < min_characters
    if max_characters := cleaning.max_characters:
        yield f"over {max_characters} characters", lambda document: len(document.content) > max_characters
    for script, share in (cleaning.script or {}).items():
        yield f"under {100 * share:g} % {script.lower()} letters", _too_little_of(script, share)
    if source.take:
        score = source.score_field or ""
        yield f"no {score}", lambda document: column_value(document, score) is None
        yield f"{score} is not a number", lambda document: not _is_number(column_value(document, score))


def _too_little_of(script: str, share: float) -> Check:
    return lambda document: script_share(document.content, script) < share


def column_value(document: Document, column: str) -> Any:
    """Value of a column of the document's record; None if the record has no such column."""
    return (document.meta or {}).get(column)


def _path(document: Document) -> str:
    """Path of a file inside its source; for a record the path of the file that it is in."""
    return column_value(document, "path") or re.sub(r":\d+$", "", document.id)


def _any_glob(patterns: Sequence[str]) -> Callable[[str], bool]:
    """A function of paths. A pattern without a slash matches at any depth; one of a folder matches the files in it."""
    globs = [Glob(pattern if "/" in pattern else f"**/{pattern}") for pattern in patterns]
    return lambda path: any(glob.match(path) for glob in globs)


def _licenses(value: Any) -> list[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [name.strip() for name in values if isinstance(name, str) and name.strip()]


def _is_allowed(value: Any, allowed: frozenset[str]) -> bool:
    """True if every license of a list is allowed. Of an SPDX expression, all AND terms of one side of an OR must be."""
    return all(
        any(
            all(part.strip() in allowed for part in re.split(r"\s+and\s+", choice))
            for choice in re.split(r"\s+or\s+", expression.lower())
        )
        for expression in _licenses(value)
    )


def _is_number(value: Any) -> bool:
    """True for a number that a float can hold; JSON may have longer whole numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
