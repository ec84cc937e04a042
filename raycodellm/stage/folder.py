"""A stage's folder: its checkpoints by step, and the results that a finished stage leaves, `DONE` last."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raycodellm import engine as engines
from raycodellm.files import Folder
from raycodellm.identity import model_files
from raycodellm.records import StageJob, StageRecord, as_json
from raycodellm.stage import metrics
from raycodellm.storage_files import CHECKPOINTS, DONE


class StageFolder(Folder):
    """The folder of one stage in the stage store."""

    def complete_checkpoints(self) -> list[str]:
        """Names of the complete checkpoints, oldest first."""
        return complete_steps(self / CHECKPOINTS)

    def leave_model(self, export: Callable[[Path], None]) -> None:
        """Writes `model/`, on local storage in one rename; `export` writes the model's files into a local folder."""
        for name in self.list():
            if name.startswith("."):  # a half-written file or model of an attempt that was killed
                self.delete(name)
        with tempfile.TemporaryDirectory(prefix=".model.", dir=self.make().local) as temporary:
            directory = Path(temporary) / "model"
            directory.mkdir()
            export(directory)
            model_files.write_checksums(directory)
            self.delete("model")  # left by an attempt that ended before DONE was written
            if self.local is not None:
                directory.rename(self.local / "model")
            else:
                (self / "model").upload(directory)

    def leave_results(
        self, job: StageJob, record: StageRecord, rows: Sequence[Mapping[str, Any]], details: Mapping[str, Any]
    ) -> None:
        """Writes ledger, metrics, record and, last, DONE; `details`: entries of `stage.json` besides job and record."""
        self.write_table("ledger.parquet", metrics.ledger_table(record.ledger))
        self.write_table("metrics.parquet", metrics.metrics_table(rows))
        self.write_json("stage.json", {"job": as_json(job), **details, "record": as_json(record)})
        self.write_json(DONE, {"record": as_json(record)})


def complete_steps(folder: Folder) -> list[str]:
    """Names of the complete checkpoints in a folder, oldest first."""
    names = [name for name in folder.list() if name.startswith("step-")]
    return sorted((name for name in names if (folder / name).exists(engines.COMPLETE)), key=step_of)


def step_name(step: int) -> str:
    """The folder name of the checkpoint after `step` steps."""
    return f"step-{step:06d}"


def step_of(name: str) -> int:
    """The step of a checkpoint's folder name."""
    return int(name.removeprefix("step-"))
