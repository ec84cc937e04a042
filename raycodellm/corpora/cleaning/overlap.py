"""The share of an evaluation item's runs of words that training data holds.

The rule is that of Chowdhery et al. 2022 (PaLM, section 8): an item is contaminated if at least 70 % of its runs of
eight words were seen in training, wherever they stood. `contamination` has the stricter rule by which documents are
left out of training; by that one, items made from a template would all be found in examples made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raycodellm.corpora.cleaning.words import hash_words, runs

NGRAM = 8
"""Words in a run."""
LEAST_SHARE = 0.7
"""Share of a contaminated item's runs that training data holds, at least."""


@dataclass(frozen=True)
class ItemRuns:
    """The runs of words of some items."""

    hashes: np.ndarray
    """uint64[distinct runs], sorted."""
    run: np.ndarray
    """int64[runs]: index in `hashes` of every run of every item, item by item."""
    offsets: np.ndarray
    """int64[items + 1]: item i has the runs from offsets[i] to offsets[i + 1]."""

    def contaminated(self, is_seen: np.ndarray) -> list[bool | None]:
        """True for each item of whose runs enough were seen; None for an item of fewer words than a run has.

        `is_seen`: bool[distinct runs].
        """
        sizes = np.diff(self.offsets)
        seen_before = np.concatenate([[0], np.cumsum(is_seen[self.run])])
        counts = seen_before[self.offsets[1:]] - seen_before[self.offsets[:-1]]
        return [bool(count >= LEAST_SHARE * size) if size else None for count, size in zip(counts, sizes, strict=True)]


def item_runs(texts: Sequence[str]) -> ItemRuns:
    """The runs of the items' texts. An item's text is its prompt and its right answer."""
    all_runs = runs(hash_words(texts), NGRAM)
    hashes, run = np.unique(all_runs.hashes, return_inverse=True)
    offsets = np.searchsorted(all_runs.texts, np.arange(len(texts) + 1))
    return ItemRuns(hashes, run, offsets)


def seen_in(texts: Iterable[str], hashes: np.ndarray) -> np.ndarray:
    """bool[len(hashes)]: True for each of the sorted hashes of runs that one of the texts holds."""
    is_seen = np.zeros(len(hashes), bool)
    if len(hashes):
        text_hashes = runs(hash_words(list(texts)), NGRAM).hashes
        places = np.minimum(np.searchsorted(hashes, text_hashes), len(hashes) - 1)
        is_seen[places[hashes[places] == text_hashes]] = True
    return is_seen
