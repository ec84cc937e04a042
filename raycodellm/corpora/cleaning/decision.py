"""Decides which documents stay, over all documents of a source, and drops the others in the second reading."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from raycodellm.config import Take
from raycodellm.corpora.cleaning import contamination, duplicates
from raycodellm.corpora.cleaning.plan import EXACT, LIMIT, NEAR, CleaningPlan
from raycodellm.corpora.cleaning.survey import UNIT, DocumentStats
from raycodellm.corpora.documents import Document, Skip


@dataclass(frozen=True)
class Decision:
    """The documents that the second reading drops."""

    reasons: tuple[str, ...]
    codes: Mapping[int, bytes]
    """Unit of reading to one byte per document of the unit: 0, or 1 + the place of the reason."""
    num_tasks: int | None = None
    """Number of tasks that the source was cut for; None if it was read in one process."""
    findings: dict[str, Any] | None = None
    """Content of `contamination.json`; None if no evaluation items were looked for."""


class SurveyResult(ExitStack):
    """The statistics of all documents of a source, added in any order. Close after use.

    Each column is a temporary file without a name, so that a killed process leaves none behind.
    """

    def __init__(self) -> None:
        super().__init__()
        self._columns: dict[str, tuple[IO[bytes], np.dtype, tuple[int, ...]]] = {}
        """(file, type, shape of a value) by name."""
        self.batches: list[tuple[int, np.ndarray, int]] = []
        """(position of the first document, codes, row of its first value in the columns) of each batch of documents."""
        self.contaminated: Counter[int] = Counter()
        self._examples: dict[int, list[tuple[int, str, str]]] = defaultdict(list)
        self.num_documents = 0
        self.num_left = 0

    def add(self, stats: DocumentStats) -> None:
        self.batches.append((stats.position, stats.codes, self.num_left))
        self.num_documents += len(stats.codes)
        self.num_left += len(stats.columns["position"])
        self.contaminated.update(stats.contaminated)
        for position, task, document, words in stats.examples:
            examples = [*self._examples[task], (position, document, words)]
            self._examples[task] = sorted(examples)[: contamination.EXAMPLES]
        for name, values in stats.columns.items():
            if name not in self._columns:
                file = self.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
                self._columns[name] = file, values.dtype, values.shape[1:]
            self._columns[name][0].write(np.ascontiguousarray(values).data)

    def column(self, name: str) -> np.ndarray:
        """One value per document that passed the checks, in the order in which they were added."""
        if not self.num_left:
            return np.zeros(0, np.uint64)
        file, dtype, shape = self._columns[name]
        file.flush()
        return np.memmap(file, dtype, "r", shape=(self.num_left, *shape))

    @property
    def bands(self) -> list[np.ndarray]:
        return [self.column(name) for name in self._columns if name.startswith("band")]

    @property
    def examples(self) -> dict[int, list[tuple[str, str]]]:
        return {
            task: [(document, words) for _, document, words in examples] for task, examples in self._examples.items()
        }


def decide(plan: CleaningPlan, result: SurveyResult, num_tasks: int | None = None) -> Decision:
    """Finds duplicates, takes by score and applies the limit, in this order."""
    reasons = plan.reasons
    positions = result.column("position")
    codes = np.zeros(result.num_left, np.uint8)

    def leave_out(rows: np.ndarray, reason: str) -> None:
        codes[rows] = 1 + reasons.index(reason)

    if plan.cleaning.exact_duplicates and len(codes):
        low, high = result.column("digest_low"), result.column("digest_high")
        leave_out(duplicates.exact(low, high, positions), EXACT)
    if plan.near and len(codes):
        sketches = result.column("sketch")
        leave_out(duplicates.near(result.bands, sketches, positions, codes == 0, plan.near.jaccard), NEAR)
    if plan.source.take:
        remaining = np.flatnonzero(codes == 0)
        scores, sizes = result.column("score")[remaining], result.column("num_bytes")[remaining]
        leave_out(remaining[not_taken(scores, sizes, positions[remaining], plan.source.take)], plan.take_reason)
    if plan.source.limit_documents:
        leave_out(over_limit(result.column("key"), codes == 0, plan.source.limit_documents), LIMIT)
    findings = None
    if plan.benchmark:
        findings = contamination.findings(plan.benchmark, result.contaminated, result.examples)
    return Decision(reasons, _codes_of_units(result, codes), num_tasks, findings)


def not_taken(scores: np.ndarray, sizes: np.ndarray, positions: np.ndarray, take: Take) -> np.ndarray:
    """Rows beyond the share of `sizes`, best score first; the document that reaches the share is still taken."""
    order = np.lexsort((positions, -scores if take.end == "top" else scores))
    bytes_before = np.cumsum(sizes[order]) - sizes[order]
    return order[bytes_before >= take.share * sizes.sum()]


def over_limit(keys: np.ndarray, is_left: np.ndarray, limit: int) -> np.ndarray:
    """bool[documents]: the documents of `is_left` beyond the `limit` smallest keys."""
    smallest = np.zeros(0, np.uint64)
    for start in range(0, len(keys), duplicates.GROUP_ROWS):
        part = slice(start, start + duplicates.GROUP_ROWS)
        smallest = np.concatenate([smallest, keys[part][is_left[part]]])
        if len(smallest) > limit:
            smallest = np.partition(smallest, limit - 1)[:limit]
    return is_left & (keys > smallest.max(initial=0))


def _codes_of_units(result: SurveyResult, left_out: np.ndarray) -> dict[int, bytes]:
    """The codes of both steps per unit; `left_out` has a code for each document that passed the checks."""
    units: dict[int, list[np.ndarray]] = defaultdict(list)
    for position, checked, row in sorted(result.batches, key=lambda batch: batch[0]):
        codes = checked.copy()
        codes[checked == 0] = left_out[row : row + np.count_nonzero(checked == 0)]
        units[position // UNIT].append(codes)
    return {unit: np.concatenate(parts).tobytes() for unit, parts in units.items()}


def cleaned(rows: Iterable[Document | Skip], codes: bytes, reasons: Sequence[str]) -> Iterator[Document | Skip]:
    """The documents that stay, and a `Skip` with its bytes for each document that does not.

    Raises RuntimeError if the number of documents is not that of the first reading.
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
