"""The run folder: the sweep's own file, its trials' results, and the table of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from raycodellm import config, identity, search, storage_files
from raycodellm.config import Sweep, SweepFile, UserError
from raycodellm.files import DamagedFile, Folder, cache_folder, fingerprint
from raycodellm.records import TrialResult

logger = logging.getLogger(__name__)

Say = Callable[[str], Any]
"""Is called with a line for each damaged file."""
ENDED = ("complete", "failed")
UNENDED = ("running", "waiting")
"""States of a trial without a result. Any other state is an end, also one that only a newer version knows."""


@dataclass(frozen=True)
class Run:
    """A sweep, and the folder in its storage that holds its state."""

    file: SweepFile
    storage: Folder
    token: str = ""
    """Token of the driver that owns the run folder (`ownership`); empty for a reader."""

    @cached_property
    def sweep(self) -> Sweep:
        return self.file.example()

    @property
    def folder(self) -> Folder:
        return self.storage / self.sweep.name

    @property
    def journal(self) -> Path:
        """The study's journal: a file of the run folder; on an object store, a local file that is copied there."""
        if self.folder.local is not None:
            return self.folder.local / "optuna.log"
        return cache_folder() / fingerprint(self.folder.uri) / "optuna.log"

    @cached_property
    def num_ended_at_start(self) -> int:
        """Trials with a result when this was first asked, before the driver runs any. One look at each trial."""
        return sum(self.trial_folder(number).exists("result.json") for number in trial_numbers(self))

    def trial_folder(self, number: int) -> Folder:
        return self.folder / "trials" / f"{number:04d}"


def open_run(file: SweepFile, storage: Folder, say: Say = logger.warning) -> Run:
    """Opens the run folder; creates it when new. Raises `UserError` by key when it holds a sweep that computes
    something else."""
    run = Run(file, storage)
    tree = config.resolved_tree(file)
    storage.prove_writable("--storage")
    if run.folder.exists("sweep.yaml"):
        # Parsed as a sweep file, so that a setting that this version added has its default, which is no difference.
        saved = storage_files.read_sweep_file(run.folder)
        changed = changed_keys(config.resolved_tree(saved), tree)
        if changed:
            key, old, new = changed[0]
            more = f" (and {len(changed) - 1} more: {', '.join(k for k, _, _ in changed[1:])})" if changed[1:] else ""
            raise UserError(
                f"{key}: this run began with {old!r}, found {new!r}{more}; put the old value back, "
                f"or give the sweep a new name or another --storage ({run.folder.uri})"
            )
    elif trial_numbers(run):
        say(f"{run.folder}/sweep.yaml: is missing and written again; nothing says that its trials are of this sweep")
    if not run.folder.exists("sweep.yaml"):
        write_sweep_file(run)
    return run


def write_sweep_file(run: Run) -> None:
    """Writes `sweep.yaml` as resolved, over an earlier driver's, whose `scaling` may differ."""
    run.folder.write_bytes("sweep.yaml", config.write_yaml(config.resolved_tree(run.file)).encode())


def changed_keys(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every leaf that differs. `scaling` says where a sweep runs, so it may differ."""
    if path == "scaling":
        return []
    if path.endswith(".deepspeed_config"):  # DeepSpeed's settings that change no number may differ too
        old, new = (identity.numeric_settings(found or {}) for found in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        return [
            found for key in keys for found in changed_keys(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = zip(old, new, strict=True)
        return [
            found
            for place, (a, b) in enumerate(parts)
            for found in changed_keys(a, b, f"{path}.{b['name'] if isinstance(b, dict) and 'name' in b else place}")
        ]
    return [] if old == new else [(path, old, new)]


def read_results(run: Run, ended: dict[int, TrialResult] | None = None, say: Say = logger.warning) -> list[TrialResult]:
    """Reads the trials from their folders, in the order of their numbers.

    `ended`: results that need not be read again; trials that have ended are added. A trial whose result cannot be read
    is waiting, since the next run makes it again; `say` is told.
    """
    ended = {} if ended is None else ended
    results = []
    for number in trial_numbers(run):
        if number not in ended:
            result = _read_trial(run, number, say)
            if result is not None and result.state in ENDED:
                ended[number] = result
        else:
            result = ended[number]
        if result is not None:
            results.append(result)
    return results


def _read_trial(run: Run, number: int, say: Say) -> TrialResult | None:
    """The trial's result. If it has none, or its result is damaged, the record that it wrote when it began."""
    folder = run.trial_folder(number)
    lost: list[str] = []
    if folder.exists("result.json"):
        result = storage_files.attempt(lambda: read_result(run, number), lost.append)
        if result is not None:
            return result
    started = None
    if folder.exists("trial.json"):
        started = storage_files.attempt(lambda: storage_files.read_started(folder), lost.append)
    for line in lost:
        say(line)
    if not lost:
        return started
    return replace(started or TrialResult(number=number, state="waiting", arm=-1, seed=-1), state="waiting")


def read_result(run: Run, number: int) -> TrialResult:
    """The result of a trial that has ended. Raises `DamagedFile` when it cannot be read or lacks its score."""
    folder = run.trial_folder(number)
    result = storage_files.read_result(folder)
    if result.state == "complete":
        try:
            search.objective_values(run.sweep.search.objectives, result.metrics)
        except ValueError as error:
            raise DamagedFile(f"{folder}/result.json", str(error)) from error
    return result


def trial_numbers(run: Run) -> list[int]:
    """Numbers of the trials that have a folder, in order."""
    return sorted(int(name) for name in (run.folder / "trials").list() if name.isascii() and name.isdecimal())


def write_table(run: Run, say: Say = logger.warning) -> list[TrialResult]:
    """Writes `trials.parquet` from the trials' folders, one row per trial. Returns the trials."""
    import pandas as pd
    import pyarrow as pa

    results = read_results(run, say=say)
    if results:
        frame = pd.DataFrame([result.row() for result in results])
        columns = {name: _column(frame[name]) for name in frame.columns}
        run.folder.write_table("trials.parquet", pa.table(columns))
    return results


def _column(values: Any) -> Any:
    """A column of the table. A parameter whose options are of several types is written as text."""
    import pyarrow as pa

    try:
        return pa.Array.from_pandas(values)
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def clear_scratch(run: Run) -> None:
    """Removes the files of Ray's own that a killed driver left in the run folder."""
    for name in ("tune", "slots"):
        if run.folder.local is not None:
            shutil.rmtree(run.folder.local / name, ignore_errors=True)
        else:
            (run.folder / name).delete()
