"""Tells the Optuna study what the trials wrote into their folders."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from raycodellm import retrying, search, storage_files
from raycodellm.files import DamagedFile
from raycodellm.records import ENDED, TrialResult, as_json
from raycodellm.sweep.failures import reopen_failed
from raycodellm.sweep.folder import Run
from raycodellm.sweep.opening import reopen_lacking
from raycodellm.sweep.repair import repair
from raycodellm.sweep.trial_files import read_result

logger = logging.getLogger(__name__)


def tell_written_results(run: Run, say: Callable[[str], Any] = logger.warning, *, retry_failed: bool = False) -> int:
    """Tells the study the results that trials wrote before their driver died. Returns the number of finished trials.

    First repairs a damaged study and damaged trials, and opens trials again that lack an added task, and with
    `retry_failed` those that failed; `say` is told of each repair.
    """
    reopened = reopen_failed(run, say) if retry_failed else set()
    is_rebuilt = repair(run, say, reopened | reopen_lacking(run, say))
    study = search.SweepStudy(run.journal, run.file)
    reference_files = run.at_start.get(search.REFERENCE_TRIAL)
    reference = reference_files.result if reference_files is not None else None
    for number in study.unfinished() if not waits_for_reference(run, reference) else ():
        files = run.at_start.get(number)
        if files is not None and files.result is not None:
            tell_result(run, study, files.result, reference)
    if run.hold is not None and is_rebuilt:
        retrying.patiently(run.hold.merge_journal, "optuna.log")
    return study.num_finished()


def tell_result(run: Run, study: search.SweepStudy, result: TrialResult, reference: TrialResult | None = None) -> None:
    """Tells the study how a trial ended: complete with its objective values, stopped early, or failed.

    `reference`: how the first trial of the reference ended, which constraints may be relative to.
    """
    settings, is_complete = run.sweep.search, result.state == "complete"
    metrics = reference.metrics if reference is not None and reference.state == "complete" else None
    breaches = search.breaches(settings.constraints, result.metrics, metrics) if is_complete else {}
    study.tell(
        result.number,
        search.objective_values(settings.objectives, result.metrics) if is_complete else None,
        breaches if len(breaches) == len(settings.constraints) else None,
        steps=search.rung_values(run.file, result.rungs),
        is_pruned=result.state == "pruned",
    )


def waits_for_reference(run: Run, reference: TrialResult | None) -> bool:
    """True while the study cannot be told how far a trial is beyond a constraint, since the first trial of the
    reference has not ended."""
    is_relative = any(constraint.within is not None for constraint in run.sweep.search.constraints)
    return is_relative and (reference is None or reference.state not in ENDED)


def written_result(run: Run, number: int) -> TrialResult | None:
    """The result in the trial's folder. None for a trial that was stopped, and for a result that cannot be read: the
    trial stays open for the next run, which makes its result again."""
    folder = run.trial_folder(number)
    try:
        return retrying.patiently(lambda: read_result(folder, run.sweep.search.objectives), "result.json")
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        logger.warning("%s", error)
        return None


def record_death(run: Run, number: int, trial: TrialResult | None = None) -> None:
    """Writes the result of a trial whose own process died for good: failed, with that cause. `trial`: the trial as its
    driver knows it."""
    retrying.patiently(lambda: _record_death(run, number, trial), "result.json")


def _record_death(run: Run, number: int, trial: TrialResult | None) -> None:
    folder = run.trial_folder(number)
    if not folder.exists("result.json"):
        started = storage_files.attempt(lambda: storage_files.read_started(folder), logger.warning)
        result = started or trial or TrialResult(number=number, state="failed", arm=-1, seed=-1)
        cause = "the trial's own process ended without a result; see the log"
        folder.write_json("result.json", as_json(replace(result, state="failed", error=cause)))
