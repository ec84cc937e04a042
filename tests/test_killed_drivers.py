"""A driver that is killed at any write to an object store is followed by one that ends the sweep as if nothing was."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from driver_without_ray import Cluster, Driver

from raycodellm import config, search, storage_files, sweep
from raycodellm.files import Folder
from raycodellm.sweep import journal_copy, ownership
from raycodellm.sweep.ownership import Owner

GRID = (
    "search.sampler=grid",
    "search.trials=null",
    "search.replicates=2",
    "pretrain.code_ratio={search: {choice: [0.25, 0.5]}}",
    "pretrain.schedule=constant",
)


CONFIRMED = (
    *GRID,
    "search.replicates=1",
    "search.reference={pretrain.code_ratio: 0.5}",
    "search.confirm={best: 1, seeds: [2, 3]}",
)
SAID = [
    "the search is over: arm 1 (pretrain.code_ratio 0.25) and the reference, arm 0 (pretrain.code_ratio 0.5), are "
    "confirmed with 2 fresh seeds each, at most 3",
    "look 1 of 2 (2 seeds): mean/bpb: arm 1 (pretrain.code_ratio 0.25) not known; 1 more seed for arms 0 and 1",
    "look 2 of 2 (3 seeds): mean/bpb: arm 1 (pretrain.code_ratio 0.25) not known; this was the last look",
]


class KilledError(BaseException):
    """The driver's end. No handler of errors in the driver may catch it."""


class Disk:
    """Local folders as an object store, whose writer is killed at its write number `dies_at`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_writes, self.dies_at, self.is_dead = 0, -1, False
        delete = Folder.delete

        def write(folder: Folder, name: str, data: bytes) -> None:
            self._write()
            (path := Path(folder.uri) / name).parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

        def deleted(folder: Folder, name: str = "") -> None:
            self._write()
            delete(folder, name)

        monkeypatch.setattr(Folder, "local", property(lambda folder: None))
        monkeypatch.setattr(Folder, "write_bytes", write)
        monkeypatch.setattr(Folder, "delete", deleted)
        monkeypatch.setattr(journal_copy, "MERGE_BYTES", 4_000)
        monkeypatch.setattr(Owner, "runs_here", lambda owner, found: False)
        monkeypatch.setattr(ownership, "REMOTE", replace(ownership.REMOTE, settle=0.0))

    def _write(self) -> None:
        self.is_dead = self.is_dead or self.num_writes == self.dies_at
        if self.is_dead:
            raise KilledError
        self.num_writes += 1


def drive(file: config.SweepFile, storage: Folder, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs the trials that are left, three at once, of which the latest ends first. Gives what is said."""
    with sweep.lock(sweep.open_run(file, storage, lambda line: None), lambda line: None) as run:
        # As Ray Tune is told: without a confirmation so many trials, with one until the searcher says that all is done.
        left = search.most_trials(file) - sweep.tell_written_results(run, lambda line: None)
        left += search.most_confirm_trials(file)
        now = itertools.count(0.0, 10.0)
        driver = Driver(run, cluster, monkeypatch, lambda: next(now))
        running: list[tuple[str, dict[str, Any]]] = []
        while True:
            may_begin = left and len(running) < 3
            suggested = driver.suggest(str(left)) if may_begin else None
            if isinstance(suggested, dict):
                running.append((str(left), suggested))
                left -= 1
            elif not running:
                return driver.said
            else:
                name, settings = running.pop()
                driver.end(name, driver.carry_out(settings))
                driver.look()


@pytest.mark.slow
@pytest.mark.parametrize("points", [slice(0, None, 17), pytest.param(slice(None), marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("overrides", "num_trials"), [(GRID, 4), (CONFIRMED, 8)])
def test_a_sweep_whose_driver_was_killed_at_any_write_has_every_arm_and_seed_once(
    sweep_text: str, tmp_path, monkeypatch, points: slice, overrides: tuple[str, ...], num_trials: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    disk, file = Disk(monkeypatch), config.parse(sweep_text, overrides=overrides)
    said = drive(file, Folder(str(tmp_path / "whole")), undisturbed := Cluster(), monkeypatch)
    without_numbers = [re.sub(r" [-+][\d.]+ \(.*?\)", "", line) for line in said]
    assert without_numbers == (SAID if overrides == CONFIRMED else [])
    expected = told(file, Folder(str(tmp_path / "whole")))
    assert len(expected) == num_trials and undisturbed.num_trained == Counter(undisturbed.num_trained.keys())
    for point in range(disk.num_writes)[points]:
        storage, cluster = Folder(str(tmp_path / str(point))), Cluster()
        disk.num_writes, disk.dies_at = 0, point
        with pytest.raises(KilledError):
            drive(file, storage, cluster, monkeypatch)
        disk.is_dead, disk.dies_at = False, -1
        again = drive(file, storage, cluster, monkeypatch)
        assert told(file, storage) == expected, point
        if any(line.startswith("the confirmation goes on") for line in again):
            assert not any(line.startswith("the search is over") for line in again), "an earlier driver said it"
        # Only a stage whose end was not written yet is trained twice.
        assert cluster.num_trained.keys() == undisturbed.num_trained.keys()
        assert cluster.num_trained.total() <= undisturbed.num_trained.total() + 1
        assert (storage / "small").list() == (Folder(str(tmp_path / "whole")) / "small").list()


def told(file: config.SweepFile, storage: Folder) -> list[tuple[Any, ...]]:
    """Each trial by number, as the study and its result say. Raises where the two do not agree."""
    run = sweep.Run(file, storage)
    journal = search.read_journal(Path(storage.uri) / "small" / "optuna.log", file, {})
    found = []
    for trial in journal.trials:
        result = storage_files.read_result(run.trial_folder(trial.number))
        assert search.agrees(trial, result, file, run.sweep.seed)
        assert (trial.state.name, trial.value) == ("COMPLETE", result.metrics["mean/bpb"])
        facts = (result.number, result.phase, result.arm, result.seed)
        found.append((*facts, tuple(result.params.items()), trial.value))
    return found
