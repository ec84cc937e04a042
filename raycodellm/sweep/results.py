"""The trials of a sweep as rows: the driver's own account of them while it runs, and `trials.parquet`.

A driver reads the trials' folders once, when it begins. From then on its trials tell it how they ended, so that neither
a look at the sweep nor the table asks the storage for anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from raycodellm import run_times, search, storage_files
from raycodellm.files import Folder
from raycodellm.known_trials import KnownTrials, TrialsSoFar
from raycodellm.records import ENDED, TrialResult
from raycodellm.sweep.folder import Run, Say
from raycodellm.sweep.growing_table import GrowingTable
from raycodellm.sweep.trial_files import read_trials, sharing_names

logger = logging.getLogger(__name__)

TABLE = "trials.parquet"
TABLE_SECONDS = 5.0
"""Between two writings of the table."""
TABLE_SHARE = 0.1
"""Share of the trials that begin or end between two writings, so that each trial is written about ten times."""
TABLE_LATEST_SECONDS = 300.0
"""The table is never older than that."""


class Results:
    """The trials as the driver knows them. Two threads use it: Ray Tune's, and the one that shows the sweep."""

    def __init__(self, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins with what the trials' folders hold."""
        self._run, self._clock = run, clock
        self._lock = threading.Lock()
        self._trials = TrialsSoFar([sharing_names(result) for result in run.results_at_start])
        self._table = GrowingTable()
        self._num_changes = 0
        """How often a trial began or ended since the table was last written."""
        self._written_at = clock()
        self.num_ended = 0
        """Trials that have ended in this run."""

    def all(self) -> KnownTrials:
        """The trials in the order of their numbers."""
        with self._lock:
            return self._trials.now()

    def of(self, number: int) -> TrialResult | None:
        with self._lock:
            return self._trials.of(number)

    def begin(self, number: int, arm: int, seed: int, params: dict[str, Any], phase: search.Phase = "search") -> None:
        """A trial begins, or continues after an earlier driver left it."""
        trial = self.of(number)
        if trial is None or trial.params != params:
            trial = TrialResult(number, "running", arm, seed, params)
        self._put(replace(trial, state="running", arm=arm, seed=seed, phase=phase))

    def end(self, result: TrialResult) -> None:
        """A trial has ended."""
        self._put(result)
        self.num_ended += 1

    def _put(self, result: TrialResult) -> None:
        result = sharing_names(result)
        with self._lock:
            self._trials.put(result)
            self._num_changes += 1

    def write_table_if_due(self) -> None:
        """Writes `trials.parquet` when enough has changed since it was last written."""
        seconds = self._clock() - self._written_at
        with self._lock:
            min_changes = max(1.0, TABLE_SHARE * len(self._trials))
            is_due = self._num_changes and seconds >= (
                TABLE_SECONDS if self._num_changes >= min_changes else TABLE_LATEST_SECONDS
            )
        if is_due:
            self.write_table()

    def write_table(self) -> None:
        """Writes `trials.parquet` if a trial has begun or ended since it was last written, and no other driver has the
        run folder."""
        if self._run.hold is not None and self._run.hold.usurper is not None:
            return
        with self._lock:
            results, num_changes = self._trials.now(), self._num_changes
        self._written_at = self._clock()  # also after an error, so that the next try waits
        if num_changes:
            self._run.folder.write_table(TABLE, self._table.of(results))
            with self._lock:
                self._num_changes -= num_changes


def read_results(run: Run, ended: dict[int, TrialResult] | None = None, say: Say = logger.warning) -> list[TrialResult]:
    """Reads the trials from their folders, in the order of their numbers.

    `ended`: results that need not be read again; trials that have ended are added. A trial whose result cannot be read
    is waiting, since the next run makes it again; `say` is told.
    """
    ended = {} if ended is None else ended
    results = dict(ended)
    for number, files in read_trials(run.folder, run.sweep.search.objectives, skipped=ended).items():
        for fault in files.faults:
            say(storage_files.fault_line(fault))
        if files.shown is not None:
            results[number] = files.shown
        if files.result is not None and files.result.state in ENDED:
            ended[number] = files.result
    return [results[number] for number in sorted(results)]


class EndedTrials:
    """The results of ended trials, for whoever reads a sweep's trials again and again: each is read once, until the
    sweep is continued. A continued sweep may open ended trials again: failed ones, and those that lack a task."""

    def __init__(self) -> None:
        self.results: dict[int, TrialResult] = {}
        self._next_run: int | None = None

    def forget_if_continued(self, folder: Folder) -> bool:
        """True if a run of the sweep in this folder has begun since the last call; then all results are forgotten."""
        last_run, self._next_run = self._next_run, run_times.next_number(folder)
        is_continued = last_run not in (None, self._next_run)
        if is_continued:
            self.results = {}
        return is_continued


def write_table(run: Run, say: Say = logger.warning, known: list[TrialResult] | None = None) -> list[TrialResult]:
    """Writes `trials.parquet` from the trials' folders, one row per trial. Returns the trials.

    `known`: all trials, where their folders were read just before.
    """
    results = read_results(run, say=say) if known is None else known
    if results:
        run.folder.write_table(TABLE, GrowingTable().of(results))
    return results
