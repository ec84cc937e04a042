"""Which documents of a source stay, decided before any is tokenised.

The source is read twice. The first reading, `survey`, looks at each document and notes what the decision needs: a code
for what is wrong with it, else its length, score, hashes and signature, some 300 bytes. `decide` brings them together,
in columns on the local disk, and gives one byte per document. The second reading, `cleaned`, drops by these bytes.

The order is fixed; a document is counted under the first reason that holds:

1. by itself: paths, licenses, length, script, score, words in common with an evaluation item;
2. exact duplicates, then near duplicates, of what is left: the first in the source's order stays;
3. `take`, by score, of what is left; documents of equal score in the source's order;
4. `limit_documents`, of what is left.

What the evaluation has in it goes before duplicates are looked for, so that it never stands for a document that is
clean. Nothing depends on how the source was cut into parts, nor on who read them.
"""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raycodellm.config import Cleaning, NearDuplicates, Source, Take
from raycodellm.corpora import contamination, duplicates
from raycodellm.corpora.contamination import Benchmark
from raycodellm.corpora.layouts import Glob
from raycodellm.corpora.records import Document, Skip, document_key
from raycodellm.corpora.words import PIECE, hash_words, script_share

CLEANING_VERSION = 2
"""Raised whenever equal settings keep other documents."""
BATCH_DOCUMENTS = 4096
CONTAMINATED = "words of an evaluation item"
EXACT = "exact duplicate"
NEAR = "near duplicate"
LIMIT = "over limit_documents"
Check = Callable[[Document], bool]
"""True for a document to leave out."""


