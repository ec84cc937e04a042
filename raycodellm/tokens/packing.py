"""Which tokens of a store stand in which sequence: concatenation, or whole documents packed into sequences.

`concatenate` puts documents end to end and cuts every `sequence_length` tokens. `best_fit` splits no document that
fits into a sequence: documents go, largest first, into the fullest sequence that has room (best-fit decreasing, as Ding
et al. 2024, "Fewer Truncations Improve Language Modeling", section 3, who cut longer documents into whole sequences and
pack what is left of them, as is done here); room that is left over is padded. Attention goes over all of a sequence in
either: documents in one sequence see those before them.

Instruction data is never split. With `concatenate` its examples stay in their order (next fit); with `best_fit` they
are packed as documents are, but for those longer than a sequence, which are left out.

Pure: works on the documents' numbers of tokens, by length and not by document, 10 million in some seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

PACKINGS = ("concatenate", "best_fit")
PACKING_VERSION = 2
"""Raised whenever the same documents are packed otherwise, or others are held out; then RECIPE_VERSION is raised too,
since a stage knows a packing only by its number of sequences."""


@dataclass(frozen=True)
class Packing:
    """Sequences as runs of pieces: sequence i holds pieces bounds[i] … bounds[i + 1], from its beginning on."""

    bounds: np.ndarray
    """int64[sequences + 1]."""
    start: np.ndarray
    """int64[pieces]: place of each piece's first token among all tokens of the store."""
    size: np.ndarray
    """int32[pieces]: tokens."""
    num_prompt: np.ndarray | None = None
    """int32[pieces]: of these, the ones that are prompt and do not count in the loss; None where all count."""

    @property
    def num_sequences(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True)
class PackingReport:
    """What a packing costs in one epoch; every count is exact."""

    sequence_length: int
    packing: str
    num_sequences: int
    num_documents: int
    num_tokens: int
    """Of all documents, end-of-text tokens included."""
    dropped_tokens: int
    """In no sequence: the tail that fills none, and examples that are longer than one."""
    dropped_documents: int
    """Documents without a token in any sequence."""
    padded_tokens: int
    split_documents: int
    """Documents that do not stand whole in one sequence."""
    long_documents: int
    """Documents longer than a sequence: no packing keeps them whole."""

    @property
    def dropped_share(self) -> float:
        """Of the documents' tokens."""
        return self.dropped_tokens / max(1, self.num_tokens)

    @property
    def padded_share(self) -> float:
        """Of the tokens of all sequences."""
        return self.padded_tokens / max(1, self.num_sequences * self.sequence_length)

    @property
    def split_share(self) -> float:
        """Of the documents."""
        return self.split_documents / max(1, self.num_documents)

    def __str__(self) -> str:
        said = [
            f"{self.packing}, {self.num_sequences:,} sequences of {self.sequence_length:,} tokens",
            f"{self.dropped_tokens:,} tokens dropped ({self.dropped_share:.2%})",
            f"{self.padded_tokens:,} padded ({self.padded_share:.2%})",
            f"{self.split_documents:,} of {self.num_documents:,} documents split ({self.split_share:.2%})",
        ]
        if self.dropped_documents:
            said.append(f"{self.dropped_documents:,} left out whole")
        return ", ".join(said)


