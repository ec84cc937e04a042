"""Decides which tokens of a store form which sequence: concatenation, or whole documents packed into sequences.

`concatenate` puts documents end to end and cuts every `sequence_length` tokens. `best_fit` splits no document that fits
into a sequence: documents go, largest first, into the fullest sequence that has room, and the room left is padded
(best-fit decreasing, as in Ding et al. 2024, "Fewer Truncations Improve Language Modeling", section 3). As there,
longer documents are cut into whole sequences, and their rest is packed. In both packings attention covers the whole
sequence: a document sees the documents before it in its sequence.

Instruction data is never split. With `concatenate` its examples stay in their order (next fit); with `best_fit` they
are packed as documents are. Examples longer than a sequence are left out.

The functions are pure and work by length, not by document: 10 million documents take some seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

PACKINGS = ("concatenate", "best_fit")
PACKING_VERSION = 2
"""To be raised whenever the same documents are packed differently, or other documents are held out. RECIPE_VERSION is
then raised too: a stage's identity knows a packing only by its number of sequences."""


@dataclass(frozen=True)
class Packing:
    """Sequences as runs of pieces: sequence i begins with the pieces bounds[i]..bounds[i + 1]-1, then padding."""

    bounds: np.ndarray
    """int64[sequences + 1]."""
    start: np.ndarray
    """int64[pieces]: place of each piece's first token among all tokens of the store."""
    size: np.ndarray
    """int32[pieces]: tokens of each piece."""
    num_prompt: np.ndarray | None = None
    """int32[pieces]: tokens of each piece that are prompt; None for plain documents."""

    @property
    def num_sequences(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True)
class PackingReport:
    """The costs of a packing in one epoch; every count is exact."""

    sequence_length: int
    packing: str
    num_sequences: int
    num_documents: int
    num_tokens: int
    """Tokens of all documents, end-of-text tokens included."""
    dropped_tokens: int
    """Tokens in no sequence: the tail that fills none, and examples longer than a sequence."""
    dropped_documents: int
    """Documents without a token in any sequence."""
    padded_tokens: int
    """Places of sequences that hold no document's token."""
    split_documents: int
    """Documents that lie in several sequences, or in part in none."""
    long_documents: int
    """Documents longer than a sequence: no packing keeps them whole."""

    @property
    def dropped_share(self) -> float:
        """Dropped share of the documents' tokens."""
        return self.dropped_tokens / max(1, self.num_tokens)

    @property
    def padded_share(self) -> float:
        """Padded share of the tokens of all sequences."""
        return self.padded_tokens / max(1, self.num_sequences * self.sequence_length)

    @property
    def split_share(self) -> float:
        """Split share of the documents."""
        return self.split_documents / max(1, self.num_documents)

    def __str__(self) -> str:
        lines = [
            f"{self.packing}, {self.num_sequences:,} sequences of {self.sequence_length:,} tokens",
            f"{self.dropped_tokens:,} tokens dropped ({self.dropped_share:.2%})",
            f"{self.padded_tokens:,} padded ({self.padded_share:.2%})",
            f"{self.split_documents:,} of {self.num_documents:,} documents split ({self.split_share:.2%})",
        ]
        if self.dropped_documents:
            lines.append(f"{self.dropped_documents:,} left out whole")
        return ", ".join(lines)


