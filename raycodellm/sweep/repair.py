"""Before a sweep goes on: what is damaged in its folder is made right, from the rest of what lies there.

A trial whose result is lost is opened again under its number: its stages are done, so its result is made again in
moments. A study that lost entries gets them back from what the trials wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raycodellm import search, storage_files
from raycodellm.files import DamagedFile
from raycodellm.records import TrialResult
from raycodellm.search import journal_repair
from raycodellm.sweep.folder import UNENDED, Run, read_result, trial_numbers


def mend(run: Run, say: Callable[[str], Any]) -> None:
    """Makes the study and the trials' folders agree, and says in a line each what was lost and is made again."""
    told: dict[int, TrialResult] = {}
    lost: dict[int, str] = {}
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
            begun = _read(run, number)  # knows the arm, also where the journal has lost the trial's line
            if isinstance(begun, TrialResult):
                told[number] = begun
    found = journal_repair.read(run.journal, run.file, told)
    ended = {number for number, result in told.items() if result.state not in UNENDED}
    for trial in found.trials:
        if trial.state.name in search.FINISHED and trial.number not in ended:
            lost.setdefault(trial.number, f"{run.trial_folder(trial.number)}/result.json: is missing")
    for number, fault in lost.items():
        say(f"{fault}; trial {number:04d} is run again under its number, from its finished stages")
    _mend_journal(run, found, told, set(lost), say)


def _read(run: Run, number: int) -> TrialResult | DamagedFile | None:
    """The trial's result, else its record from when it began; or which of the two is damaged."""
    folder = run.trial_folder(number)
    try:
        if folder.exists("result.json"):
            return read_result(run, number)
        return storage_files.read_started(folder) if folder.exists("trial.json") else None
    except DamagedFile as error:
        return error


def _mend_journal(
    run: Run, found: journal_repair.Journal, told: dict[int, TrialResult], lost: set[int], say: Callable[[str], Any]
) -> None:
    """Writes the journal anew where it is damaged, or where it does not tell of the trials what they wrote."""
    trials = dict(enumerate(found.trials))
    strangers = [
        number
        for number, result in told.items()
        if not journal_repair.agrees(trials.get(number), result, run.file, run.sweep.seed)
        and (number not in trials or search.distributions(run.file, result.params) is not None)
    ]
    finished = {number for number, trial in trials.items() if trial.state.name in search.FINISHED}
    if not found.bad_lines and not strangers and not lost & finished and not lost - set(trials):
        return
    if found.bad_lines:
        places = ", ".join(map(str, found.bad_lines[:5])) + (", …" if found.bad_lines[5:] else "")
        say(
            f"{run.journal}: cannot be read in line {places}; the other lines are kept, the rest is made again from "
            f"the trials' folders (the old file is {run.journal.name}.damaged)"
        )
    elif strangers:
        say(f"{run.journal}: lacks {len(strangers)} of the trials; made again from the trials' folders")
    journal_repair.rebuild(run.journal, run.file, found.trials, told, lost)
