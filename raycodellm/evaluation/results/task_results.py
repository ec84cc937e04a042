"""The result of one task for one model, and the folder of a model's results.

Each task has a file of its own, so that the tasks of any evaluation of the model are put together from results that are
there. A file is written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Protocol

import pyarrow as pa

from raycodellm.evaluation.results.partial_rows import PartialRows
from raycodellm.evaluation.scores.items_table import ITEMS_SCHEMA
from raycodellm.files import DamagedFile, Folder
from raycodellm.records import from_json

_FACTS = b"result"
"""Key of the table's metadata that holds all of a result but its items."""
_COLUMNS = {name: str(ITEMS_SCHEMA.field(name).type) for name in ("task", "item")}
_READERS = 16
"""Reads at once from an object store, which answers each after some 50 ms."""


@dataclass(frozen=True)
class TaskResult:
    """The scores of one task, or of the members of a group that is kept as one."""

    items: pa.Table
    """One row per item; see `ITEMS_SCHEMA`."""
    metrics: dict[str, float]
    """The metrics of the task, or of each of the group's members."""
    members: tuple[str, ...]
    """Names of the tasks whose items these are."""
    seconds: float
    """Spent on scoring, summed over all attempts."""

    @property
    def is_not_run(self) -> bool:
        """True if a failure of the sandbox or the machine left no item of a task that could be scored."""
        return any(
            bool(self.metrics.get(f"{task}/not_run")) and not self.metrics.get(f"{task}/items") for task in self.members
        )


@dataclass(frozen=True)
class _Facts:
    """All of a TaskResult but its items."""

    metrics: dict[str, float]
    members: tuple[str, ...]
    seconds: float


class Results(Protocol):
    """The results of one model that are kept."""

    def read(self, tasks: Iterable[str]) -> dict[str, TaskResult]:
        """The results of the tasks; a task without a result is left out."""

    def write(self, task: str, result: TaskResult) -> None: ...

    def partial(self, task: str, num_workers: int) -> PartialRows | None:
        """The rows of a task without a result, which so many workers score; None where no rows are kept."""


class NoResults:
    """Keeps nothing."""

    def read(self, tasks: Iterable[str]) -> dict[str, TaskResult]:
        return {}

    def write(self, task: str, result: TaskResult) -> None:
        pass

    def partial(self, task: str, num_workers: int) -> PartialRows | None:
        return None


class KeptResults:
    """Keeps each task's result in a file of a folder, and the rows of a task without a result in a folder beside it.

    A result without a single item that could be run says what the machine lacked and nothing of the model: it is none
    for the next evaluation, which may be on a machine with a sandbox.
    """

    def __init__(self, folder: Folder, keys: Mapping[str, str]) -> None:
        """`keys`: name of each task to the name of its file, without the suffix."""
        self._folder, self._keys = folder, keys

    def read_all(self) -> dict[str, TaskResult] | None:
        """The results of all tasks; None where one is missing or damaged. Reads none before all are there."""
        results = self._read_present(self._keys, at_least=len(self._keys))
        return results if len(results) == len(self._keys) else None

    def read(self, tasks: Iterable[str]) -> dict[str, TaskResult]:
        """The results of the tasks; a task without a result, or whose file is damaged, is left out and so scored
        again."""
        return self._read_present(tasks)

    def _read_present(self, tasks: Iterable[str], at_least: int = 0) -> dict[str, TaskResult]:
        file_names = {*self._folder.list()}
        present_tasks = [task for task in tasks if file_name(self._keys[task]) in file_names]
        if len(present_tasks) < at_least:
            return {}
        with ThreadPoolExecutor(_READERS if self._folder.local is None else 1) as pool:
            results = dict(zip(present_tasks, pool.map(self._read, present_tasks), strict=True))
        return {task: result for task, result in results.items() if result is not None}

    def _read(self, task: str) -> TaskResult | None:
        try:
            result = read_result(self._folder, self._keys[task])
        except (DamagedFile, FileNotFoundError):
            return None
        return None if result.is_not_run else result

    def write(self, task: str, result: TaskResult) -> None:
        write_result(self._folder, self._keys[task], result)

    def partial(self, task: str, num_workers: int) -> PartialRows:
        return PartialRows(self._folder / self._keys[task], num_workers)


def file_name(key: str) -> str:
    return f"{key}.parquet"


def write_result(folder: Folder, key: str, result: TaskResult) -> None:
    facts = asdict(_Facts(result.metrics, result.members, result.seconds))
    metadata = {**(result.items.schema.metadata or {}), _FACTS: json.dumps(facts)}
    folder.write_table(file_name(key), result.items.replace_schema_metadata(metadata))


def read_result(folder: Folder, key: str) -> TaskResult:
    """The result in the file of `key`. Raises DamagedFile for a file that is no result, FileNotFoundError where there
    is no file."""
    file = f"{folder}/{file_name(key)}"
    try:
        table = folder.read_table(file_name(key), _COLUMNS)
        facts_json = (table.schema.metadata or {}).get(_FACTS)
        fields = [ITEMS_SCHEMA.field(name) for name in table.column_names if name in ITEMS_SCHEMA.names]
        try:
            facts = from_json(_Facts, json.loads(facts_json or b"null"), file)
            table = table.select([field.name for field in fields]).cast(pa.schema(fields, table.schema.metadata))
        except ValueError as error:  # Arrow's errors among them
            raise DamagedFile(file, "holds no items and metrics of a task") from error
    except DamagedFile as error:
        raise error.with_meaning("the task is scored again by the next run that needs it") from error
    return TaskResult(table, facts.metrics, facts.members, facts.seconds)
