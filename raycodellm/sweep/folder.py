"""The run folder: the sweep's own file, its trials' results, and the table of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from raycodellm import config, retrying
from raycodellm.config import Sweep, SweepFile
from raycodellm.files import Folder, cache_folder, fingerprint
from raycodellm.records import TrialResult
from raycodellm.sweep.trial_files import TrialFiles, read_trials, trial_folder

logger = logging.getLogger(__name__)

Say = Callable[[str], Any]
"""Is called with a line for each damaged file."""


class DriversHold(Protocol):
    """The rights of the driver that owns a run folder; see `ownership.Hold`."""

    @property
    def usurper(self) -> str | None: ...

    def tell(self, sighting: Any) -> None: ...

    def keep_journal(self) -> None: ...

    def merge_journal(self) -> None: ...


@dataclass(frozen=True)
class Run:
    """A sweep, and the folder in its storage that holds its state."""

    file: SweepFile
    storage: Folder
    hold: DriversHold | None = field(default=None, compare=False, repr=False)
    """The hold of the driver that owns the run folder; None for a reader, and in every other process."""

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "storage": self.storage, "hold": None}

    @cached_property
    def sweep(self) -> Sweep:
        return self.file.example()

    @property
    def folder(self) -> Folder:
        return self.storage / self.sweep.name

    @property
    def journal(self) -> Path:
        """The study's journal: a file of the run folder; on an object store, a local file that is copied there."""
        if self.folder.local is not None:
            return self.folder.local / "optuna.log"
        return cache_folder() / fingerprint(self.folder.uri) / "optuna.log"

    @cached_property
    def at_start(self) -> dict[int, TrialFiles]:
        """The trials' folders, by number, when this was first asked, before the driver runs any trial."""
        return retrying.patiently(self._read_trials, "the trials' folders")

    def _read_trials(self) -> dict[int, TrialFiles]:
        """The trials' folders. Raises `OSError` if the storage does not answer: else an ended trial might seem open."""
        by_number = read_trials(self.folder, self.sweep.search.objectives)
        for fault in (fault for files in by_number.values() for fault in files.faults):
            if isinstance(fault, OSError) and retrying.is_passing(fault):
                raise fault
        return by_number

    @property
    def num_ended_at_start(self) -> int:
        """Trials with a result, be it a damaged one, before the driver runs any."""
        return sum(files.has_ended for files in self.at_start.values())

    @property
    def results_at_start(self) -> list[TrialResult]:
        """The trials that had begun before the driver ran any, in the order of their numbers."""
        return [shown for files in self.at_start.values() if (shown := files.shown) is not None]

    def trial_folder(self, number: int) -> Folder:
        return trial_folder(self.folder, number)


def write_sweep_file(run: Run) -> None:
    """Writes `sweep.yaml` as resolved, over an earlier driver's, whose `scaling` may differ."""
    run.folder.write_bytes("sweep.yaml", config.write_yaml(config.resolved_tree(run.file)).encode())


def clear_scratch(run: Run) -> None:
    """Removes the files of Ray's own that a killed driver left in the run folder."""
    for name in ("tune", "slots"):
        if run.folder.local is not None:
            shutil.rmtree(run.folder.local / name, ignore_errors=True)
        else:
            (run.folder / name).delete()
