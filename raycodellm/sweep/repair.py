"""Repairs the folder of a sweep before the sweep continues.

A trial whose result is lost is opened again under its number: its stages are finished, so its result is made again in
moments. A study that lost entries gets them back from the files that the trials wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from raycodellm import search
from raycodellm.files import DamagedFile
from raycodellm.records import TrialResult
from raycodellm.sweep.folder import Run
from raycodellm.sweep.trial_files import UNENDED, keep_aside


def repair(run: Run, say: Callable[[str], Any], reopened: Container[int] = ()) -> bool:
    """Makes the study and the trials' folders agree. Says a line for each result that was lost and is made again.

    `reopened`: numbers of trials whose results were removed on purpose; no line is said of them. Returns whether
    the study's journal was written anew.
    """
    results: dict[int, TrialResult] = {}
    lost_results: dict[int, str] = {}
    """Maps a trial's number to the fault of its result."""
    for number, files in run.at_start.items():
        for file_fault in files.faults:
            if not isinstance(file_fault, DamagedFile):  # the storage refuses it, so nothing is known of the trial
                raise file_fault
        if record := files.result or files.started:
            results[number] = record
        if isinstance(files.result_fault, DamagedFile):
            lost_results[number] = f"{files.result_fault.file}: {files.result_fault.fault}"
            keep_aside(run.trial_folder(number), "result.json.damaged")
        elif isinstance(files.started_fault, DamagedFile):
            say(str(files.started_fault))
    journal = search.read_journal(run.journal, run.file, results)
    ended_numbers = {number for number, result in results.items() if result.state not in UNENDED}
    for trial in journal.trials:
        if trial.state.is_finished() and trial.number not in ended_numbers:
            lost_results.setdefault(trial.number, f"{run.trial_folder(trial.number)}/result.json: is missing")
    for number, fault in lost_results.items():
        if number in reopened:
            continue
        say(f"{fault}; trial {number:04d} is run again under its number, from its finished stages")
    return _repair_journal(run, journal, results, set(lost_results), say)


def _repair_journal(
    run: Run,
    journal: search.Journal,
    results: dict[int, TrialResult],
    lost_numbers: set[int],
    say: Callable[[str], Any],
) -> bool:
    """Writes the journal anew when it is damaged, or when it does not agree with the trials' own files. Returns whether
    it was written."""
    trials = dict(enumerate(journal.trials))
    disagreeing = [
        number
        for number, result in results.items()
        if not search.agrees(trials.get(number), result, run.file, run.sweep.seed)
        and (number not in trials or search.distributions(run.file, result.params) is not None)
    ]
    finished = {number for number, trial in trials.items() if trial.state.is_finished()}
    if not journal.bad_lines and not disagreeing and not lost_numbers & finished and not lost_numbers - set(trials):
        return False
    if journal.bad_lines:
        line_numbers = ", ".join(map(str, journal.bad_lines[:5])) + (", …" if journal.bad_lines[5:] else "")
        say(
            f"{run.journal}: cannot be read in line {line_numbers}; the other lines are kept, the rest is made again "
            f"from the trials' folders (the old file is {run.journal.name}.damaged)"
        )
    elif disagreeing:
        say(f"{run.journal}: lacks {len(disagreeing)} of the trials; made again from the trials' folders")
    search.rebuild_journal(run.journal, run.file, journal.trials, results, lost_numbers)
    return True
