"""The items of a trial."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from raycodellm import storage_files
from raycodellm.evaluation.results.composition import kept_items
from raycodellm.evaluation.scores.averages import Averages
from raycodellm.evaluation.scores.items_table import Items
from raycodellm.files import DamagedFile, Folder
from raycodellm.records import EVALUATION, GIVEN_MODELS, TrialResult


def read_trial_items(trial: Folder, storage: Folder, more: Sequence[str] | None = None) -> pa.Table:
    """The items of the trial in the folder `trial`.

    The trial's file holds what its tasks' results hold, so that these are read when the file is damaged. Raises
    DamagedFile when neither can be read, FileNotFoundError before the trial has ended. `more`: the columns that are
    needed beside `storage_files.ITEM_TYPES`; all where left out.
    """
    return storage_files.read_items(trial, lambda: _items_of_tasks(storage_files.read_result(trial), storage), more)


def scored_items(trial: Folder, storage: Folder, averages: Averages) -> Items:
    """The items that `read_trial_items` reads, as scores are made of them. `averages`: from `asked_averages`."""
    table = read_trial_items(trial, storage, storage_files.SCORE_COLUMNS)
    score_columns = [name for name in storage_files.SCORE_COLUMNS if name in table.column_names]
    return Items(table.select([*storage_files.ITEM_TYPES, *score_columns]), averages)


def _items_of_tasks(result: TrialResult, storage: Folder) -> pa.Table | None:
    """The items of a trial from the results of its tasks; of a trial of an older version from its evaluation's folder.
    None when they cannot be read."""
    if not result.stages and not result.model:
        return None
    model = storage / "stages" / result.stages[-1] if result.stages else storage / GIVEN_MODELS / result.model
    try:
        if result.tasks:
            return kept_items(model / EVALUATION, result.tasks)
        return storage_files.read_items(model / result.evaluation) if result.evaluation else None
    except (DamagedFile, FileNotFoundError):
        return None
