"""The batches of one worker, step after step."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from raycodellm.ingest import readers
from raycodellm.ingest.blocks import Block, PlanLike, StepSlicer, Store, planner, spans
from raycodellm.ingest.readers import Prefetcher, read_by_ray, read_in_process

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Label of a token that does not count in the loss, as torch has it."""


@dataclass(frozen=True)
class StepBatch:
    """This worker's rows of one step."""

    micro_batches: list[dict[str, torch.Tensor]]
    """`tokens` and `labels`, int64[rows, length] each; equally many micro batches on every worker.

    A label is -100 where the token does not count in the loss. Where all tokens count, labels and tokens are the very
    same tensor: write to neither."""
    source: np.ndarray
    """int16[rows]: index into the stage's sources."""
    position: np.ndarray
    """int64[rows]: position in the plan."""
    sequence: np.ndarray
    """int64[rows]: number of the sequence in its source's token store."""
    wait_seconds: float
    """Seconds that training waited for this batch."""
    blocks_ready: int = 0
    """Blocks read and waiting when this batch was asked for: 0 means that training is as fast as reading."""


def micro_batches_per_step(batch_sequences: int, world_size: int, micro_batch: int | None) -> int:
    """Forward passes per step and worker: equally many on every worker, so that their exchanges pair up."""
    rows_per_worker = -(-batch_sequences // world_size)
    return -(-rows_per_worker // (micro_batch or rows_per_worker))


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
    name: str = "data",
) -> Generator[StepBatch]:
    """Batches of this worker from `position` (a whole number of steps) to the plan's end.

    `name`: of the datasets in Ray's dashboard, where `use_ray` has them read by Ray Data.
    Raises ValueError when `position` is inside a step, and an error of a read at the step that needs its rows.
    """
    if position % batch_sequences:
        raise ValueError(f"position {position} is inside a step of {batch_sequences} sequences")
    per_step = micro_batches_per_step(batch_sequences, world_size, micro_batch)
    rows_per_pass = micro_batch or -(-batch_sequences // world_size)
    read_blocks: Callable[..., Iterator[Block]]
    read_blocks, block_bytes = (
        (partial(read_by_ray, name=name), readers.TASK_BYTES) if use_ray else (read_in_process, readers.BLOCK_BYTES)
    )
    blocks = spans(position, plan.num_sequences, batch_sequences, world_size, sequence_length, block_bytes)
    prefetched = Prefetcher(read_blocks(stores, planner(plan, rank, world_size), blocks, sequence_length))
    slicer = StepSlicer(prefetched, sequence_length)
    try:
        for step_start in range(position, plan.num_sequences, batch_sequences):
            own_start = step_start + (rank - step_start) % world_size
            positions = np.arange(own_start, step_start + batch_sequences, world_size)
            began, num_ready = time.perf_counter(), prefetched.num_ready
            block = slicer.take(positions)
            micro_batches = _micro_batches(block, per_step, rows_per_pass)
            wait_seconds = time.perf_counter() - began
            yield StepBatch(micro_batches, block.source, block.position, block.sequence, wait_seconds, num_ready)
    finally:
        prefetched.close()


def _micro_batches(block: Block, per_step: int, rows_per_pass: int) -> list[dict[str, torch.Tensor]]:
    import torch

    tokens = labels = torch.from_numpy(block.tokens.astype(np.int64))
    if block.loss_mask is not None:
        labels = torch.from_numpy(np.where(block.loss_mask, tokens.numpy(), IGNORED))
    parts = [slice(number * rows_per_pass, (number + 1) * rows_per_pass) for number in range(per_step)]
    return [{"tokens": tokens[part], "labels": labels[part]} for part in parts]