@dataclass(frozen=True)
class CleaningPlan:
    """How one source is cleaned."""

    source: Source
    """Its `cleaning` with the sweep's settings in it."""
    seed: int
    """Of the order that `limit_documents` goes by."""
    benchmark: Benchmark | None = None

    @property
    def cleaning(self) -> Cleaning:
        return self.source.cleaning or Cleaning()

    @property
    def near(self) -> NearDuplicates | None:
        near = self.cleaning.near_duplicates
        return near if near and near.enabled else None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Code - 1 -> why a document was left out; code 0 stays."""
        take = self.source.take
        taken = (f"not in the {take.end} {100 * take.share:g} % by {self.source.score_field}",) if take else ()
        return (*(reason for reason, _ in checks(self.source)), CONTAMINATED, EXACT, NEAR, *taken, LIMIT)

    @property
    def taken(self) -> str:
        return self.reasons[-2]


def cleaning_identity(source: Source, benchmark: Benchmark | None) -> list[Any] | None:
    """What the result depends on beside the source itself; None where nothing is cleaned."""
    settings = (source.cleaning or Cleaning()).active()
    if source.take:
        settings["take"] = [source.take.end, source.take.share, source.score_field]
    if "licenses" in settings:
        settings["licenses"] = [source.license_field, sorted(name.lower() for name in settings["licenses"])]
    if not settings:
        return None
    return [CLEANING_VERSION, settings, benchmark.identity if benchmark and "decontaminate" in settings else None]


# ------------------------------------------------------------------------------------------------ one document


def checks(source: Source) -> list[tuple[str, Check]]:
    """(reason, test) in their order: all that a document shows by itself."""
    cleaning = source.cleaning or Cleaning()
    found: list[tuple[str, Check]] = []
    if cleaning.paths and cleaning.paths.include:
        included = _any_glob(cleaning.paths.include)
        found.append(("path not included", lambda document: not included(_path(document))))
    if cleaning.paths and cleaning.paths.exclude:
        excluded = _any_glob(cleaning.paths.exclude)
        found.append(("path excluded", lambda document: excluded(_path(document))))
    if cleaning.licenses:
        column, allowed = source.license_field or "", frozenset(name.lower() for name in cleaning.licenses)
        found.append(("no license", lambda document: not _licenses(_meta(document, column))))
        found.append(("license not allowed", lambda document: not _is_allowed(_meta(document, column), allowed)))
    if least := cleaning.min_characters:
        found.append((f"under {least} characters", lambda document: len(document.content) < least))
    if most := cleaning.max_characters:
        found.append((f"over {most} characters", lambda document: len(document.content) > most))
    for script, share in (cleaning.script or {}).items():
        found.append((f"under {100 * share:g} % {script.lower()} letters", _too_little_of(script, share)))
    if source.take:
        score = source.score_field or ""
        found.append((f"no {score}", lambda document: _meta(document, score) is None))
        found.append((f"{score} is not a number", lambda document: not _is_number(_meta(document, score))))
    return found


def _too_little_of(script: str, share: float) -> Check:
    return lambda document: script_share(document.content, script) < share


def _meta(document: Document, column: str) -> Any:
    return (document.meta or {}).get(column)


def _path(document: Document) -> str:
    """Path inside a source tree; for records the file that they are in."""
    return _meta(document, "path") or re.sub(r":\d+$", "", document.id)


def _any_glob(patterns: Sequence[str]) -> Callable[[str], bool]:
    """A pattern without a slash may match at any depth, and one that matches a folder matches all that is in it."""
    globs = [Glob(pattern if "/" in pattern else f"**/{pattern}") for pattern in patterns]
    return lambda path: any(glob.match(path) for glob in globs)


def _licenses(value: Any) -> list[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [one.strip() for one in values if isinstance(one, str) and one.strip()]


def _is_allowed(value: Any, allowed: frozenset[str]) -> bool:
    """Every license of a list; of an SPDX expression without brackets, all that AND joins of one that OR parts off."""
    return all(
        any(
            all(part.strip() in allowed for part in re.split(r"\s+and\s+", choice))
            for choice in re.split(r"\s+or\s+", expression.lower())
        )
        for expression in _licenses(value)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ------------------------------------------------------------------------------------------------ first reading


@dataclass(frozen=True)
class DocumentStats:
    """What some neighbouring documents showed."""

    codes: np.ndarray
    """uint8[documents]: 0, or 1 + the place of the reason among `CleaningPlan.reasons`."""
    columns: Mapping[str, np.ndarray]
    """Of the documents with code 0: `row`, and what the later decisions need."""
    examples: tuple[tuple[int, int, str, str], ...] = ()
    """(row, task, document, words) of the first documents of each task that have words of its items."""
    contaminated: Mapping[int, int] = field(default_factory=dict)
    """Task -> documents with words of its items; a document may count for several."""


def survey(rows: Iterable[Document | Skip], plan: CleaningPlan) -> Iterator[DocumentStats]:
    """In the order of the documents; what could not be read is left to the second reading."""
    tests = checks(plan.source)
    batch: list[Document] = []
    size = 0
    for row in rows:
        if isinstance(row, Skip):
            continue
        batch.append(row)
        size += len(row.text) + len(row.response or "")
        if size >= PIECE or len(batch) >= BATCH_DOCUMENTS:
            yield _survey_batch(batch, plan, tests)
            batch, size = [], 0
    if batch:
        yield _survey_batch(batch, plan, tests)


def _survey_batch(batch: list[Document], plan: CleaningPlan, tests: list[tuple[str, Check]]) -> DocumentStats:
    codes = np.array([_first(tests, document) for document in batch], np.uint8)
    left = np.flatnonzero(codes == 0)
    near = plan.near
    words = hash_words([batch[row].content for row in left]) if near or plan.benchmark else None
    examples, counts = (), {}
    if plan.benchmark and words:
        found = contamination.matches(words, plan.benchmark)
        examples, counts = _examples(batch, left, found)
        codes[left[sorted(found)]] = 1 + plan.reasons.index(CONTAMINATED)
    still = np.flatnonzero(codes[left] == 0)
    kept = [batch[row] for row in left[still]]
    columns = {"row": left[still], "num_bytes": np.array([len(d.content.encode()) for d in kept], np.int64)}
    if plan.cleaning.exact_duplicates:
        digests = np.frombuffer(b"".join(map(_content_digest, kept)), np.uint64).reshape(-1, 2)
        columns |= {"digest_low": digests[:, 0], "digest_high": digests[:, 1]}
    if near and words:
        bands, columns["sketch"] = (column[still] for column in duplicates.signatures(words, near))
        columns |= {f"band{number}": band for number, band in enumerate(bands.T)}
    if plan.source.take:
        columns["score"] = np.array([float(_meta(d, plan.source.score_field or "")) for d in kept])
    if plan.source.limit_documents:
        columns["key"] = np.array([int.from_bytes(document_key(plan.seed, d)[:8]) for d in kept], np.uint64)
    return DocumentStats(codes, columns, examples, counts)


def _first(tests: list[tuple[str, Check]], document: Document) -> int:
    return next((number for number, (_, test) in enumerate(tests, 1) if test(document)), 0)


def _content_digest(document: Document) -> bytes:
    digest = hashlib.blake2b(document.text.encode(), digest_size=16)
    if document.response is not None:
        digest.update(b"\0" + document.response.encode())
    return digest.digest()


def _examples(
    batch: list[Document], rows: np.ndarray, found: Mapping[int, Mapping[int, tuple[int, int]]]
) -> tuple[tuple[tuple[int, int, str, str], ...], dict[int, int]]:
    counts: Counter[int] = Counter()
    examples = []
    for text in sorted(found):
        document = batch[rows[text]]
        for task, run in found[text].items():
            counts[task] += 1
            if counts[task] <= contamination.EXAMPLES:
                examples.append((int(rows[text]), task, document.id, contamination.spelled(document.content, *run)))
    return tuple(examples), dict(counts)


# ---------------------------------------------------------------------------------------------------- decision


@dataclass(frozen=True)
class Decision:
    """What the second reading goes by."""

    reasons: tuple[str, ...]
    codes: Mapping[int, bytes]
    """Unit of reading -> one byte per document in it."""
    num_tasks: int | None = None
    """What the source was cut for, when it was read in tasks."""
    findings: dict[str, Any] | None = None
    """What is written beside the store about evaluation items that were found."""


class SurveyResult:
    """The chunks of all units, in whatever order they come. Close after use.

    Columns are temporary files without a name: a killed process leaves none behind.
    """

    def __init__(self) -> None:
        self._files: dict[str, Any] = {}
        self._shapes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self.codes: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
        self.contaminated: Counter[int] = Counter()
        self._examples: dict[int, list[tuple[int, str, str]]] = defaultdict(list)
        self.num_documents = 0
        self.num_left = 0

    def add(self, unit: int, first: int, chunk: DocumentStats) -> None:
        """`first`: the number of the chunk's first document in its unit."""
        self.codes[unit][first] = chunk.codes
        self.num_documents += len(chunk.codes)
        self.num_left += len(chunk.columns["row"])
        self.contaminated.update(chunk.contaminated)
        for row, task, document, words in chunk.examples:
            some = [*self._examples[task], (_position(unit, first + row), document, words)]
            self._examples[task] = sorted(some)[: contamination.EXAMPLES]
        places = np.uint64(_position(unit, first)) + chunk.columns["row"].astype(np.uint64)
        for name, values in {**chunk.columns, "position": places}.items():
            if name not in self._files:
                self._files[name] = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes them
                self._shapes[name] = values.dtype, values.shape[1:]
            self._files[name].write(np.ascontiguousarray(values).data)

    def column(self, name: str) -> np.ndarray:
        """One value per document that the first reading left, in the order in which they came."""
        dtype, rest = self._shapes.get(name, (np.dtype(np.uint64), ()))
        if not self.num_left:
            return np.zeros((0, *rest), dtype)
        self._files[name].flush()
        return np.memmap(self._files[name], dtype, "r", shape=(self.num_left, *rest))

    @property
    def bands(self) -> list[np.ndarray]:
        return [self.column(name) for name in self._files if name.startswith("band")]

    @property
    def examples(self) -> dict[int, list[tuple[str, str]]]:
        return {task: [(document, words) for _, document, words in some] for task, some in self._examples.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> SurveyResult:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _position(unit: int, row: int) -> int:
    """Orders documents as the source does: units follow each other, and rows within a unit."""
    return unit << 32 | row


def decide(plan: CleaningPlan, gathered: SurveyResult, num_tasks: int | None = None) -> Decision:
    """Duplicates, `take` and the limit, for all documents together."""
    reasons = plan.reasons
    positions = gathered.column("position")
    found = np.zeros(gathered.num_left, np.uint8)

    def leave_out(rows: np.ndarray, reason: str) -> None:
        found[rows] = 1 + reasons.index(reason)

    if plan.cleaning.exact_duplicates and len(found):
        low, high = gathered.column("digest_low"), gathered.column("digest_high")
        leave_out(duplicates.exact(low, high, positions), EXACT)
    if plan.near and len(found):
        sketches = gathered.column("sketch")
        leave_out(duplicates.near(gathered.bands, sketches, positions, found == 0, plan.near.jaccard), NEAR)
    if plan.source.take:
        left = np.flatnonzero(found == 0)
        scores, sizes = gathered.column("score")[left], gathered.column("num_bytes")[left]
        leave_out(left[not_taken(scores, sizes, positions[left], plan.source.take)], plan.taken)
    if plan.source.limit_documents:
        left = np.flatnonzero(found == 0)
        order = np.lexsort((positions[left], gathered.column("key")[left]))
        leave_out(left[order[plan.source.limit_documents :]], LIMIT)
    findings = None
    if plan.benchmark:
        findings = contamination.findings(plan.benchmark, gathered.contaminated, gathered.examples)
    return Decision(reasons, _codes_of_units(gathered, positions, found), num_tasks, findings)


def not_taken(scores: np.ndarray, sizes: np.ndarray, positions: np.ndarray, take: Take) -> np.ndarray:
    """Rows beyond the share of `sizes` that is taken, best first; the document in which the share is reached is in."""
    order = np.lexsort((positions, -scores if take.end == "top" else scores))
    before = np.cumsum(sizes[order]) - sizes[order]
    return order[before >= take.share * sizes.sum()]


def _codes_of_units(gathered: SurveyResult, positions: np.ndarray, found: np.ndarray) -> dict[int, bytes]:
    units = {
        unit: np.concatenate([chunks[first] for first in sorted(chunks)]) for unit, chunks in gathered.codes.items()
    }
    removed = np.flatnonzero(found)
    places = np.asarray(positions[removed])
    of_unit, rows = (places >> np.uint64(32)).astype(np.int64), (places & np.uint64(0xFFFFFFFF)).astype(np.int64)
    order = np.argsort(of_unit, kind="stable")
    bounds = np.searchsorted(of_unit[order], [[unit, unit + 1] for unit in units]) if len(removed) else None
    for number, codes in enumerate(units.values()):
        if bounds is not None:
            mine = order[slice(*bounds[number])]
            codes[rows[mine]] = found[removed[mine]]
    return {unit: codes.tobytes() for unit, codes in units.items()}


# ----------------------------------------------------------------------------------------------- second reading


def cleaned(rows: Iterable[Document | Skip], codes: bytes, reasons: Sequence[str]) -> Iterator[Document | Skip]:
    """The documents that stay, and a `Skip` with its bytes for each that does not.

    Raises RuntimeError where the documents are not those that were surveyed.
    """
    place = 0
    for row in rows:
        if isinstance(row, Skip):
            yield row
            continue
        if place < len(codes):
            code = codes[place]
            yield Skip(reasons[code - 1], 1, len(row.content.encode())) if code else row
        place += 1
    if place != len(codes):
        raise RuntimeError(f"{place} documents were read, and {len(codes)} before: the source has changed while read")
