"""The jobs of a chain that are finished."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

from raycodellm.files import Folder
from raycodellm.finished import Job, Outcome, finished_training
from raycodellm.identity import model_files
from raycodellm.stage_store.chains import Chain
from raycodellm.storage_files import DONE

if TYPE_CHECKING:
    from raycodellm.evaluation import EvaluationResult

logger = logging.getLogger(__name__)


def finished_outcome(job: Job) -> Outcome | None:
    """The outcome of a finished job; None while there is something to do for it."""
    from raycodellm import evaluation

    if job.kind == "stage":
        return finished_training(job)
    result = evaluation.kept_evaluation(job)
    return None if result is None else evaluation_outcome(result)


def evaluation_outcome(result: EvaluationResult) -> dict[str, float]:
    """The metrics of an evaluation, with its `seconds` among them."""
    return {**result.metrics, "seconds": result.seconds}


def finished_outcomes(chain: Chain) -> dict[str, Outcome]:
    """The outcomes of the chain's finished jobs, by their keys.

    A stage whose model is damaged, and is still to be read by the next job, becomes unfinished (its `DONE` is deleted):
    it is trained again.
    """
    outcomes_by_key = ((job.key, finished_outcome(job)) for job in chain.jobs)
    outcomes = {key: outcome for key, outcome in outcomes_by_key if outcome is not None}
    for stage, reader in reversed(list(itertools.pairwise(chain.jobs))):
        if stage.key in outcomes and reader.key not in outcomes and (damage := _model_damage(Folder(stage.folder))):
            logger.warning("%s; the stage is trained again", damage)
            Folder(stage.folder).delete(DONE)
            del outcomes[stage.key]
    return outcomes


def _model_damage(stage: Folder) -> str | None:
    """The fault of a file of a stage's model that has changed since it was written. None when no file has, or when the
    model lies on object storage: the worker that fetches it checks it there."""
    return model_files.find_damage(stage.local / "model") if stage.local is not None else None
