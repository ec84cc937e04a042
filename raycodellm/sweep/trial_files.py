"""Reads the trials of a run folder: `result.json` of those that have ended, `trial.json` of the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from raycodellm import retrying, search, storage_files
from raycodellm.config import Objective
from raycodellm.files import DamagedFile, Folder
from raycodellm.records import TrialResult

T = TypeVar("T")
Fault = DamagedFile | OSError
"""Why a file cannot be read."""

BEFORE_ADDED = "result.before-added-tasks.json"
"""The result that a trial had before tasks were added to the sweep the last time. It stays in the folder: looking for
it at each trial's end would cost two requests to an object store."""
UNENDED = ("running", "waiting")
"""States of a trial without a result. Any other state is an end, also one that only a newer version knows."""
_READERS = 32
"""Reads at once from an object store, which answers each after some 50 ms."""


@dataclass(frozen=True)
class TrialFiles:
    """The files of one trial's folder."""

    number: int
    result: TrialResult | None = None
    started: TrialResult | None = None
    """The record that the trial wrote when it began; read only where the trial has no result that can be read."""
    result_fault: Fault | None = None
    started_fault: Fault | None = None

    @property
    def has_ended(self) -> bool:
        """True if the trial has a result, also one that cannot be read."""
        return self.result is not None or self.result_fault is not None

    @property
    def faults(self) -> list[Fault]:
        return [fault for fault in (self.result_fault, self.started_fault) if fault is not None]

    @property
    def shown(self) -> TrialResult | None:
        """The trial as a table shows it; None when it has not begun. A trial with a file that cannot be read is
        waiting, since the next run makes the file again."""
        if self.result is not None:
            return self.result
        if not self.faults:
            return self.started
        return replace(self.started or TrialResult(self.number, "waiting", arm=-1, seed=-1), state="waiting")


def trial_folder(run: Folder, number: int) -> Folder:
    return run / "trials" / f"{number:04d}"


def trial_numbers(run: Folder) -> list[int]:
    """Numbers of the trials that have a folder, in order."""
    return sorted(int(name) for name in (run / "trials").list() if name.isascii() and name.isdecimal())


def read_trials(run: Folder, objectives: Sequence[Objective], skipped: Container[int] = ()) -> dict[int, TrialFiles]:
    """The trials that have a folder, by number and in order, but those in `skipped`. Two requests a trial, many at
    once."""
    numbers = [number for number in trial_numbers(run) if number not in skipped]
    if run.local is not None:  # where threads only delay each other
        return {number: _read_files(run, number, objectives) for number in numbers}
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(numbers, pool.map(lambda number: _read_files(run, number, objectives), numbers), strict=True))


def _read_files(run: Folder, number: int, objectives: Sequence[Objective]) -> TrialFiles:
    folder = trial_folder(run, number)
    result, result_fault = _attempt(lambda: read_result(folder, objectives))
    if result is not None:
        return TrialFiles(number, result)
    started, started_fault = _attempt(lambda: storage_files.read_started(folder))
    return TrialFiles(number, None, started, result_fault, started_fault)


def _attempt(read: Callable[[], T]) -> tuple[T | None, Fault | None]:
    """The result of `read`, None for a missing file; and what is wrong with the file."""
    try:
        return read(), None
    except FileNotFoundError:
        return None, None
    except (DamagedFile, OSError) as fault:
        return None, fault


def keep_aside(folder: Folder, name: str) -> None:
    """Renames a trial's `result.json`, so that the trial is open again. The copy comes first: a driver that is killed
    in between loses nothing."""
    content = retrying.patiently(lambda: folder.read_bytes("result.json"), "result.json")
    retrying.patiently(lambda: folder.write_bytes(name, content), name)
    retrying.patiently(lambda: folder.delete("result.json"), "result.json")


def result_before_added(folder: Folder, objectives: Sequence[Objective]) -> TrialResult | None:
    """The result that a trial had before tasks were added; None for any other trial."""
    if not folder.exists(BEFORE_ADDED):
        return None
    folder.write_bytes("result.json", folder.read_bytes(BEFORE_ADDED))
    return read_result(folder, objectives)


def sharing_names(result: TrialResult) -> TrialResult:
    """The result, whose metrics have the same texts as names as those of every other trial: an evaluation has hundreds
    of metrics, and a sweep may have thousands of trials."""
    return replace(result, metrics={sys.intern(name): value for name, value in result.metrics.items()})


def read_result(folder: Folder, objectives: Sequence[Objective]) -> TrialResult:
    """The result in a trial's folder. Raises `FileNotFoundError` before the trial has ended, and `DamagedFile` when the
    result cannot be read or lacks its score."""
    result = sharing_names(storage_files.read_result(folder))
    if result.state == "complete":
        try:
            search.objective_values(objectives, result.metrics)
        except ValueError as error:
            raise DamagedFile(f"{folder}/result.json", str(error)) from error
    return result
