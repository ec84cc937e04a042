"""The rows of a task that is being scored, kept so that another attempt scores only the blocks that are left.

Every worker writes the rows of its own blocks, about every `FLUSH_SECONDS` into a new small file: no file is written
twice, so that none can be torn by the next writing. A file that cannot be read costs the blocks that it holds.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raycodellm.files import DamagedFile, Folder

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 20.0
"""Interval between two files of a worker: the work that a killed worker may lose."""
_SCHEMA = {"task": "string", "block": "int64", "rows": "string"}
_SECONDS = b"seconds"

Block = tuple[str, int]
"""A task's name and the number of one of its blocks."""


@dataclass(frozen=True)
class EarlierRows:
    """The rows that earlier attempts left."""

    blocks: dict[Block, list[dict[str, Any]]]
    """The rows of each scored block."""
    seconds: float
    """Wall-clock time that scoring these rows took."""
    num_damaged: int
    """Files that cannot be read."""


class PartialRows:
    """A folder with the rows of scored blocks."""

    def __init__(self, folder: Folder, num_workers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """`num_workers`: the number of workers that score the task together, each with a `PartialRows` of its own."""
        self._folder, self._num_workers, self._clock = folder, num_workers, clock
        self._waiting: dict[Block, list[dict[str, Any]]] = {}
        self._flushed_at = clock()

    def read(self) -> EarlierRows:
        """The rows that earlier attempts left."""
        blocks: dict[Block, list[dict[str, Any]]] = {}
        seconds, num_damaged = 0.0, 0
        for name in self._folder.list():
            if name.startswith("."):  # half a file, of an attempt that was killed
                continue
            try:
                table = self._folder.read_table(name, _SCHEMA)
                file_blocks = {(row["task"], row["block"]): json.loads(row["rows"]) for row in table.to_pylist()}
                seconds += float((table.schema.metadata or {}).get(_SECONDS, 0.0))
            except (DamagedFile, FileNotFoundError, ValueError) as error:
                logger.warning("%s", error)
                num_damaged += 1
                continue
            blocks.update(file_blocks)
        return EarlierRows(blocks, seconds, num_damaged)

    def restart_interval(self) -> None:
        """Counts the time to the next file from now on."""
        self._flushed_at = self._clock()

    def add(self, block: Block, rows: list[dict[str, Any]]) -> None:
        """Keeps a scored block; writes all unwritten blocks when they are `FLUSH_SECONDS` of work."""
        self._waiting[block] = rows
        if self._clock() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the blocks that wait. A storage that takes no file costs a later attempt these blocks, and no more:
        the task's result says what is wrong with the storage."""
        now = self._clock()
        if self._waiting:
            columns = {
                "task": [task for task, _ in self._waiting],
                "block": [block for _, block in self._waiting],
                "rows": [json.dumps(rows) for rows in self._waiting.values()],
            }
            schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in _SCHEMA.items()])
            seconds = {_SECONDS: repr((now - self._flushed_at) / self._num_workers)}
            try:
                table = pa.table(columns, schema=schema.with_metadata(seconds))
                self._folder.write_table(f"{uuid.uuid4().hex}.parquet", table)
            except OSError as error:
                logger.warning("%s", error)
        self._waiting, self._flushed_at = {}, now

    def delete(self) -> None:
        """Removes what all attempts left; the task's result holds their rows."""
        self._waiting = {}
        self._folder.delete()
