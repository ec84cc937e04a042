"""The first reading of a source that is cleaned: codes, measures and hashes of each document by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from raycodellm.corpora.cleaning import contamination, duplicates
from raycodellm.corpora.cleaning.plan import CONTAMINATED, Check, CleaningPlan, checks, column_value
from raycodellm.corpora.cleaning.words import PIECE, hash_words
from raycodellm.corpora.documents import Document, Skip, content_digest, document_key
from raycodellm.corpora.grouping import grouped

BATCH_DOCUMENTS = 4096
"""Most documents whose statistics are computed together."""
UNIT = 1 << 32
"""More documents than a unit of reading, the input of one task, has."""


@dataclass(frozen=True)
class DocumentStats:
    """Codes, measures and hashes of some neighbouring documents of a source."""

    position: int
    """Place of the first document in the source: `UNIT` times the unit of reading, plus its number in the unit."""
    codes: np.ndarray
    """uint8[documents]: 0, or 1 + the place of the reason in `CleaningPlan.reasons`."""
    columns: Mapping[str, np.ndarray]
    """One value per document with code 0: its `position`, and the values that `decide` needs."""
    examples: tuple[tuple[int, int, str, str], ...] = ()
    """(position, task, document id, words) of the first documents per task that share words with its items."""
    contaminated: Mapping[int, int] = field(default_factory=dict)
    """Task to the number of documents that share words with its items; a document may count for several tasks."""


def survey(rows: Iterable[Document | Skip], plan: CleaningPlan, unit: int = 0) -> Iterator[DocumentStats]:
    """Statistics of batches of a unit's documents, in their order. Skips are left to the second reading."""
    tests = list(checks(plan.source))
    documents = (row for row in rows if isinstance(row, Document))
    position = unit * UNIT
    for batch in grouped(documents, lambda document: len(document.content), PIECE, BATCH_DOCUMENTS):
        yield _survey_batch(batch, plan, tests, position)
        position += len(batch)


def _survey_batch(
    batch: list[Document], plan: CleaningPlan, tests: list[tuple[str, Check]], position: int
) -> DocumentStats:
    codes = np.array([_code(tests, document) for document in batch], np.uint8)
    passing = np.flatnonzero(codes == 0)
    near_duplicates = plan.near
    words = hash_words([batch[row].content for row in passing]) if near_duplicates or plan.benchmark else None
    examples: tuple[tuple[int, int, str, str], ...] = ()
    counts: dict[int, int] = {}
    if plan.benchmark and words:
        runs_of = contamination.matches(words, plan.benchmark)
        examples, counts = _examples(batch, passing, runs_of, position)
        codes[passing[sorted(runs_of)]] = 1 + plan.reasons.index(CONTAMINATED)
    clean = np.flatnonzero(codes[passing] == 0)
    documents = [batch[row] for row in passing[clean]]
    columns = {"position": np.uint64(position) + passing[clean].astype(np.uint64)}
    if plan.cleaning.exact_duplicates:
        digests = np.frombuffer(b"".join(map(content_digest, documents)), np.uint64).reshape(-1, 2)
        columns |= {"digest_low": digests[:, 0], "digest_high": digests[:, 1]}
    if near_duplicates and words:
        bands, columns["sketch"] = (column[clean] for column in duplicates.signatures(words, near_duplicates))
        columns |= {f"band{number}": band for number, band in enumerate(bands.T)}
    if plan.source.take:
        columns["num_bytes"] = np.array([len(document.content.encode()) for document in documents], np.int64)
        score_field = plan.source.score_field or ""
        columns["score"] = np.array([float(column_value(document, score_field)) for document in documents])
    if plan.source.limit_documents:
        keys = [int.from_bytes(document_key(plan.seed, document)[:8]) for document in documents]
        columns["key"] = np.array(keys, np.uint64)
    return DocumentStats(position, codes, columns, examples, counts)


def _code(tests: list[tuple[str, Check]], document: Document) -> int:
    return next((number for number, (_, test) in enumerate(tests, 1) if test(document)), 0)


def _examples(
    batch: list[Document], rows: np.ndarray, runs_of: Mapping[int, Mapping[int, tuple[int, int]]], position: int
) -> tuple[tuple[tuple[int, int, str, str], ...], dict[int, int]]:
    counts: Counter[int] = Counter()
    examples = []
    for text in sorted(runs_of):
        document = batch[rows[text]]
        for task, run in runs_of[text].items():
            counts[task] += 1
            if counts[task] <= contamination.EXAMPLES:
                words = contamination.words_of_run(document.content, *run)
                examples.append((position + int(rows[text]), task, document.id, words))
    return tuple(examples), dict(counts)
