"""Compares what is told of a sweep's trials by their files, the study, `trials.parquet`, `status` and the report."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from raycodellm import report, search, storage_files, sweep
from raycodellm.files import Folder
from raycodellm.records import ENDED, TrialResult
from raycodellm.report import tables
from raycodellm.runs import RunStatus
from raycodellm.sweep.spending import COUNTING
from raycodellm.sweep.told_results import waits_for_reference
from raycodellm.tables.plain_json import finite_json
from raycodellm.tables.stopped import tokens_not_trained
from raycodellm.tables.trials import trial_name

STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING", "waiting": "RUNNING"}
"""Optuna's state of a trial that has a folder."""


def disagreements(folder: Folder, storage: Folder) -> list[str]:
    """A line for each fact that two of files, study, table, status and report tell differently; empty where all agree.
    The report is written anew.

    For a sweep that no driver runs, and whose last one was not killed.
    """
    run = sweep.Run(storage_files.read_sweep_file(folder), storage)
    results = sweep.read_results(run)
    lines = [*_study_disagreements(run, results), *_table_disagreements(run, results)]
    if results:
        lines += [*_status_disagreements(run, results), *_report_disagreements(run, results)]
    return lines


def unlike_the_account(account: sweep.Account, folder: Folder, storage: Folder) -> list[str]:
    """A line for each number of tokens that the driver's account and the report tell differently."""
    for thread in threading.enumerate():
        if thread.name == COUNTING:
            thread.join()
    records = report.read_records(folder, storage)
    pairs = {
        "saved": (account.tokens_saved, records.sharing.tokens_saved),
        "stopped": (account.tokens_stopped, sum(map(tokens_not_trained, records.rows))),
    }
    if records.sweep.budget.tokens is not None and records.states.keys() <= {"complete", "pruned"}:
        pairs["spent"] = (account.spent.tokens, records.sharing.tokens_trained)
    return [
        f"{name}: {by_account} by the account, {by_report} by the report"
        for name, (by_account, by_report) in pairs.items()
        if by_account != by_report
    ]


def _study_disagreements(run: sweep.Run, results: list[TrialResult]) -> Iterator[str]:
    study_trials = {trial.number: trial for trial in search.read_journal(run.journal, run.file, {}).trials}
    results_by_number = {result.number: result for result in results}
    for number in sorted(study_trials.keys() | results_by_number.keys()):
        trial, result = study_trials.get(number), results_by_number.get(number)
        if trial is None:
            yield f"the study lacks trial {number}"
        elif result is None:
            if trial.state.name not in ("WAITING", "RUNNING"):
                yield f"trial {number} has no folder, and is {trial.state.name} in the study"
        else:
            yield from (f"trial {number}: {line}" for line in _trial_disagreements(run, trial, result))


def _trial_disagreements(run: sweep.Run, trial: Any, result: TrialResult) -> Iterator[str]:
    objectives, is_complete = run.sweep.search.objectives, result.state == "complete"
    is_untold = waits_for_reference(run, sweep.read_results(run)[0]) and trial.state.name == "RUNNING"
    if is_untold and (trial.user_attrs["arm"], trial.values) == (result.arm, None):
        return  # the study cannot be told yet how far it is beyond a constraint
    values = search.objective_values(objectives, result.metrics) if is_complete else None
    if result.state == "pruned" and result.rungs:
        values = [result.rungs[-1].value]  # Optuna keeps the last step's as the trial's
    pairs: dict[str, tuple[Any, Any]] = {
        "state": (trial.state.name, STATES[result.state]),
        "values": (trial.values, values if values is None else list(values)),
        "arm": (trial.user_attrs.get("arm"), result.arm),
        "seed": (trial.user_attrs.get("replicate"), result.seed - run.sweep.seed),
    }
    if result.state in ENDED:
        pairs["steps"] = (trial.intermediate_values, {rung.step: rung.value for rung in result.rungs})
    for name, (of_study, of_files) in pairs.items():
        if of_study != of_files:
            yield f"{name} is {of_study} in the study, {of_files} in its files"
    if not search.agrees(trial, result, run.file, run.sweep.seed):
        yield "the study has other parameters than its files"


