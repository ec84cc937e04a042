"""Tells the Optuna study what the trials wrote into their folders."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from raycodellm import retrying, search, storage_files
from raycodellm.files import DamagedFile
from raycodellm.records import TrialResult, as_json
from raycodellm.sweep.folder import Run, read_result
from raycodellm.sweep.ownership import keep_journal
from raycodellm.sweep.repair import repair

logger = logging.getLogger(__name__)


def tell_written_results(run: Run, say: Callable[[str], Any] = logger.warning) -> int:
    """Tells the study the results that trials wrote before their driver died. Returns the number of finished trials.

    First repairs a damaged study and damaged trials; `say` is told of each repair.
    """
    repair(run, say)
    study = search.SweepStudy(run.journal, run.file)
    for number in study.unfinished():
        tell_result(run, study, number)
    return study.num_finished()


def tell_result(run: Run, study: search.SweepStudy, number: int) -> None:
    """Tells the study the trial's result. A trial without a result was stopped: it stays open for the next run."""
    folder = run.trial_folder(number)
    if not retrying.patiently(lambda: folder.exists("result.json"), "result.json"):
        return
    try:
        result = retrying.patiently(lambda: read_result(run, number), "result.json")
    except DamagedFile as error:  # the trial stays open: the next start makes its result again
        logger.warning("%s", error)
        return
    is_complete = result.state == "complete"
    values = search.objective_values(run.sweep.search.objectives, result.metrics) if is_complete else None
    study.tell(number, values)
    keep_journal(run)


def record_death(run: Run, number: int) -> None:
    """Writes the result of a trial whose own process died for good: failed, with that cause."""
    folder = run.trial_folder(number)
    if not folder.exists("result.json"):
        started = storage_files.attempt(lambda: storage_files.read_started(folder), logger.warning)
        result = started or TrialResult(number=number, state="failed", arm=-1, seed=-1)
        cause = "the trial's own process ended without a result; see the log"
        folder.write_json("result.json", as_json(replace(result, state="failed", error=cause)))
