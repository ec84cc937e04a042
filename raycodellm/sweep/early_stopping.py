"""Early stopping of a sweep's trials: a trial's part in comparisons, and the stages that a stopped trial consumed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from raycodellm import search, stage_store, storage_files
from raycodellm.dispatch import Contender, TrialOutcome
from raycodellm.records import StageRecord, TrialResult
from raycodellm.rungs import Rung
from raycodellm.slots.handle import DispatcherHandle
from raycodellm.stage_store import Chain
from raycodellm.sweep.folder import Run
from raycodellm.sweep.trial_files import BEFORE_ADDED
from raycodellm.verdict.arms import equal_params

logger = logging.getLogger(__name__)


def begin(run: Run, dispatcher: DispatcherHandle, say: Callable[[str], Any]) -> None:
    """Tells the dispatcher the comparisons of earlier drivers. Does nothing in a sweep without early stopping."""
    import ray

    early = run.sweep.search.early_stopping
    if early is not None:
        ray.get(dispatcher.begin_early_stopping.remote(early.keep, *earlier_comparisons(run, say)))


def contender_of(run: Run, result: TrialResult, chain: Chain) -> Contender | None:
    """The trial as early stopping sees it, with the rungs that its stage has reached, which are read from the storage;
    None in a sweep without early stopping."""
    early = run.sweep.search.early_stopping
    job = next((job for job in chain.stages if job.rungs), None)
    if early is None or job is None:
        return None
    reference = search.reference_point(run.file)
    is_search = result.phase == "search"
    folder = run.trial_folder(result.number)
    has_scores = folder.exists(BEFORE_ADDED)  # and is open again for added tasks alone
    return Contender(
        arm=result.arm,
        is_compared=is_search and result.seed == run.sweep.seed,
        is_stopped=is_search
        and not has_scores
        and not (reference is not None and equal_params(result.params, reference)),
        stage=job.key,
        shares=dict(zip(job.rungs, early.at, strict=True)),
        source=early.source,
        folder=folder.uri,
        reached=stage_store.reached_rungs(job),
    )


def earlier_comparisons(run: Run, say: Callable[[str], Any]) -> tuple[list[Rung], dict[int, int]]:
    """The comparisons that earlier drivers made, and the arms that these stopped, with the number of the trial that
    decided.

    A trial that has not ended, or failed without them, has its comparisons in a file of their own.
    """
    comparisons: list[Rung] = []
    stopped: dict[int, int] = {}
    for number, files in run.at_start.items():
        result = files.result
        if result is not None and (result.rungs or result.state in ("complete", "pruned")):
            comparisons += result.rungs
            if result.state == "pruned" and result.stopped_by is None:
                stopped.setdefault(result.arm, number)
        else:
            comparisons += storage_files.attempt(partial(storage_files.read_rungs, run.trial_folder(number)), say, ())
    return comparisons, stopped


def consumed(chain: Chain, outcome: TrialOutcome) -> list[StageRecord]:
    """The records of the stages that a trial consumed. If the trial was stopped early: the stages before that of its
    last comparison, and that stage up to the comparison. If the trial failed: the finished stages, and the one that
    failed up to its last kept record, be it kept for other stages of its trunk."""
    records: list[StageRecord] = []
    stopped_at = outcome.rungs[-1] if outcome.is_pruned and outcome.stopped_by is None else None
    for job in chain.stages:
        record = outcome.outcomes.get(job.key)
        is_last = stopped_at is not None and job.key == stopped_at.stage
        if (outcome.is_pruned and is_last) or (record is None and (outcome.is_pruned or outcome.error)):
            partial_record = (
                stage_store.stopped_record(job, stopped_at.step if is_last and stopped_at else None) or record
            )
            return [*records, *([partial_record] if partial_record is not None else [])]
        if record is not None:
            records.append(record)
    return records
