"""Repairs the folder of a sweep before the sweep continues.

A trial whose result is lost is opened again under its number: its stages are finished, so its result is made again in
moments. A study that lost entries gets them back from the files that the trials wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raycodellm import search, storage_files
from raycodellm.files import DamagedFile
from raycodellm.records import TrialResult
from raycodellm.sweep.folder import UNENDED, Run, read_result, trial_numbers


def repair(run: Run, say: Callable[[str], Any]) -> None:
    """Makes the study and the trials' folders agree. Says in a line each what was lost and is made again."""
    told: dict[int, TrialResult] = {}
    lost: dict[int, str] = {}
    """Trial number to what is wrong with its result."""
    numbers = trial_numbers(run)
    with ThreadPoolExecutor(16) as pool:  # on an object store each read waits for the network
        read = list(pool.map(lambda number: _read(run, number), numbers))
    for number, result in zip(numbers, read, strict=True):
        if isinstance(result, TrialResult):
            told[number] = result
        elif result is not None and result.file.endswith("/trial.json"):
            say(str(result))
        elif result is not None:
            lost[number] = f"{result.file}: {result.fault}"
            folder = run.trial_folder(number)
            folder.write_bytes("result.json.damaged", folder.read_bytes("result.json"))
            folder.delete("result.json")
            started = _read(run, number)  # knows the arm, also when the journal has lost the trial's line
            if isinstance(started, TrialResult):
                told[number] = started
    journal = search.read_journal(run.journal, run.file, told)
    ended = {number for number, result in told.items() if result.state not in UNENDED}
    for trial in journal.trials:
        if trial.state.is_finished() and trial.number not in ended:
            lost.setdefault(trial.number, f"{run.trial_folder(trial.number)}/result.json: is missing")
    for number, fault in lost.items():
        say(f"{fault}; trial {number:04d} is run again under its number, from its finished stages")
    _repair_journal(run, journal, told, set(lost), say)


def _read(run: Run, number: int) -> TrialResult | DamagedFile | None:
    """The trial's result, or its record from when it began if it has no result; or the error of the damaged file."""
    folder = run.trial_folder(number)
    try:
        if folder.exists("result.json"):
            return read_result(run, number)
        return storage_files.read_started(folder) if folder.exists("trial.json") else None
    except DamagedFile as error:
        return error


def _repair_journal(
    run: Run, journal: search.Journal, told: dict[int, TrialResult], lost: set[int], say: Callable[[str], Any]
) -> None:
    """Writes the journal anew when it is damaged, or when it does not agree with the trials' own files."""
    trials = dict(enumerate(journal.trials))
    strangers = [
        number
        for number, result in told.items()
        if not search.agrees(trials.get(number), result, run.file, run.sweep.seed)
        and (number not in trials or search.distributions(run.file, result.params) is not None)
    ]
    finished = {number for number, trial in trials.items() if trial.state.is_finished()}
    if not journal.bad_lines and not strangers and not lost & finished and not lost - set(trials):
        return
    if journal.bad_lines:
        places = ", ".join(map(str, journal.bad_lines[:5])) + (", …" if journal.bad_lines[5:] else "")
        say(
            f"{run.journal}: cannot be read in line {places}; the other lines are kept, the rest is made again from "
            f"the trials' folders (the old file is {run.journal.name}.damaged)"
        )
    elif strangers:
        say(f"{run.journal}: lacks {len(strangers)} of the trials; made again from the trials' folders")
    search.rebuild_journal(run.journal, run.file, journal.trials, told, lost)
