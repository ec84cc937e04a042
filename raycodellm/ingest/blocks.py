"""Blocks of a worker's rows of the plan: how the plan is cut into blocks, read, and cut into steps again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

TOKEN_BYTES = 2
"""Bytes per token, assumed where the size of a block is chosen."""


class Store(Protocol):
    """The part of a token store that reading needs (`tokens.PackedStore` has it). Travels to read tasks by pickle.

    Reading prefers `read_raw` where a store has it: it may give tokens of any integer type, and None for the mask when
    every token counts. `every_token_counts`, where a store has it, says that this holds for all its sequences.
    """

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(tokens int32, loss mask bool), both [n, sequence_length], of the numbered sequences."""


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
    """int64[rows]: position in the plan."""
    source: np.ndarray
    """int16[rows]: index into the stage's sources."""
    sequence: np.ndarray
    """int64[rows]: number of the sequence in its source's token store."""
    tokens: np.ndarray
    """[rows, length], of the stores' own integer type: two bytes each where that is enough."""
    loss_mask: np.ndarray | None
    """bool[rows, length]: whether the token counts in the loss; None where all tokens count."""

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, part: slice) -> Block:
        """A view: nothing is copied."""
        mask = None if self.loss_mask is None else self.loss_mask[part]
        return Block(self.position[part], self.source[part], self.sequence[part], self.tokens[part], mask)


PlannedRows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Positions, sources and sequences of this worker's rows of a block."""
Span = tuple[int, int]
"""Positions [start, stop) of the plan."""


def read_rows(stores: Sequence[Store], planned_rows: PlannedRows, sequence_length: int) -> Block:
    """Reads the planned sequences, with one read per source; the rows keep their order."""
    position, source, sequence = planned_rows
    parts = []
    for index in np.unique(source).tolist():
        rows = np.flatnonzero(source == index)
        read = getattr(stores[index], "read_raw", stores[index].read)
        parts.append((rows, *read(sequence[rows], sequence_length)))
    if len(parts) == 1:
        _, tokens, loss_mask = parts[0]
        return Block(position, source, sequence, tokens, loss_mask)
    dtype = np.result_type(*(tokens.dtype for _, tokens, _ in parts)) if parts else np.dtype(np.int32)
    tokens = np.empty((len(position), sequence_length), dtype)
    all_count = all(mask is None for _, _, mask in parts)
    loss_mask = None if all_count else np.ones(tokens.shape, bool)
    for rows, of_source, mask in parts:
        tokens[rows] = of_source
        if mask is not None and loss_mask is not None:
            loss_mask[rows] = mask
    return Block(position, source, sequence, tokens, loss_mask)


def join_blocks(parts: Sequence[Block]) -> Block:
    """One block of blocks that follow each other."""
    if len(parts) == 1:
        return parts[0]
    loss_mask = None
    if any(part.loss_mask is not None for part in parts):
        masks = [np.ones(part.tokens.shape, bool) if part.loss_mask is None else part.loss_mask for part in parts]
        loss_mask = np.concatenate(masks)
    return Block(
        position=np.concatenate([part.position for part in parts]),
        source=np.concatenate([part.source for part in parts]),
        sequence=np.concatenate([part.sequence for part in parts]),
        tokens=np.concatenate([part.tokens for part in parts]),
        loss_mask=loss_mask,
    )


def spans(
    position: int,
    num_sequences: int,
    batch_sequences: int,
    world_size: int,
    sequence_length: int,
    block_bytes: int,
) -> list[Span]:
    """The spans of blocks that cut the plan from `position` on; how it is cut changes nothing of the data.

    The first block is a single step, so that training begins at once; each next block is twice as large, up to
    `block_bytes` of tokens per worker. A block holds whole steps where one step is no larger than that, so that a step
    is a view of its block.
    """
    largest = max(1, block_bytes // (sequence_length * TOKEN_BYTES)) * world_size
    if largest > batch_sequences:
        largest -= largest % batch_sequences
    blocks, size = [], min(batch_sequences, largest)
    while position < num_sequences:
        blocks.append((position, min(position + size, num_sequences)))
        position += size
        size = min(2 * size, largest)
    return blocks


def planner(plan: PlanLike, rank: int, world_size: int) -> Callable[[Span], PlannedRows]:
    """A function that gives this worker's rows of a span: every `world_size`-th position."""

    def rows_of(span: Span) -> PlannedRows:
        rows = plan.rows(*span)
        own_rows = slice((rank - span[0]) % world_size, None, world_size)
        return rows.position[own_rows], rows.source[own_rows], rows.sequence[own_rows]

    return rows_of


class StepSlicer:
    """Cuts blocks into steps, which may begin and end anywhere in a block."""

    def __init__(self, blocks: Iterator[Block], sequence_length: int) -> None:
        self._blocks, self._length = blocks, sequence_length
        self._parts: list[Block] = []

    def take(self, positions: np.ndarray) -> Block:
        """The rows of exactly these positions. Raises RuntimeError when the blocks hold other positions."""
        num_rows = sum(map(len, self._parts))
        while num_rows < len(positions):
            block = next(self._blocks, None)
            if block is None:
                raise RuntimeError(f"the data ended before positions {_span(positions)}")
            # An empty rest would make `join_blocks` copy a whole block.
            self._parts = [part for part in self._parts if len(part)] + [block]
            num_rows += len(block)
        joined = join_blocks(self._parts) if self._parts else _empty_block(self._length)
        self._parts = [joined[len(positions) :]]
        block = joined[: len(positions)]
        if not np.array_equal(block.position, positions):
            raise RuntimeError(f"the data of positions {_span(positions)} came as {_span(block.position)}")
        return block


def _empty_block(sequence_length: int) -> Block:
    none = np.zeros(0, np.int64)
    return Block(none, none.astype(np.int16), none, np.zeros((0, sequence_length), np.int32), None)


def _span(positions: np.ndarray) -> str:
    return f"{positions[0]}..{positions[-1]}" if len(positions) else "none"
