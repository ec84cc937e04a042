"""Blocks: some of a worker's rows of the plan, read. What both readers do, and what they agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

TOKEN_BYTES = 2


class Store(Protocol):
    """What is read here of a token store (`tokens.TokenStore` is one). Travels to read tasks by pickle.

    A store that also has `read_raw` is read by that: the same, but tokens may be of any integer type, and None for the
    mask says that every token counts. `every_token_counts`, where it has that, says so of all its sequences.
    """

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray | None]: ...


class Rows(Protocol):
    """Rows of the plan, as `mixture.PlanRows`: arrays of one length."""

    @property
    def position(self) -> np.ndarray: ...
    @property
    def source(self) -> np.ndarray: ...
    @property
    def sequence(self) -> np.ndarray: ...


class PlanLike(Protocol):
    """The part of `mixture.Plan` that reading needs."""

    @property
    def num_sequences(self) -> int: ...

    def rows(self, start: int, stop: int) -> Rows: ...


@dataclass(frozen=True)
class Block:
    """Some of a worker's rows, in the plan's order."""

    position: np.ndarray
    source: np.ndarray
    sequence: np.ndarray
    tokens: np.ndarray
    """[rows, length], of the stores' own integer type: two bytes each where that is enough."""
    loss_mask: np.ndarray | None
    """bool[rows, length]: whether the token counts in the loss; None where all do."""

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, part: slice) -> Block:
        """A view: nothing is copied."""
        mask = None if self.loss_mask is None else self.loss_mask[part]
        return Block(self.position[part], self.source[part], self.sequence[part], self.tokens[part], mask)


Planned = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Positions, sources and sequences of a block of this worker's rows."""
Span = tuple[int, int]
"""Positions [start, stop) of the plan."""


def read_rows(stores: Sequence[Store], planned: Planned, sequence_length: int) -> Block:
    """Reads the planned sequences; one read per source. Row i of the result is row i of what was planned."""
    position, source, sequence = planned
    parts = []
    for index in np.unique(source).tolist():
        rows = np.flatnonzero(source == index)
        read = getattr(stores[index], "read_raw", stores[index].read)
        parts.append((rows, *read(sequence[rows], sequence_length)))
    if len(parts) == 1:
        return Block(*planned, *parts[0][1:])
    dtype = np.result_type(*(tokens.dtype for _, tokens, _ in parts)) if parts else np.dtype(np.int32)
    tokens = np.empty((len(position), sequence_length), dtype)
    all_count = all(mask is None for _, _, mask in parts)
    loss_mask = None if all_count else np.ones(tokens.shape, bool)
    for rows, of_source, mask in parts:
        tokens[rows] = of_source
        if mask is not None and loss_mask is not None:
            loss_mask[rows] = mask
    return Block(*planned, tokens, loss_mask)


def joined(parts: Sequence[Block]) -> Block:
    """Blocks that follow each other, as one."""
    if len(parts) == 1:
        return parts[0]
    columns = [np.concatenate([getattr(p, name) for p in parts]) for name in ("position", "source", "sequence")]
    tokens = np.concatenate([part.tokens for part in parts])
    if all(part.loss_mask is None for part in parts):
        return Block(*columns, tokens, None)
    masks = [np.ones(part.tokens.shape, bool) if part.loss_mask is None else part.loss_mask for part in parts]
    return Block(*columns, tokens, np.concatenate(masks))


def spans(
    position: int,
    num_sequences: int,
    batch_sequences: int,
    world_size: int,
    sequence_length: int,
    block_bytes: int,
) -> list[Span]:
    """How the plan from `position` on is cut into blocks: the first a single step, so that training begins at once,
    then twice as much each time up to `block_bytes` of tokens per worker; whole steps where one is no larger than that,
    so that a step is a view of its block. How it is cut changes nothing of what comes.
    """
    largest = max(1, block_bytes // (sequence_length * TOKEN_BYTES)) * world_size
    if largest > batch_sequences:
        largest -= largest % batch_sequences
    cut, size = [], min(batch_sequences, largest)
    while position < num_sequences:
        cut.append((position, min(position + size, num_sequences)))
        position += size
        size = min(2 * size, largest)
    return cut


def planner(plan: PlanLike, rank: int, world_size: int) -> Callable[[Span], Planned]:
    """What this worker reads of a span of the plan: every `world_size`-th position."""

    def planned(span: Span) -> Planned:
        rows = plan.rows(*span)
        mine = slice((rank - span[0]) % world_size, None, world_size)
        return rows.position[mine], rows.source[mine], rows.sequence[mine]

    return planned


class StepSlicer:
    """Takes steps out of blocks, wherever the blocks end."""

    def __init__(self, blocks: Iterator[Block], sequence_length: int) -> None:
        self._blocks, self._length = blocks, sequence_length
        self._parts: list[Block] = []

    def take(self, positions: np.ndarray) -> Block:
        """The rows of exactly these positions; raises RuntimeError when something else came."""
        have = sum(map(len, self._parts))
        while have < len(positions):
            block = next(self._blocks, None)
            if block is None:
                raise RuntimeError(f"the data ended before positions {_span(positions)}")
            # An empty rest would make joining copy a whole block.
            self._parts = [part for part in self._parts if len(part)] + [block]
            have += len(block)
        whole = joined(self._parts) if self._parts else _nothing(self._length)
        self._parts = [whole[len(positions) :]]
        block = whole[: len(positions)]
        if not np.array_equal(block.position, positions):
            raise RuntimeError(f"the data of positions {_span(positions)} came as {_span(block.position)}")
        return block


def _nothing(sequence_length: int) -> Block:
    none = np.zeros(0, np.int64)
    return Block(none, none.astype(np.int16), none, np.zeros((0, sequence_length), np.int32), None)


def _span(positions: np.ndarray) -> str:
    return f"{positions[0]}..{positions[-1]}" if len(positions) else "none"
