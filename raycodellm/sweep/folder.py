"""The run folder: what a sweep is, which trials have ended and how."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from raycodellm import config, identity
from raycodellm.config import Sweep, SweepFile, UserError
from raycodellm.files import Folder, fingerprint
from raycodellm.records import TrialResult


@dataclass(frozen=True)
class Run:
    """A sweep's folder and what decides it."""

    file: SweepFile
    storage: Folder
    token: str = ""
    """Of the driver that has the run folder (`ownership`); empty for who only reads it."""

    @cached_property
    def sweep(self) -> Sweep:
        return self.file.example()

    @property
    def folder(self) -> Folder:
        return self.storage / self.sweep.name

    @property
    def journal(self) -> Path:
        """The study's journal: in the run folder; for object stores a local file that is copied there."""
        if self.folder.local is not None:
            return self.folder.local / "optuna.log"
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        return cache / "raycodellm" / fingerprint(self.folder.uri) / "optuna.log"

    def trial_folder(self, number: int) -> Folder:
        return self.folder / "trials" / f"{number:04d}"


def open_run(file: SweepFile, storage: Folder) -> Run:
    """The run folder, made when new. Raises `UserError` by key when it holds a sweep that computes something else."""
    run = Run(file, storage)
    tree = config.resolved_tree(file)
    if run.folder.exists("sweep.yaml"):
        # Read as a sweep file, so that a setting that a newer version adds has its default and is no difference.
        there = config.parse(run.folder.read_bytes("sweep.yaml").decode(), origin=f"{run.folder.uri}/sweep.yaml")
        changed = changed_keys(config.resolved_tree(there), tree)
        if changed:
            key, old, new = changed[0]
            more = f" (and {len(changed) - 1} more: {', '.join(k for k, _, _ in changed[1:])})" if changed[1:] else ""
            raise UserError(
                f"{key}: this run began with {old!r}, found {new!r}{more}; put the old value back, "
                f"or give the sweep a new name or another --storage ({run.folder.uri})"
            )
    run.folder.write_bytes("sweep.yaml", yaml.safe_dump(tree, sort_keys=False).encode())
    return run


def changed_keys(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every leaf that differs; `scaling` is where a sweep runs, so it may change."""
    if path == "scaling":
        return []
    if path.endswith(".deepspeed_config"):  # so may those of DeepSpeed's own settings that only say where
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


def read_results(run: Run, ended: dict[str, TrialResult] | None = None) -> list[TrialResult]:
    """What the trials' folders hold, in the order of their numbers. `ended` keeps what need not be read again."""
    ended = {} if ended is None else ended
    results = []
    for name in (run.folder / "trials").list():
        folder = run.folder / "trials" / name
        if name not in ended and folder.exists("result.json"):
            ended[name] = TrialResult(**folder.read_json("result.json"))
        if name in ended:
            results.append(ended[name])
        elif folder.exists("trial.json"):
            results.append(TrialResult(**folder.read_json("trial.json")))
    return results


def write_table(run: Run) -> list[TrialResult]:
    """`trials.parquet` from the trials' folders: one row per trial."""
    import pandas as pd
    import pyarrow as pa

    results = read_results(run)
    if results:
        frame = pd.DataFrame([result.row() for result in results])
        run.folder.write_table("trials.parquet", pa.Table.from_pandas(frame, preserve_index=False))
    return results


def clear_scratch(run: Run) -> None:
    """Removes what a killed driver left of Ray's own files in the run folder."""
    for name in ("tune", "slots"):
        if run.folder.local is not None:
            shutil.rmtree(run.folder.local / name, ignore_errors=True)
        else:
            (run.folder / name).delete()
