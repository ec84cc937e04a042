"""The run folder: the sweep's own file, its trials' results, and the table of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from raycodellm import config, identity, storage_files
from raycodellm.config import Sweep, SweepFile, UserError
from raycodellm.files import Folder, cache_folder, fingerprint
from raycodellm.records import TrialResult
from raycodellm.sweep.trial_files import TrialFiles, read_trials, trial_folder, trial_numbers

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
        return read_trials(self.folder, self.sweep.search.objectives)

    @property
    def num_ended_at_start(self) -> int:
        """Trials with a result, be it a damaged one, before the driver runs any."""
        return sum(files.has_ended for files in self.at_start.values())

    @property
    def results_at_start(self) -> list[TrialResult]:
        """In the order of their numbers."""
        return [shown for files in self.at_start.values() if (shown := files.shown) is not None]

    def trial_folder(self, number: int) -> Folder:
        return trial_folder(self.folder, number)


def open_run(file: SweepFile, storage: Folder, say: Say = logger.warning) -> Run:
    """Opens the run folder; creates it when new. Raises `UserError` by key when it holds a sweep that computes
    something else."""
    run = Run(file, storage)
    tree = config.resolved_tree(file)
    storage.prove_writable("--storage")
    if run.folder.exists("sweep.yaml"):
        # Parsed as a sweep file, so that a setting that this version added has its default, which is no difference.
        saved = storage_files.read_sweep_file(run.folder)
        changed = changed_keys(config.resolved_tree(saved), tree)
        if changed:
            key, old, new = changed[0]
            more = f" (and {len(changed) - 1} more: {', '.join(k for k, _, _ in changed[1:])})" if changed[1:] else ""
            raise UserError(
                f"{key}: this run began with {old!r}, found {new!r}{more}; put the old value back, "
                f"or give the sweep a new name or another --storage ({run.folder.uri})"
            )
    elif trial_numbers(run.folder):
        say(f"{run.folder}/sweep.yaml: is missing and written again; nothing says that its trials are of this sweep")
    if not run.folder.exists("sweep.yaml"):
        write_sweep_file(run)
    return run


def write_sweep_file(run: Run) -> None:
    """Writes `sweep.yaml` as resolved, over an earlier driver's, whose `scaling` may differ."""
    run.folder.write_bytes("sweep.yaml", config.write_yaml(config.resolved_tree(run.file)).encode())


def changed_keys(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every leaf that differs. `scaling` says where a sweep runs and `tracking` who is
    told, so these may differ."""
    if path in ("scaling", "tracking"):
        return []
    if path.endswith(".deepspeed_config"):  # DeepSpeed's settings that change no number may differ too
        old, new = (identity.numeric_settings(found or {}) for found in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        return [
            found for key in keys for found in changed_keys(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = zip(old, new, strict=True)
        return [
            found
            for place, (a, b) in enumerate(parts)
            for found in changed_keys(a, b, f"{path}.{b['name'] if isinstance(b, dict) and 'name' in b else place}")
        ]
    return [] if old == new else [(path, old, new)]


def clear_scratch(run: Run) -> None:
    """Removes the files of Ray's own that a killed driver left in the run folder."""
    for name in ("tune", "slots"):
        if run.folder.local is not None:
            shutil.rmtree(run.folder.local / name, ignore_errors=True)
        else:
            (run.folder / name).delete()
