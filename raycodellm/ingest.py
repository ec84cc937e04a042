"""From the plan to batches: each worker reads its own rows of the plan, ahead of the training that takes them.

Step k of B sequences trains positions [k B, (k+1) B); of these, p belongs to worker p mod the number of workers.
So the order of a stage's data is the plan's for any number of workers, and continuing is starting at a later position.
The rows are read by one pure function, `read_rows`, in one of two ways: Ray Data tasks, a block of plan rows each, kept
in order (a lost task is run again and keeps its place), or a thread of this process. Imports here stay light: every
process that runs a read task pays for them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Label of a token that does not count in the loss, as torch has it."""
_BLOCK_BYTES = 4 * 2**20
_BLOCKS_AHEAD = 2
"""Blocks read and not yet trained on, per worker."""
_BLOCKS_PER_DATASET = 256


class Store(Protocol):
    """What is read here of a token store (`tokens.TokenStore` is one). Travels to read tasks by pickle."""

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray]: ...


class Rows(Protocol):
    position: np.ndarray
    source: np.ndarray
    sequence: np.ndarray


class PlanLike(Protocol):
    """What is asked here of `mixture.Plan`."""

    num_sequences: int

    def rows(self, start: int, stop: int) -> Rows: ...


@dataclass(frozen=True)
class Block:
    """Some of a worker's rows, in the plan's order."""

    position: np.ndarray
    source: np.ndarray
    sequence: np.ndarray
    tokens: np.ndarray
    """int32[rows, length]."""
    loss_mask: np.ndarray
    """bool[rows, length]: whether the token counts in the loss."""

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, part: slice) -> Block:
        return Block(*(getattr(self, name)[part] for name in _COLUMNS))


_COLUMNS = ("position", "source", "sequence", "tokens", "loss_mask")


@dataclass(frozen=True)
class StepBatch:
    """This worker's rows of one step."""

    micro_batches: list[dict[str, torch.Tensor]]
    """tokens and labels, int64[rows, length]; labels are -100 where they do not count. As many for every worker."""
    source: np.ndarray
    """int16[rows]: index into the stage's sources."""
    position: np.ndarray
    sequence: np.ndarray
    wait_seconds: float
    """How long training waited for this batch."""


def preload() -> None:
    """Imports Ray Data and starts the processes that it reads with, before there is anything to read."""
    import ray.data

    dataset = ray.data.range(1, override_num_blocks=1)
    _quiet(dataset.context)
    dataset.take_all()


