"""Says whether a stage is finished, and what its outcome was. Nothing else decides this.

A stage is finished when its folder holds `DONE`, which is written last, and its record can be read. An evaluation is
finished when each of its tasks has a result (`evaluation.kept_evaluation`).
"""

from __future__ import annotations

from raycodellm.files import DamagedFile, Folder
from raycodellm.records import EvaluationJob, StageJob, StageRecord
from raycodellm.storage_files import COMPLETE, read_done, read_stage

OPTIMIZER = "optimizer"
"""Folder beside the model of a stage whose optimizer state a later stage starts from."""
_OPTIMIZER_COMPLETE = f"{OPTIMIZER}/{COMPLETE}"
"""Written last, as in every checkpoint."""

Job = StageJob | EvaluationJob
Outcome = StageRecord | dict[str, float]
"""A stage's record, or an evaluation's metrics."""


def read_finished_stage(folder: Folder) -> StageRecord | None:
    """The record of a finished stage; None when it is not finished. Raises `DamagedFile` when no copy can be read."""
    try:
        return read_done(folder)
    except FileNotFoundError:
        return None
    except DamagedFile:  # a stage of an older version has nothing in the file
        return read_stage(folder)


def finished_stage(folder: Folder) -> StageRecord | None:
    """The record of a finished stage. None when it is not finished or no copy of its record can be read: then it is
    trained again."""
    try:
        return read_finished_stage(folder)
    except (DamagedFile, FileNotFoundError):
        return None


def lacks_optimizer(folder: Folder) -> bool:
    """True if a finished stage has no complete optimizer state: then it is trained once more when a later stage needs
    that state."""
    return not folder.exists(_OPTIMIZER_COMPLETE)


def finished_training(job: StageJob) -> StageRecord | None:
    """The record of a finished stage; None while there is something to do for it, be it only an optimizer state."""
    folder = Folder(job.folder)
    record = finished_stage(folder)
    return None if record is not None and job.keep_optimizer and lacks_optimizer(folder) else record