def pack(
    sizes: np.ndarray,
    sequence_length: int,
    packing: str,
    num_prompt: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> Packing:
    """The packing of documents of these `sizes` (tokens, in the store's order).

    `starts`: places of the documents' first tokens in the store; when left out, documents lie end to end. `num_prompt`:
    prompt tokens of each example, for instruction data. Raises ValueError for `concatenate` of plain documents, which
    needs no table: sequence i begins at token i * sequence_length.
    """
    sizes = np.asarray(sizes, np.int64)
    starts = np.cumsum(sizes) - sizes if starts is None else starts
    if num_prompt is not None:
        fitting = np.flatnonzero(sizes <= sequence_length)
        fit = _best_fit if packing == "best_fit" else _next_fit
        order, bounds = fit(sizes[fitting], sequence_length)
        rows = fitting if order is None else fitting[order]
        return Packing(bounds, starts[rows], sizes[rows].astype(np.int32), np.asarray(num_prompt, np.int32)[rows])
    if packing != "best_fit":
        raise ValueError(f"packing {packing!r} of plain documents has no table")
    starts, sizes = _cut_documents(starts, sizes, sequence_length)
    order, bounds = _best_fit(sizes, sequence_length)
    return Packing(bounds, starts[order], sizes[order].astype(np.int32))


def report(
    sizes: np.ndarray, sequence_length: int, packing: str, instruct: bool = False, table: Packing | None = None
) -> PackingReport:
    """The costs of a packing; `table`: the result of `pack`, None for concatenated plain documents."""
    sizes = np.asarray(sizes, np.int64)
    is_long = sizes > sequence_length
    num_tokens = int(sizes.sum())
    if table is None:
        num_sequences = num_tokens // sequence_length
        ends = np.cumsum(sizes)
        sequence_tokens = num_sequences * sequence_length
        is_outside = ends - sizes >= sequence_tokens
        is_split = ((ends - sizes) // sequence_length != (ends - 1) // sequence_length) & ~is_outside
        dropped, dropped_documents, padded = num_tokens - sequence_tokens, int(is_outside.sum()), 0
        num_split = int(is_split.sum())
    else:
        num_sequences = table.num_sequences
        piece_tokens = int(table.size.sum(dtype=np.int64))
        dropped, padded = num_tokens - piece_tokens, num_sequences * sequence_length - piece_tokens
        num_split, dropped_documents = (0, int(is_long.sum())) if instruct else (int(is_long.sum()), 0)
    return PackingReport(
        sequence_length=sequence_length,
        packing=packing,
        num_sequences=num_sequences,
        num_documents=len(sizes),
        num_tokens=num_tokens,
        dropped_tokens=dropped,
        dropped_documents=dropped_documents,
        padded_tokens=padded,
        split_documents=num_split,
        long_documents=int(is_long.sum()),
    )


def _next_fit(sizes: np.ndarray, sequence_length: int) -> tuple[None, np.ndarray]:
    """Whole examples in order; a new sequence begins with each example that does not fit into the current one.

    Returns (None: the order is kept, int64[sequences + 1] bounds).
    """
    ends = np.cumsum(sizes).tolist()
    bounds, start = [0], 0
    while bounds[-1] < len(ends):
        # The first example that ends beyond a full sequence.
        bounds.append(bisect_right(ends, start + sequence_length, bounds[-1]))
        start = ends[bounds[-1] - 1]
    return None, np.array(bounds, np.int64)


def _cut_documents(starts: np.ndarray, sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts, sizes) of the pieces, in order: longer documents are cut into whole sequences and a rest."""
    counts = -(-sizes // length)
    if counts.max(initial=1) <= 1:
        return starts, sizes
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces = np.minimum(np.repeat(sizes, counts) - number * length, length)
    return np.repeat(starts, counts) + number * length, pieces


def _best_fit(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(order of the pieces, bounds of the sequences in that order). In a sequence, pieces keep their order.

    Pieces of one size are placed together. The fullest open sequence with room for a piece stays the fullest after it
    takes one, so it takes as many as it has room for. All sequences with that much room are therefore filled alike, in
    one step; the number of steps is about the number of sizes times the number of different rooms.
    """
    # numpy sorts 16-bit numbers by radix, in linear time.
    by_size = np.argsort((length - sizes).astype(np.uint16 if length < 1 << 16 else np.int64), kind="stable")
    counts = np.bincount(sizes, minlength=length + 1)
    sequence_of = np.empty(len(sizes), np.int64)
    open_sequences = _OpenSequences()
    num_placed = num_sequences = 0
    for size in np.flatnonzero(counts)[::-1].tolist():
        remaining = int(counts[size])
        while remaining:
            room = open_sequences.least_room(size)
            per_sequence = (length if room is None else room) // size
            if room is None:
                num_new = -(-remaining // per_sequence)
                sequences = np.arange(num_sequences, num_sequences + num_new)
                num_sequences += num_new
                room = length
            else:
                sequences = open_sequences.take(room, -(-remaining // per_sequence))
            placed = min(remaining, per_sequence * len(sequences))
            sequence_of[by_size[num_placed : num_placed + placed]] = np.repeat(sequences, per_sequence)[:placed]
            num_placed, remaining = num_placed + placed, remaining - placed
            in_last = placed - per_sequence * (len(sequences) - 1)  # pieces in the last of `sequences`
            open_sequences.put(room - per_sequence * size, sequences[:-1])
            open_sequences.put(room - in_last * size, sequences[-1:])
    order = np.argsort(sequence_of, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(sequence_of, minlength=num_sequences))]).astype(np.int64)


class _OpenSequences:
    """Sequences with room left, by their room in tokens."""

    def __init__(self) -> None:
        self._by_room: dict[int, list[np.ndarray]] = {}
        # Bit r is set when a sequence has room r: the lowest bit after a shift gives the least room above a size.
        self._rooms = 0

    def least_room(self, size: int) -> int | None:
        """The least room of at least `size` that a sequence has; None without one."""
        rooms_above = self._rooms >> size
        return size + (rooms_above & -rooms_above).bit_length() - 1 if rooms_above else None

    def put(self, room: int, sequences: np.ndarray) -> None:
        """Adds sequences with this much room; full sequences are not open."""
        if room and len(sequences):
            self._by_room.setdefault(room, []).append(sequences)
            self._rooms |= 1 << room

    def take(self, room: int, max_sequences: int) -> np.ndarray:
        """Removes up to `max_sequences` of the sequences with this much room, those that were put last first."""
        groups, num_taken = self._by_room[room], 0
        taken: list[np.ndarray] = []
        while groups and num_taken < max_sequences:
            group = groups.pop()
            if len(group) > max_sequences - num_taken:
                groups.append(group[: len(group) - (max_sequences - num_taken)])
                group = group[len(group) - (max_sequences - num_taken) :]
            taken.append(group)
            num_taken += len(group)
        if not groups:
            del self._by_room[room]
            self._rooms &= ~(1 << room)
        return taken[0] if len(taken) == 1 else np.concatenate(taken)
