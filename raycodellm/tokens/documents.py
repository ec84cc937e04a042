"""A store's documents: how long each is, which of them are held out, and where the others lie end to end.

Held-out documents are whole documents of the shuffled store, so they come from everywhere in the source. They depend on
the documents' lengths and the number of tokens asked for alone: stages of any sequence length and packing hold out the
same ones. A document is measured or trained on, never both, and never a part of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from raycodellm.files import Folder
from raycodellm.tokens.manifest import Manifest
from raycodellm.tokens.stream import Stream

LARGEST_SHARE = 8
"""A held-out document has at most one part in this many of the tokens asked for, where shorter ones are enough."""


class Reading(NamedTuple):
    """Which documents of a store are read, and how they are packed into sequences."""

    packing: str = "concatenate"
    held_out_tokens: int = 0
    """Tokens asked for in whole documents that no stage trains on; 0 where every document is trained on."""
    measured: bool = False
    """True if the held-out documents are read, rather than all the others."""
    prompts_count: bool = False
    """True if the prompts of examples count in the loss, as their responses do."""


@dataclass(frozen=True)
class Documents:
    """Documents, or examples, in the order in which they stand in the store."""

    start: np.ndarray
    """int64: place of each document's first token among all tokens of the store."""
    num_tokens: np.ndarray
    """int64, closing end-of-text token included."""
    num_prompt: np.ndarray | None
    """int64; None for plain stores."""

    def of(self, reading: Reading) -> Documents:
        """Those that are read."""
        if not reading.held_out_tokens:
            return self
        held = held_out(self.num_tokens, reading.held_out_tokens)
        chosen = np.flatnonzero(held if reading.measured else ~held)
        prompts = None if self.num_prompt is None else self.num_prompt[chosen]
        return Documents(self.start[chosen], self.num_tokens[chosen], prompts)


def held_out(sizes: np.ndarray, num_tokens: int) -> np.ndarray:
    """bool[documents]: whole documents with `num_tokens` tokens in all, or a few more; all where there are fewer.

    Taken from the end of the shuffled store on. A document is passed over, and trained on, when it is longer than a
    `LARGEST_SHARE`-th of `num_tokens`: it would be most of what is measured. Where the shorter documents do not have
    twice the tokens asked for, the next longer ones are no longer passed over.
    """
    sizes = np.asarray(sizes, np.int64)
    rising = np.sort(sizes)
    enough = min(int(np.searchsorted(np.cumsum(rising), 2 * num_tokens)), len(sizes) - 1)
    longest = max(num_tokens // LARGEST_SHARE, int(rising[enough]) if len(sizes) else 0)
    from_end = np.flatnonzero(sizes <= longest)[::-1]
    number = int(np.searchsorted(np.cumsum(sizes[from_end]), num_tokens)) + 1
    held = np.zeros(len(sizes), bool)
    held[from_end[:number]] = True
    return held


class Stretches:
    """Some documents of a store as one run of tokens: neighbours in the store are one stretch."""

    def __init__(self, documents: Documents) -> None:
        ends = documents.start + documents.num_tokens
        first = np.flatnonzero(np.r_[True, documents.start[1:] != ends[:-1]]) if len(ends) else np.zeros(0, np.int64)
        self._starts = documents.start[first]
        before = np.cumsum(documents.num_tokens) - documents.num_tokens
        self.num_tokens = int(documents.num_tokens.sum())
        self._places = np.r_[before[first], self.num_tokens]

    def gather(self, stream: Stream, places: np.ndarray, length: int) -> np.ndarray:
        """[n, length] of the store's dtype: the tokens from each place of this run on."""
        which = np.searchsorted(self._places, places, side="right") - 1
        whole = places + length <= self._places[which + 1]
        starts = self._starts[which] + places - self._places[which]
        found = np.empty((len(places), length), stream.dtype)
        found[whole] = stream.gather(starts[whole], length)
        for row in np.flatnonzero(~whole).tolist():
            self._join(stream, int(places[row]), found[row])
        return found

    def _join(self, stream: Stream, place: int, target: np.ndarray) -> None:
        """Fills `target` with tokens that lie in several stretches."""
        filled = 0
        while filled < len(target):
            which = int(np.searchsorted(self._places, place + filled, side="right")) - 1
            size = min(int(self._places[which + 1]) - place - filled, len(target) - filled)
            start = self._starts[which] + place + filled - self._places[which]
            target[filled : filled + size] = stream.gather(np.array([start]), size)[0]
            filled += size


def read_documents(folder: Folder, manifest: Manifest) -> Documents:
    import pyarrow as pa

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
