"""A slot's side of early stopping: it tells of a rung, and lets a stage go that no trial needs."""

from __future__ import annotations

import contextlib
import logging

import ray

from raycodellm.files import Folder
from raycodellm.records import StageJob, StageRecord
from raycodellm.slots.client import DispatcherClient
from raycodellm.stage.folder import CHECKPOINTS

logger = logging.getLogger(__name__)


def tell_rung(client: DispatcherClient, job: StageJob, step: int, record: StageRecord) -> bool:
    """Tells the dispatcher of a rung; True if no trial needs the stage any more. False where nobody answers: the
    stage goes on, and is told to stop as usual."""
    try:
        return bool(client.ask("rung", job.key, step, dict(record.held_out_bpb)))
    except ray.exceptions.RayError:
        logger.exception("the rung of %s after %d steps was not decided", job.key, step)
        return False


def let_go(client: DispatcherClient, job: StageJob) -> None:
    """Deletes the checkpoints of a stage that stopped because no trial needs it. They are large, and only a trial that
    wants the whole stage, against the comparison, would use them."""
    if job.rungs and client.ask("is_given_up", job.key):
        with contextlib.suppress(OSError):  # they only take room
            Folder(job.folder).delete(CHECKPOINTS)
