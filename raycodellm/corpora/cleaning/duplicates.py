"""Finds documents that repeat others: exact duplicates by the hash of their text, near duplicates by MinHash.

Near duplicates go through locality-sensitive hashing (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
section 3.4): the signature of `bands * rows` values is cut into bands, and two documents are compared if they agree in
one band. Documents of Jaccard similarity s are compared with probability 1 - (1 - s^rows)^bands. The similarity of a
pair is estimated by the share of equal values in its signatures; 8 bits of each value are kept (b-bit minwise hashing,
Li and König 2010). Documents that are alike, directly or through others, are one cluster, whose first document
stays.

All functions work on numpy columns with one value per document; columns may be memory maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from raycodellm.config import NearDuplicates
from raycodellm.corpora.cleaning.words import Words, mix, shingles

SIGNATURE_SEED = 20_240_601
RECALL = 0.9
"""Probability that two documents of exactly the wanted similarity are compared at all."""
GROUP_ROWS = 1 << 24
"""Documents that are sorted in memory at once: 16 million, at some 40 bytes each."""
PAIR_ROWS = 1 << 18
"""Pairs whose similarity is estimated at once."""
_BITS = 8


def bands_and_rows(jaccard: float, permutations: int) -> tuple[int, int]:
    """(bands, rows per band): the longest bands, so the fewest comparisons, that reach `RECALL` at `jaccard`."""
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1.0 - (1.0 - jaccard**rows) ** bands >= RECALL:
            return bands, rows
    return permutations, 1


def signatures(words: Words, settings: NearDuplicates) -> tuple[np.ndarray, np.ndarray]:
    """(band hashes uint64[texts, bands], sketches uint8[texts, permutations]). A text without a word has band hashes 0.

    The signatures are R-MinHash (an adaption of Dahlgaard, Knudsen and Thorup 2017, Fast Similarity Sketching), whose
    estimates were measured to be as good as those of classic MinHash at each length from 5 to 5000 shingles.
    """
    from rensa import RMinHash

    hashes, offsets = shingles(words, settings.shingle)
    num_texts, permutations = len(words.offsets) - 1, settings.permutations
    bands, rows = bands_and_rows(settings.jaccard, permutations)
    filled = np.flatnonzero(np.diff(offsets))
    values = np.zeros((num_texts, permutations), np.uint64)
    if len(filled):
        filled_offsets = np.append(offsets[filled], offsets[-1]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, filled_offsets, permutations, SIGNATURE_SEED)
        values[filled] = np.array(matrix.to_rows(), np.uint32)
    hashed = np.zeros((num_texts, bands), np.uint64)
    in_bands = values[filled, : bands * rows].reshape(len(filled), bands, rows)
    for row in range(rows):
        hashed[filled] = mix(hashed[filled] + in_bands[:, :, row] + np.uint64(1))
    hashed[filled] = np.maximum(hashed[filled], np.uint64(1))
    return hashed, (mix(values) >> np.uint64(64 - _BITS)).astype(np.uint8)


def exact(low: np.ndarray, high: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rows whose text another row of an earlier position has too; `low` and `high` are 128 bits of the text's hash."""
    repeated = [np.zeros(0, np.int64)]
    for rows in _row_groups(low, np.ones(len(low), bool)):
        sorted_rows, repeats = _sort_rows(rows, positions, low, high)
        repeated.append(sorted_rows[1:][repeats])
    return np.concatenate(repeated)


def near(
    bands: Sequence[np.ndarray], sketches: np.ndarray, positions: np.ndarray, alive: np.ndarray, jaccard: float
) -> np.ndarray:
    """Rows that resemble a row of an earlier position, directly or through others; only rows of `alive` count.

    `bands`: a column of uint64[n] each; `sketches`: uint8[n, permutations].
    """
    similar_pairs = [np.zeros((2, 0), np.int64)]
    for band in bands:
        for rows in _row_groups(band, alive):
            for pairs in _candidates(*_sort_rows(rows, positions, band)):
                similar_pairs.append(pairs[:, _similarities(sketches, pairs) >= jaccard])
    return _rows_but_first(np.concatenate(similar_pairs, axis=1), positions)


def _row_groups(values: np.ndarray, is_wanted: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of `is_wanted` in groups, with equal values in one group; rows with the value 0 are left out."""
    num_parts = -(-len(values) // GROUP_ROWS)
    for part in range(num_parts):
        group = [
            start
            + np.flatnonzero(
                is_wanted[start:stop] & (values[start:stop] != 0) & (values[start:stop] % num_parts == part)
            )
            for start in range(0, len(values), GROUP_ROWS)
            for stop in [start + GROUP_ROWS]
        ]
        yield np.concatenate(group)


def _sort_rows(rows: np.ndarray, positions: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows sorted by columns and then position, whether each row but the first equals the row before it)"""
    values = [np.asarray(column[rows]) for column in columns]
    order = np.lexsort((positions[rows], *values))
    equal = np.ones(max(0, len(rows) - 1), bool)
    for column in values:
        equal &= column[order][1:] == column[order][:-1]
    return rows[order], equal


def _candidates(rows: np.ndarray, equal: np.ndarray) -> Iterator[np.ndarray]:
    """int64[2, pairs]: each row with the row before it in its group, and with the first of the group."""
    places = np.flatnonzero(equal) + 1
    begins = np.flatnonzero(np.concatenate([[True], ~equal]))
    first_of_group = begins[np.searchsorted(begins, places, side="right") - 1]
    further = first_of_group < places - 1
    pairs = np.stack(
        [rows[np.concatenate([places - 1, first_of_group[further]])], rows[np.concatenate([places, places[further]])]]
    )
    for start in range(0, pairs.shape[1], PAIR_ROWS):
        yield pairs[:, start : start + PAIR_ROWS]


def _similarities(sketches: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarities, corrected for 8 bits of different values that are equal by chance (1 in 256)."""
    equal = np.mean(sketches[pairs[0]] == sketches[pairs[1]], axis=1)
    chance = 0.5**_BITS
    return (equal - chance) / (1.0 - chance)


def _rows_but_first(pairs: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """All rows of each connected component, except the row with the smallest position."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, ends = np.unique(pairs, return_inverse=True)
    if not len(rows):
        return rows
    ends = ends.reshape(2, -1)
    graph = coo_array((np.ones(ends.shape[1], bool), (ends[0], ends[1])), shape=(len(rows), len(rows)))
    _, clusters = connected_components(graph, directed=False)
    order = np.lexsort((positions[rows], clusters))
    is_repeat = clusters[order][1:] == clusters[order][:-1]
    return rows[order][1:][is_repeat]
