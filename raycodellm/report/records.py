"""Reads what a run has written: its trials, its stages and their items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from raycodellm import storage_files
from raycodellm.config import Sweep, SweepFile
from raycodellm.files import Folder
from raycodellm.finished import read_finished_stage
from raycodellm.records import StageRecord
from raycodellm.report.ranking import ArmScore, ranking
from raycodellm.tables import Sharing, sharing
from raycodellm.tables.trials import Row, stages_of

if TYPE_CHECKING:
    import pyarrow as pa

Name = TypeVar("Name", int, str)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Records:
    """Everything that a run has written so far."""

    run: Folder
    storage: Folder
    file: SweepFile
    rows: list[Row]
    """Rows of `trials.parquet`; empty while the file does not exist."""
    items: dict[int, pa.Table]
    """Maps the numbers of complete trials to their evaluated items."""
    stages: dict[str, StageRecord]
    """Maps the keys of finished stages to their records."""
    timing: dict[str, float]
    """Seconds by part of the run."""
    lost: dict[str, None] = field(default_factory=dict)
    """One line for each file that could not be read, in order."""

    @cached_property
    def sweep(self) -> Sweep:
        return self.file.example()

    @cached_property
    def scores(self) -> list[ArmScore]:
        """The ranking of the arms."""
        return ranking(self.rows, self.sweep.search.objectives, self.items)

    @property
    def best(self) -> ArmScore | None:
        """The arm that is first in rank; None while no arm has a score."""
        return next((one for one in self.scores if one.score is not None), None)

    @cached_property
    def sharing(self) -> Sharing:
        """Tokens and device-seconds of the finished stages."""
        tokens = {key: record.num_tokens for key, record in self.stages.items()}
        seconds = {key: record.device_seconds for key, record in self.stages.items()}
        return sharing(map(stages_of, self.rows), tokens, seconds)

    @cached_property
    def states(self) -> Counter[str]:
        """Number of trials in each state."""
        return Counter(row["state"] for row in self.rows)

    def stage_keys(self, trial: int) -> list[str]:
        """Keys of the trial's finished stages, in order."""
        return [key for row in self.rows if row["number"] == trial for key in stages_of(row) if key in self.stages]

    def curves(self, key: str) -> dict[str, list[Any]]:
        """Columns of the stage's `metrics.parquet`; empty when the file is missing."""
        return storage_files.attempt(partial(storage_files.read_curves, self._stage(key)), self.say) or {}

    @cached_property
    def skipped(self) -> dict[str, dict[str, int]]:
        """Maps each source to the number of documents left out, by reason."""
        counts = {name: manifest["skipped"] for name, manifest in self.stores.items()}
        return {name: {reason: n for reason, n in found.items() if n} for name, found in counts.items()}

    @cached_property
    def stores(self) -> dict[str, dict[str, Any]]:
        """Maps each source of the finished stages to the manifest of its token store."""
        names: dict[str, str] = {}
        for key in self.stages:
            names |= storage_files.attempt(partial(storage_files.read_sources, self._stage(key)), self.say) or {}
        found = {}
        for source, store in names.items():
            folder = self.storage / "tokens" / store
            manifest = storage_files.attempt(partial(storage_files.read_manifest, folder), self.say)
            if manifest is not None:
                found[source] = manifest
        return found

    def say(self, line: str) -> None:
        """Keeps the line about a file that could not be read."""
        self.lost.setdefault(line)

    def _stage(self, key: str) -> Folder:
        return self.storage / "stages" / key


def read_records(run: Folder, storage: Folder) -> Records:
    """Reads the records of a run; leaves out missing and damaged files, and keeps a line about each damaged one.

    Raises `UserError` when `run` is not a run's folder.
    """
    lost: dict[str, None] = {}
    file = storage_files.read_sweep_file(run, lost.setdefault)
    rows = storage_files.attempt(partial(storage_files.read_trials_table, run), lost.setdefault) or []
    complete = {row["number"]: row for row in rows if row["state"] == "complete"}
    keys = dict.fromkeys(key for row in rows for key in stages_of(row))

    def items_of(number: int) -> pa.Table | None:
        row, own = complete[number], run / "trials" / f"{number:04d}"
        copied_from = None
        if row.get("evaluation") and stages_of(row):
            copied_from = storage / "stages" / stages_of(row)[-1] / row["evaluation"]
        return storage_files.attempt(lambda: storage_files.read_items(own, copied_from), lost.setdefault)

    def stage_of(key: str) -> StageRecord | None:
        folder = storage / "stages" / key
        return storage_files.attempt(lambda: read_finished_stage(folder), lost.setdefault)

    return Records(
        run=run,
        storage=storage,
        file=file,
        rows=list(rows),
        items=_in_parallel(items_of, complete),
        stages=_in_parallel(stage_of, keys),
        timing=storage_files.attempt(partial(storage_files.read_timing, run), lost.setdefault) or {},
        lost=lost,
    )


def _in_parallel(read: Callable[[Name], Value | None], names: Iterable[Name]) -> dict[Name, Value]:
    """Maps each name to what `read` returns, without None. On an object store each read waits for the network."""
    names = list(names)
    with ThreadPoolExecutor(16) as pool:
        return {name: found for name, found in zip(names, pool.map(read, names), strict=True) if found is not None}
