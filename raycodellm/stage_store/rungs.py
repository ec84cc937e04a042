"""A stage's rungs as the stage store has them, also where another trial or another sweep trained the stage."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial

from raycodellm import storage_files
from raycodellm.files import Folder
from raycodellm.records import StageJob, StageRecord

logger = logging.getLogger(__name__)


def reached_rungs(job: StageJob) -> dict[int, Mapping[str, float]]:
    """Maps the steps of the rungs that the stage has reached to the bits per byte of each source's held-out text.

    A stage that was trained without these rungs has those at which it was measured all the same.
    """
    so_far = _so_far(job)
    bpb_by_step: dict[int, Mapping[str, float]] = {
        step: so_far[step].held_out_bpb for step in job.rungs if step in so_far and so_far[step].held_out_bpb
    }
    folder = Folder(job.folder)
    if len(bpb_by_step) < len(job.rungs) and folder.exists(storage_files.DONE):
        curves = storage_files.attempt(partial(storage_files.read_curves, folder), logger.warning) or {}
        columns = {name.removeprefix("bpb/"): values for name, values in curves.items() if name.startswith("bpb/")}
        for index, step in enumerate(curves.get("step", ())):
            row = {name: values[index] for name, values in columns.items() if math.isfinite(values[index])}
            if step in job.rungs and row:
                bpb_by_step.setdefault(step, row)
    return bpb_by_step


def stopped_record(job: StageJob, step: int | None) -> StageRecord | None:
    """The record of a stage after `step` steps; for None, where it was stopped last. None where none was kept."""
    so_far = _so_far(job)
    return so_far.get(max(so_far, default=0) if step is None else step)


def _so_far(job: StageJob) -> dict[int, StageRecord]:
    return storage_files.attempt(lambda: storage_files.read_so_far(Folder(job.folder)), logger.warning, {})
