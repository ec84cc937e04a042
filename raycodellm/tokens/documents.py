"""The documents of a token store: their lengths, which are held out, and the others as one run of tokens.

Held-out documents are whole documents of the shuffled store, so they come from everywhere in the source. The choice
depends only on the documents' lengths and the number of tokens asked for: stages of any sequence length and packing
hold out the same documents. A document is measured or trained on, never both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raycodellm.files import Folder
from raycodellm.tokens.manifest import Manifest
from raycodellm.tokens.ranges import cut_at
from raycodellm.tokens.stream import Stream

LARGEST_SHARE = 8
"""A held-out document has at most 1 / `LARGEST_SHARE` of the tokens asked for, if shorter documents are enough."""


class Reading(NamedTuple):
    """The documents of a store that are read, and their packing into sequences."""

    packing: str = "concatenate"
    held_out_tokens: int = 0
    """Tokens to hold out, in whole documents that no stage trains on; 0 trains on every document."""
    measured: bool = False
    """Reads the held-out documents, and no others."""
    prompts_count: bool = False
    """Prompts of examples count in the loss, as responses do."""


@dataclass(frozen=True)
class Documents:
    """Documents, or examples, in the store's order."""

    start: np.ndarray
    """int64[documents]: place of each document's first token among all tokens of the store."""
    num_tokens: np.ndarray
    """int64[documents]: tokens, the closing end-of-text token included."""
    num_prompt: np.ndarray | None
    """int64[documents]: prompt tokens of each example; None for plain stores."""

    def included_by(self, reading: Reading) -> Documents:
        """The documents that `reading` includes."""
        if not reading.held_out_tokens:
            return self
        is_held_out = choose_held_out(self.num_tokens, reading.held_out_tokens)
        selected = np.flatnonzero(is_held_out if reading.measured else ~is_held_out)
        prompts = None if self.num_prompt is None else self.num_prompt[selected]
        return Documents(self.start[selected], self.num_tokens[selected], prompts)


def choose_held_out(sizes: np.ndarray, num_tokens: int) -> np.ndarray:
    """bool[documents]: the documents to hold out, with `num_tokens` tokens in all or a few more.

    All documents are held out when they have fewer tokens. Documents are taken from the end of the shuffled store. A
    document longer than `num_tokens` / `LARGEST_SHARE` is passed over, and trained on: it would dominate the
    measurement. If the shorter documents have less than twice the tokens asked for, the limit rises to the next longer
    documents.
    """
    sizes = np.asarray(sizes, np.int64)
    rising_sizes = np.sort(sizes)
    enough_place = min(int(np.searchsorted(np.cumsum(rising_sizes), 2 * num_tokens)), len(sizes) - 1)
    longest = max(num_tokens // LARGEST_SHARE, int(rising_sizes[enough_place]) if len(sizes) else 0)
    from_end = np.flatnonzero(sizes <= longest)[::-1]
    number = int(np.searchsorted(np.cumsum(sizes[from_end]), num_tokens)) + 1
    is_held_out = np.zeros(len(sizes), bool)
    is_held_out[from_end[:number]] = True
    return is_held_out


class Stretches:
    """Some documents of a store as one run of tokens; documents next to each other in the store form one stretch."""

    def __init__(self, documents: Documents) -> None:
        ends = documents.start + documents.num_tokens
        first_documents = (
            np.flatnonzero(np.r_[True, documents.start[1:] != ends[:-1]]) if len(ends) else np.zeros(0, np.int64)
        )
        self._starts = documents.start[first_documents]
        tokens_before = np.cumsum(documents.num_tokens) - documents.num_tokens
        self.num_tokens = int(documents.num_tokens.sum())
        self._places = np.r_[tokens_before[first_documents], self.num_tokens]

    def gather(self, stream: Stream, places: np.ndarray, length: int) -> np.ndarray:
        """[n, length] of the store's dtype: the tokens from each place of this run on."""
        ends = self._places[np.searchsorted(self._places, places, side="right")]
        is_whole = places + length <= ends
        tokens = np.empty((len(places), length), stream.dtype)
        tokens[is_whole] = stream.gather(self._places_in_store(places[is_whole]), length)
        if not is_whole.all():
            cut_places = places[~is_whole]
            begins, sizes = cut_at(self._places, cut_places, np.full(len(cut_places), length))
            tokens[~is_whole] = stream.stretches(self._places_in_store(begins), sizes).reshape(-1, length)
        return tokens

    def _places_in_store(self, places: np.ndarray) -> np.ndarray:
        """The places among all tokens of the store."""
        stretch = np.searchsorted(self._places, places, side="right") - 1
        return self._starts[stretch] + places - self._places[stretch]


def read_documents(folder: Folder, manifest: Manifest) -> Documents:
    """All documents of a store, from its `documents-*` or `examples-*` files."""
    sizes, prompts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for shard in manifest.shards:
        name = next(name for name in shard.files if not name.startswith("tokens-"))
        table = pa.ipc.open_file(pa.BufferReader(folder.read_bytes(name))).read_all()
        sizes.append(table["num_tokens"].to_numpy())
        if manifest.is_instruct:
            prompts.append(table["num_prompt"].to_numpy())
    num_prompt = np.concatenate(prompts).astype(np.int64) if manifest.is_instruct else None
    num_tokens = np.concatenate(sizes).astype(np.int64)
    return Documents(np.cumsum(num_tokens) - num_tokens, num_tokens, num_prompt)