def micro_batches_per_step(batch_sequences: int, world_size: int, micro_batch: int | None) -> int:
    """Forward passes per step and worker: as many for every worker, so that their exchanges pair up."""
    most = -(-batch_sequences // world_size)
    return -(-most // (micro_batch or most))


def read_rows(
    stores: Sequence[Store], position: np.ndarray, source: np.ndarray, sequence: np.ndarray, sequence_length: int
) -> Block:
    """Reads the planned sequences; one range read per source. Row i of the result is row i of the plan's."""
    tokens = np.empty((len(position), sequence_length), dtype=np.int32)
    loss_mask = np.empty((len(position), sequence_length), dtype=bool)
    for index in np.unique(source):
        mine = np.flatnonzero(source == index)
        tokens[mine], loss_mask[mine] = stores[int(index)].read(sequence[mine], sequence_length)
    return Block(position, source, sequence, tokens, loss_mask)


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
) -> Iterator[StepBatch]:
    """Batches of this worker from `position` (a whole number of steps) to the plan's end.

    Raises ValueError when `position` is inside a step, and what a read raised at the step that needed it.
    """
    if position % batch_sequences:
        raise ValueError(f"position {position} is inside a step of {batch_sequences} sequences")
    in_block = max(1, _BLOCK_BYTES // (sequence_length * 5)) * world_size

    def planned(start: int) -> _Planned:
        rows = plan.rows(start, min(start + in_block, plan.num_sequences))
        mine = rows.position % world_size == rank
        return rows.position[mine], rows.source[mine], rows.sequence[mine]

    per_step = micro_batches_per_step(batch_sequences, world_size, micro_batch)
    rows_per_pass = micro_batch or -(-batch_sequences // world_size)
    starts = range(position, plan.num_sequences, in_block)
    read = _ray_blocks if use_ray else _thread_blocks
    blocks = read(list(stores), planned, starts, sequence_length)
    cutter = _Cutter(blocks)
    try:
        for first in range(position, plan.num_sequences, batch_sequences):
            positions = np.arange(first + (rank - first) % world_size, first + batch_sequences, world_size)
            asked = time.perf_counter()
            block = cutter.take(positions)
            yield _batch(block, per_step, rows_per_pass, time.perf_counter() - asked)
    finally:
        blocks.close()


class _Cutter:
    """Takes steps out of blocks, wherever the blocks end."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks = blocks
        self._parts: list[Block] = []

    def take(self, positions: np.ndarray) -> Block:
        """The rows of exactly these positions; raises RuntimeError when something else came."""
        have = sum(map(len, self._parts))
        while have < len(positions) or not self._parts:
            self._parts.append(next(self._blocks))
            have += len(self._parts[-1])
        whole = self._parts[0] if len(self._parts) == 1 else _joined(self._parts)
        self._parts = [whole[len(positions) :]]
        block = whole[: len(positions)]
        if not np.array_equal(block.position, positions):
            raise RuntimeError(f"the data of positions {_span(positions)} came as {_span(block.position)}")
        return block


def _joined(parts: Sequence[Block]) -> Block:
    return Block(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))


def _span(positions: np.ndarray) -> str:
    return f"{positions[0]}..{positions[-1]}" if len(positions) else "none"


def _batch(block: Block, per_step: int, rows_per_pass: int, waited: float) -> StepBatch:
    import torch

    tokens = torch.from_numpy(block.tokens.astype(np.int64))
    labels = torch.where(torch.from_numpy(np.array(block.loss_mask)), tokens, IGNORED)
    parts = [slice(first * rows_per_pass, (first + 1) * rows_per_pass) for first in range(per_step)]
    return StepBatch(
        micro_batches=[{"tokens": tokens[part], "labels": labels[part]} for part in parts],
        source=block.source,
        position=block.position,
        sequence=block.sequence,
        wait_seconds=waited,
    )


_Planned = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Positions, sources and sequences of a block of this worker's rows."""


def _thread_blocks(
    stores: list[Store], planned: Callable[[int], _Planned], starts: Sequence[int], sequence_length: int
) -> Iterator[Block]:
    """Reads in a thread of this process, a few blocks ahead."""
    ready: queue.Queue[Block | BaseException] = queue.Queue(maxsize=_BLOCKS_AHEAD)
    stopped = threading.Event()

    def hand_over(item: Block | BaseException) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for start in starts:
                if stopped.is_set():
                    return
                hand_over(read_rows(stores, *planned(start), sequence_length))
        except BaseException as error:  # travels to the training thread, which raises it
            hand_over(error)

    thread = threading.Thread(target=work, name="raycodellm-ingest", daemon=True)
    thread.start()
    try:
        for _ in starts:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _ray_blocks(
    stores: list[Store], planned: Callable[[int], _Planned], starts: Sequence[int], sequence_length: int
) -> Iterator[Block]:
    """Reads in Ray Data tasks, a block each, in order; a new dataset every so often, so that no plan is too long."""
    import ray.data

    for segment in range(0, len(starts), _BLOCKS_PER_DATASET):
        rows = [planned(start) for start in starts[segment : segment + _BLOCKS_PER_DATASET]]
        rows = [block for block in rows if len(block[0])]  # with more workers than rows some have none
        if not rows:
            continue
        dataset = ray.data.read_datasource(
            _datasource([_Read(stores, block, sequence_length) for block in rows]),
            override_num_blocks=len(rows),
            # No CPU is asked for: a training worker group may hold every CPU that there is, and would wait for ever.
            num_cpus=0,
            concurrency=_BLOCKS_AHEAD,
        )
        options = dataset.context.execution_options
        options.preserve_order = True
        # Left alone, each worker reads ahead until it has its part of the object store.
        memory = 4 * _BLOCKS_AHEAD * _BLOCK_BYTES
        options.resource_limits = ray.data.ExecutionResources.for_limits(object_store_memory=memory)
        _quiet(dataset.context)
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
            yield Block(*(batch[name] for name in _COLUMNS))


def _quiet(context: Any) -> None:
    import logging

    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


@dataclass(frozen=True)
class _Read:
    """One read task's work; picklable. It carries its rows (18 bytes each), not the plan."""

    stores: list[Store]
    rows: _Planned
    sequence_length: int

    def __call__(self) -> Iterator[Any]:
        from ray.data.block import BlockAccessor

        block = read_rows(self.stores, *self.rows, self.sequence_length)
        yield BlockAccessor.batch_to_block({name: getattr(block, name) for name in _COLUMNS})


def _datasource(reads: list[_Read]) -> Any:
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class PlannedSequences(Datasource):
        """A worker's rows of the plan, a read task per block."""

        def estimate_inmemory_data_size(self) -> int:
            return sum(map(self.num_bytes, reads))

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
        ) -> list[ReadTask]:
            return [ReadTask(read, self.metadata(read)) for read in reads]

        @staticmethod
        def num_bytes(read: _Read) -> int:
            return len(read.rows[0]) * (5 * read.sequence_length + 18)

        def metadata(self, read: _Read) -> BlockMetadata:
            size = self.num_bytes(read)
            return BlockMetadata(num_rows=len(read.rows[0]), size_bytes=size, input_files=None, exec_stats=None)

    return PlannedSequences()
