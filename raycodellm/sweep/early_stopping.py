"""Early stopping of a sweep's trials: what each brings to the comparisons, and what a stopped one has consumed."""

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
    """Tells the dispatcher what earlier drivers have compared; nothing in a sweep without early stopping."""
    import ray

    early = run.sweep.search.early_stopping
    if early is not None:
        ray.get(dispatcher.begin_early_stopping.remote(early.keep, *earlier_comparisons(run, say)))


def contender_of(run: Run, result: TrialResult, chain: Chain) -> Contender | None:
    """The trial as early stopping sees it; None in a sweep without it. Reads the rungs that its stage has reached."""
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
    made: list[Rung] = []
    stopped: dict[int, int] = {}
    for number, files in run.at_start.items():
        result = files.result
        if result is not None and (result.rungs or result.state in ("complete", "pruned")):
            made += result.rungs
            if result.state == "pruned" and result.stopped_by is None:
                stopped.setdefault(result.arm, number)
        else:
            made += storage_files.attempt(partial(storage_files.read_rungs, run.trial_folder(number)), say, ())
    return made, stopped


def consumed(chain: Chain, outcome: TrialOutcome) -> list[StageRecord]:
    """The records of the stages that a trial consumed. Of a trial that was stopped early: those before the stage of
    its last comparison, and that stage until there. Of a trial that failed: the stage that failed until where it kept
    its record last, be it for other stages of its trunk."""
    records: list[StageRecord] = []
    stopped_at = outcome.rungs[-1] if outcome.is_pruned and outcome.stopped_by is None else None
    for job in chain.stages:
        whole = outcome.outcomes.get(job.key)
        is_last = stopped_at is not None and job.key == stopped_at.stage
        if (outcome.is_pruned and is_last) or (whole is None and (outcome.is_pruned or outcome.error)):
            part = stage_store.stopped_record(job, stopped_at.step if is_last and stopped_at else None) or whole
            return [*records, *([part] if part is not None else [])]
        if whole is not None:
            records.append(whole)
    return records
