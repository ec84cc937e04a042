"""From the plan to batches: each worker reads its own rows of the plan, ahead of the training that takes them.

Step k of B sequences trains positions [k B, (k+1) B); of these, p belongs to worker p mod the number of workers.
So the order of a stage's data is the plan's for any number of workers, and continuing is starting at a later position.
The rows are read by one pure function, `blocks.read_rows`, in one of the two ways of `readers`. Imports here stay
light: every process that runs a read task pays for them.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raycodellm.ingest import readers
from raycodellm.ingest.blocks import Block, PlanLike, StepSlicer, Store, planner, read_rows, spans
from raycodellm.ingest.cache import cached, filling
from raycodellm.ingest.readers import Prefetcher, preload, read_by_ray, read_in_process

if TYPE_CHECKING:
    import torch

__all__ = [
    "IGNORED",
    "Block",
    "StepBatch",
    "Store",
    "cached",
    "filling",
    "micro_batches_per_step",
    "preload",
    "read_rows",
    "steps",
]

IGNORED = -100
"""Label of a token that does not count in the loss, as torch has it."""


@dataclass(frozen=True)
class StepBatch:
    """This worker's rows of one step."""

    micro_batches: list[dict[str, torch.Tensor]]
    """tokens and labels, int64[rows, length]; labels are -100 where they do not count, and the very same tensor as the
    tokens where all do: neither is to be written to. As many for every worker."""
    source: np.ndarray
    """int16[rows]: index into the stage's sources."""
    position: np.ndarray
    sequence: np.ndarray
    wait_seconds: float
    """How long training waited for this batch."""
    blocks_ready: int = 0
    """Blocks that were read and waiting when this batch was asked for: 0 means that training is as fast as reading."""


def micro_batches_per_step(batch_sequences: int, world_size: int, micro_batch: int | None) -> int:
    """Forward passes per step and worker: as many for every worker, so that their exchanges pair up."""
    most = -(-batch_sequences // world_size)
    return -(-most // (micro_batch or most))


def steps(
    plan: PlanLike,
    stores: Sequence[Store],
    sequence_length: int,
    batch_sequences: int,
    position: int,
    rank: int = 0,
    world_size: int = 1,
    micro_batch: int | None = None,
    use_ray: bool = False,
) -> Generator[StepBatch]:
    """Batches of this worker from `position` (a whole number of steps) to the plan's end.

    Raises ValueError when `position` is inside a step, and what a read raised at the step that needed it.
    """
    if position % batch_sequences:
        raise ValueError(f"position {position} is inside a step of {batch_sequences} sequences")
    per_step = micro_batches_per_step(batch_sequences, world_size, micro_batch)
    rows_per_pass = micro_batch or -(-batch_sequences // world_size)
    read, block_bytes = (read_by_ray, readers.TASK_BYTES) if use_ray else (read_in_process, readers.BLOCK_BYTES)
    cut = spans(position, plan.num_sequences, batch_sequences, world_size, sequence_length, block_bytes)
    ahead = Prefetcher(read(stores, planner(plan, rank, world_size), cut, sequence_length))
    cutter = StepSlicer(ahead, sequence_length)
    try:
        for first in range(position, plan.num_sequences, batch_sequences):
            positions = np.arange(first + (rank - first) % world_size, first + batch_sequences, world_size)
            asked, ready = time.perf_counter(), ahead.num_ready
            block = cutter.take(positions)
            micro_batches = _micro_batches(block, per_step, rows_per_pass)
            waited = time.perf_counter() - asked
            yield StepBatch(micro_batches, block.source, block.position, block.sequence, waited, ready)
    finally:
        ahead.close()


def _micro_batches(block: Block, per_step: int, rows_per_pass: int) -> list[dict[str, torch.Tensor]]:
    import torch

    tokens = labels = torch.from_numpy(block.tokens.astype(np.int64))
    if block.loss_mask is not None:
        labels = torch.from_numpy(np.where(block.loss_mask, tokens.numpy(), IGNORED))
    parts = [slice(first * rows_per_pass, (first + 1) * rows_per_pass) for first in range(per_step)]
    return [{"tokens": tokens[part], "labels": labels[part]} for part in parts]
