"""The items of a trial."""

from __future__ import annotations

import pyarrow as pa

from raycodellm import storage_files
from raycodellm.evaluation.results.composition import kept_items
from raycodellm.files import DamagedFile, Folder
from raycodellm.records import EVALUATION, TrialResult


def read_trial_items(trial: Folder, stages: Folder) -> pa.Table:
    """The items of the trial in the folder `trial`. `stages`: the storage's folder of stages.

    The trial's file holds what its tasks' results hold, so that these are read when the file is damaged. Raises
    DamagedFile when neither can be read, FileNotFoundError before the trial has ended.
    """
    return storage_files.read_items(trial, lambda: _of_tasks(storage_files.read_result(trial), stages))


def _of_tasks(result: TrialResult, stages: Folder) -> pa.Table | None:
    """The items of a trial from the results of its tasks; of a trial of an older version from its evaluation's folder.
    None when they cannot be read."""
    if not result.stages:
        return None
    last = stages / result.stages[-1]
    try:
        if result.tasks:
            return kept_items(last / EVALUATION, result.tasks)
        return storage_files.read_items(last / result.evaluation) if result.evaluation else None
    except (DamagedFile, FileNotFoundError):
        return None