def pack(
    sizes: np.ndarray,
    sequence_length: int,
    packing: str,
    num_prompt: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> Packing:
    """The packing of documents of these `sizes` (tokens, in the order in which they stand in the store).

    `starts`: places of their first tokens in the store; left out, one begins where the one before ends. `num_prompt`,
    for instruction data: prompt tokens of each example. Raises ValueError for `concatenate` without it, which needs no
    table: sequence i begins at token i * sequence_length.
    """
    sizes = np.asarray(sizes, np.int64)
    starts = np.cumsum(sizes) - sizes if starts is None else starts
    if num_prompt is not None:
        kept = np.flatnonzero(sizes <= sequence_length)
        fit = _best_fit if packing == "best_fit" else _next_fit
        order, bounds = fit(sizes[kept], sequence_length)
        chosen = kept if order is None else kept[order]
        return Packing(bounds, starts[chosen], sizes[chosen].astype(np.int32), np.asarray(num_prompt, np.int32)[chosen])
    if packing != "best_fit":
        raise ValueError(f"packing {packing!r} of plain documents has no table")
    starts, sizes = _cut(starts, sizes, sequence_length)
    order, bounds = _best_fit(sizes, sequence_length)
    return Packing(bounds, starts[order], sizes[order].astype(np.int32))


def report(
    sizes: np.ndarray, sequence_length: int, packing: str, instruct: bool = False, packed: Packing | None = None
) -> PackingReport:
    """What the packing costs; `packed` is what `pack` gave, None for concatenated documents."""
    sizes = np.asarray(sizes, np.int64)
    long = sizes > sequence_length
    num_tokens = int(sizes.sum())
    if packed is None:
        num_sequences = num_tokens // sequence_length
        ends = np.cumsum(sizes)
        whole = num_sequences * sequence_length
        outside = ends - sizes >= whole
        split = ((ends - sizes) // sequence_length != (ends - 1) // sequence_length) & ~outside
        dropped, dropped_documents, padded = num_tokens - whole, int(outside.sum()), 0
        num_split = int(split.sum())
    else:
        num_sequences = packed.num_sequences
        inside = int(packed.size.sum(dtype=np.int64))
        dropped, padded = num_tokens - inside, num_sequences * sequence_length - inside
        num_split, dropped_documents = (0, int(long.sum())) if instruct else (int(long.sum()), 0)
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
        long_documents=int(long.sum()),
    )


def _next_fit(sizes: np.ndarray, sequence_length: int) -> tuple[None, np.ndarray]:
    """Whole examples in order, a new sequence where the next one does not fit into the rest of this one."""
    ends = np.cumsum(sizes).tolist()
    bounds, start = [0], 0
    while bounds[-1] < len(ends):
        # The first example that ends beyond a full sequence; bisect among the few that could be meant.
        bounds.append(bisect_right(ends, start + sequence_length, bounds[-1]))
        start = ends[bounds[-1] - 1]
    return None, np.array(bounds, np.int64)


def _cut(starts: np.ndarray, sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents longer than a sequence as pieces of whole sequences and what is left of them; in order."""
    counts = -(-sizes // length)
    if counts.max(initial=1) <= 1:
        return starts, sizes
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces = np.minimum(np.repeat(sizes, counts) - number * length, length)
    return np.repeat(starts, counts) + number * length, pieces


def _best_fit(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(order of the pieces, bounds of the sequences in it). In a sequence pieces keep their order.

    Pieces of one size are placed together. The fullest open sequence with room for one is left, once it has taken it,
    with less room, so it stays the fullest: it takes as many as it has room for. So all sequences with that much room
    are filled alike, in one step; there are about as many steps as sizes times rooms that occur with them.
    """
    # A 16-bit sort is by radix, in linear time.
    by_size = np.argsort((length - sizes).astype(np.uint16 if length < 1 << 16 else np.int64), kind="stable")
    counts = np.bincount(sizes, minlength=length + 1)
    sequence_of = np.empty(len(sizes), np.int64)
    open_ = _Open(length)
    done = num_sequences = 0
    for size in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[size])
        while left:
            room = open_.least_room(size)
            each = (length if room is None else room) // size
            if room is None:
                number = -(-left // each)
                chosen = np.arange(num_sequences, num_sequences + number)
                num_sequences += number
                room = length
            else:
                chosen = open_.take(room, -(-left // each))
            placed = min(left, each * len(chosen))
            sequence_of[by_size[done : done + placed]] = np.repeat(chosen, each)[:placed]
            done, left = done + placed, left - placed
            last = placed - each * (len(chosen) - 1)  # pieces in the last of them
            open_.put(room - each * size, chosen[:-1])
            open_.put(room - last * size, chosen[-1:])
    order = np.argsort(sequence_of, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(sequence_of, minlength=num_sequences))]).astype(np.int64)


class _Open:
    """Sequences with room left, by how much."""

    def __init__(self, length: int) -> None:
        self._by_room: dict[int, list[np.ndarray]] = {}
        # Rooms that occur, as bits of one number: the least one above a size is its lowest bit after a shift.
        self._rooms = 0

    def least_room(self, size: int) -> int | None:
        above = self._rooms >> size
        return size + (above & -above).bit_length() - 1 if above else None

    def put(self, room: int, sequences: np.ndarray) -> None:
        if room and len(sequences):
            self._by_room.setdefault(room, []).append(sequences)
            self._rooms |= 1 << room

    def take(self, room: int, most: int) -> np.ndarray:
        """Up to `most` of the sequences with this much room, the ones that were put last first."""
        held, taken, number = self._by_room[room], [], 0
        while held and number < most:
            some = held.pop()
            if len(some) > most - number:
                held.append(some[: len(some) - (most - number)])
                some = some[len(some) - (most - number) :]
            taken.append(some)
            number += len(some)
        if not held:
            del self._by_room[room]
            self._rooms &= ~(1 << room)
        return taken[0] if len(taken) == 1 else np.concatenate(taken)