def _table_disagreements(run: sweep.Run, results: list[TrialResult]) -> Iterator[str]:
    path = f"{run.folder.uri}/trials.parquet"
    rows = pq.read_table(path).to_pylist() if run.folder.exists("trials.parquet") else []
    numbers = [row["number"] for row in rows], [result.number for result in results]
    if numbers[0] != numbers[1]:
        yield f"trials.parquet has the trials {numbers[0]}, and these have folders: {numbers[1]}"
    for row, result in zip(rows, results, strict=False):
        expected = result.row()
        names = row.keys() | expected.keys() if result.state in ENDED else ("number", "state", "arm", "seed", "phase")
        for name in sorted(names):
            if result.state not in ENDED and name == "state" and row["state"] not in ENDED:
                continue  # running or waiting
            if not _is_same(row.get(name), expected.get(name)):
                values = f"{row.get(name)} in trials.parquet, {expected.get(name)} in files"
                yield f"trial {result.number}: {name} is {values}"


def _is_same(one: Any, other: Any) -> bool:
    lists = [list(value) if isinstance(value, list | tuple) else value for value in (one, other)]
    return lists[0] == lists[1] or (one != one and other != other) or str(one) == str(other)


def _status_disagreements(run: sweep.Run, results: list[TrialResult]) -> Iterator[str]:
    status = RunStatus.of(run, results)
    document = status.as_json()
    states = Counter(result.state for result in results)
    num_ended = sum(states[state] for state in ENDED)
    if document["states"] != states or document["num_ended"] != num_ended:
        counts = f"{document['states']}, {document['num_ended']} of them ended"
        yield f"status counts {counts}; the files have {dict(states)}"
    if not status.lines()[0].startswith(f"{run.sweep.name}: {num_ended} of {status.num_trials} trials ended"):
        yield f"status begins with {status.lines()[0]!r}"
    for row, result in zip(document["trials"], results, strict=True):
        for name in ("number", "state", "arm", "seed", "phase", "params", "metrics", "error", "stopped_by"):
            if row[name] != finite_json(getattr(result, name)):
                yield f"trial {result.number}: {name} is {row[name]} in status, {getattr(result, name)} in its files"


def _report_disagreements(run: sweep.Run, results: list[TrialResult]) -> Iterator[str]:
    records = report.read_records(run.folder, run.storage)
    folder = report.write_pages(records)
    status = RunStatus.of(run, results)
    text = folder.read_bytes("report.md").decode()
    num_ended = sum(result.state in ENDED for result in results)
    counts = {"trials": (records.num_trials, status.num_trials), "ended": (records.num_ended, num_ended)}
    counts["verdict.json"] = (folder.read_json("verdict.json")["num_ended"], num_ended)
    counts["unbegun"] = (records.num_unbegun, status.num_unbegun)
    yield from (
        f"{name}: {by_report} in the report, {by_status} in status"
        for name, (by_report, by_status) in counts.items()
        if by_report != by_status
    )
    yield from (f"the report lost {line}" for line in records.lost)
    table_rows = {row[0]: str(row) for row in tables.trials(records).rows}
    for result in results:
        line = table_rows.get(trial_name(result.number), "")
        if result.state in ENDED and result.state not in line:
            yield f"trial {result.number} is {result.state}, and the report's table says {line!r}"
        if result.state == "failed" and not re.search(rf"\| *{trial_name(result.number)} *\|", text):
            yield f"report.md does not name the failed trial {result.number}"
    if status.verdict is not None:
        written = folder.read_json("verdict.json")
        for name in ("phase", "look", "pending", "reference", "num_ended"):
            if written[name] != status.verdict[name]:
                yield f"verdict: {name} is {written[name]!r} in the report, {status.verdict[name]!r} in status"
    best = status.best.arm if status.best is not None else None
    if best != (records.best.arm if records.best is not None else None):
        yield f"the best arm is {records.best.arm if records.best else None} in the report, {best} in status"
