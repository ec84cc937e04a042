"""The two ways to read blocks, in the plan's order and ahead of the training that takes them.

`read_in_process` reads in this process: the shortest way, which works without Ray. `read_by_ray` reads in Ray Data
tasks, one block each, kept in order: reading then takes no time from the training process, and a task whose process or
node is lost runs again and keeps its place. `Prefetcher` runs either of them in a thread, a few blocks ahead.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycodellm.ingest.blocks import TOKEN_BYTES, Block, PlannedRows, Span, Store, read_rows

BLOCK_BYTES = 8 * 2**20
"""Bytes of tokens in a block, per worker: about two thousand sequences of 2,048 tokens."""
TASK_BYTES = 16 * 2**20
"""Bytes of tokens in a block that a Ray Data task reads; each task costs some 20 ms besides its reading."""
BLOCKS_AHEAD = 2
"""Blocks read in advance, per worker."""
BLOCKS_PER_DATASET = 64
"""Blocks after which a new dataset begins, so that a long plan is worked out piece by piece."""
_NODE = "ray.io/node-id"
_END_SECONDS = 30.0
logger = logging.getLogger(__name__)


class Prefetcher:
    """Iterates over the blocks of another iterator, which a thread reads `BLOCKS_AHEAD` in advance.

    An error of the other iterator is raised when its block is asked for. `close` ends the thread.
    """

    def __init__(self, source: Iterator[Block]) -> None:
        self._source = source
        self._ready: queue.Queue[Block | BaseException | None] = queue.Queue(maxsize=BLOCKS_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="raycodellm-ingest", daemon=True)
        self._thread.start()

    @property
    def num_ready(self) -> int:
        """Blocks that are read and waiting."""
        return self._ready.qsize()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Block:
        item = self._ready.get()
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():  # the end of training needs nothing of it
            logger.warning("a read of training data has not ended after %.0f s and is left alone", _END_SECONDS)

    def _work(self) -> None:
        failure: BaseException | None = None
        try:
            for block in self._source:
                if not self._hand_over(block):
                    break
        except BaseException as error:  # travels to the training thread, which raises it
            failure = error
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
        self._hand_over(failure)

    def _hand_over(self, item: Block | BaseException | None) -> bool:
        """Waits for room and puts the item into the queue; False once `close` was called."""
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def read_in_process(
    stores: Sequence[Store], rows_of: Callable[[Span], PlannedRows], spans: Sequence[Span], sequence_length: int
) -> Iterator[Block]:
    """Reads each span's block in this thread."""
    for span in spans:
        yield read_rows(stores, rows_of(span), sequence_length)


def read_by_ray(
    stores: Sequence[Store],
    rows_of: Callable[[Span], PlannedRows],
    spans: Sequence[Span],
    sequence_length: int,
    name: str = "data",
) -> Iterator[Block]:
    """Reads each span's block in a Ray Data task, on this node if possible. Ray runs a lost task again.

    `name`: of the datasets in the dashboard.
    """
    stores, masked = list(stores), not all(getattr(store, "every_token_counts", False) for store in stores)
    for first_span in range(0, len(spans), BLOCKS_PER_DATASET):
        rows = [rows_of(span) for span in spans[first_span : first_span + BLOCKS_PER_DATASET]]
        # A worker has no rows of a span that is shorter than the number of workers.
        reads = [_BlockRead(stores, block, sequence_length, masked) for block in rows if len(block[0])]
        if reads:
            for batch in _dataset(reads, name).iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
                mask = batch.get("loss_mask")
                yield Block(batch["position"], batch["source"], batch["sequence"], batch["tokens"], mask)


def preload() -> None:
    """Imports Ray Data and starts its reading processes, before any data is to be read."""
    rows = np.arange(8)
    block_read = _BlockRead([_ZeroStore()], (rows, np.zeros(8, np.int16), rows), 8, False)
    _dataset([block_read] * BLOCKS_AHEAD, "preload").take_all()


class _ZeroStore:
    """A store of zeros; reading it imports the modules that reading a real store needs."""

    every_token_counts = True

    def read(self, sequences: np.ndarray, sequence_length: int) -> tuple[np.ndarray, np.ndarray | None]:
        import raycodellm.tokens  # noqa: F401

        return np.zeros((len(sequences), sequence_length), np.uint16), None


def _dataset(reads: list[_BlockRead], name: str) -> Any:
    import ray.data

    dataset = ray.data.read_datasource(
        _datasource(reads),
        override_num_blocks=len(reads),
        # No CPU is asked for: a training worker group may hold every CPU of the cluster, and would wait for ever.
        num_cpus=0,
        concurrency=BLOCKS_AHEAD,
        # On this node: the block is then in its memory, and its copies of stores are used.
        label_selector={_NODE: _this_node()},
        fallback_strategy=[{"label_selector": {_NODE: "!none"}}],  # or else on any other node
    )
    dataset.set_name(name)
    options = dataset.context.execution_options
    options.preserve_order = True
    # Without a limit, each worker reads ahead until it has filled its part of the object store.
    memory = 4 * BLOCKS_AHEAD * TASK_BYTES
    options.resource_limits = ray.data.ExecutionResources.for_limits(object_store_memory=memory)
    _quiet(dataset.context)
    return dataset


def _this_node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def _quiet(context: Any) -> None:
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


@dataclass(frozen=True)
class _BlockRead:
    """The work of one read task; picklable. Carries its rows (18 bytes each), not the plan."""

    stores: list[Store]
    planned_rows: PlannedRows
    sequence_length: int
    masked: bool
    """True if the block has a loss mask; all blocks of a dataset have the same columns."""

    def __call__(self) -> Iterator[Any]:
        from ray.data.block import BlockAccessor

        block = read_rows(self.stores, self.planned_rows, self.sequence_length)
        columns = {name: getattr(block, name) for name in ("position", "source", "sequence", "tokens")}
        if self.masked:
            mask = block.loss_mask
            columns["loss_mask"] = np.ones(block.tokens.shape, bool) if mask is None else mask
        yield BlockAccessor.batch_to_block(columns)


def _datasource(reads: list[_BlockRead]) -> Any:
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class PlannedSequences(Datasource):
        """A worker's rows of the plan, one read task per block."""

        def estimate_inmemory_data_size(self) -> int:
            return sum(map(self.num_bytes, reads))

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
        ) -> list[ReadTask]:
            return [ReadTask(read, self.metadata(read)) for read in reads]

        @staticmethod
        def num_bytes(read: _BlockRead) -> int:
            return len(read.planned_rows[0]) * ((TOKEN_BYTES + read.masked) * read.sequence_length + 18)

        def metadata(self, read: _BlockRead) -> BlockMetadata:
            size = self.num_bytes(read)
            return BlockMetadata(num_rows=len(read.planned_rows[0]), size_bytes=size, input_files=None, exec_stats=None)

    return PlannedSequences()
