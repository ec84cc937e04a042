"""When a stage saves a checkpoint, which checkpoints it keeps, and where it continues."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, replace

from raycodellm.engine import COMPLETE, DamagedCheckpoint, StorageError, World, gather
from raycodellm.files import Folder
from raycodellm.finished import OPTIMIZER
from raycodellm.stage.folder import CHECKPOINTS, complete_steps, step_name, step_of
from raycodellm.stage.metrics import Tally
from raycodellm.stage.progress import ProgressReporter
from raycodellm.stage.setup import StageSetup


class StageCheckpoints:
    """Saves and restores a stage's checkpoints; every method but `is_due` is a collective."""

    def __init__(self, setup: StageSetup, progress: ProgressReporter) -> None:
        self._setup, self._job, self._world, self._engine = setup, setup.job, setup.world, setup.engine
        self._folder = setup.folder / CHECKPOINTS
        self._progress = progress
        self._saved_at, self._saved_step = time.monotonic(), 0

    def restart_interval(self, step: int) -> None:
        """The next checkpoint is due a whole interval after now, and after `step`."""
        self._saved_at, self._saved_step = time.monotonic(), step

    def is_due(self, step: int) -> bool:
        """True if a checkpoint is due once the first `step` steps are trained; rank 0 decides for all."""
        scaling = self._job.scaling
        if self._world.rank != 0:
            return False
        if scaling.checkpoint_tokens is not None:
            return (step - self._saved_step) * self._job.stage.batch_tokens >= scaling.checkpoint_tokens
        return time.monotonic() - self._saved_at >= scaling.checkpoint_seconds

    def save(self, tally: Tally, in_background: bool | None) -> None:
        """Saves a checkpoint; `in_background` None decides by its size. Raises TrainingError on all ranks alike."""
        self.complete()
        state = asdict(with_whole_checksum(tally, self._world))
        self._engine.checkpoints.save(self._folder / step_name(tally.step), state, in_background)
        self._prune()
        self.restart_interval(tally.step)

    def complete(self) -> None:
        """Completes a checkpoint that was written in the background. Raises TrainingError on all ranks alike."""
        if self._engine.checkpoints.finish() is not None:
            self._prune()

    def discard(self) -> None:
        """Deletes all checkpoints of a stage that is given up. Raises TrainingError on all ranks alike."""
        self.complete()
        if self._world.rank == 0:
            with contextlib.suppress(OSError):  # they only take room
                self._folder.delete()

    def _prune(self) -> None:
        if self._world.rank == 0:
            for name in self._setup.folder.complete_checkpoints()[: -self._job.scaling.checkpoints_kept]:
                self._folder.delete(name)

    def restore(self) -> Tally:
        """Continues from the newest checkpoint that is whole, else from the stage's beginning; returns its tally."""
        names = gather(self._world, self._setup.folder.complete_checkpoints() if self._world.rank == 0 else None)[0]
        for name in reversed(names):
            try:
                saved = self._engine.checkpoints.restore(self._folder / name)
            except DamagedCheckpoint as error:
                self._progress.say(f"{error}; using the one before")
                continue
            tally = self._continue_from(Tally(**saved))
            tally.resumed_at.append(tally.step)
            self._progress.say(f"continues from step {tally.step}", tally)
            return tally
        if names:
            self._progress.say("no checkpoint is usable; starts again from the beginning")
        if (branch_tally := self._restore_branch()) is not None:
            return branch_tally
        if self._job.stage.optimizer.state == "keep":
            self._load_parents_optimizer()
        return Tally.empty(len(self._job.sources), len(self._setup.phase_ends))

    def _continue_from(self, tally: Tally) -> Tally:
        """Goes on with a checkpoint's tally."""
        self._setup.plan.starting_at(sum(tally.drawn), tally.drawn)
        if self._world.rank != 0:
            tally.checksum = 0  # rank 0 carries on the sum of all workers
        self._progress.restart(tally)
        return tally

    def keep_for_branches(self, tally: Tally) -> None:
        """Keeps the state after this step for the other stages of the trunk, where the job says so. Raises
        TrainingError on all ranks alike."""
        trunk = self._job.trunk
        if trunk is None or tally.step not in trunk.kept_steps:
            return
        folder = Folder(trunk.folder) / step_name(tally.step)
        if not gather(self._world, self._world.rank == 0 and folder.exists(COMPLETE))[0]:
            self.complete()
            kept_tally = replace(with_whole_checksum(tally, self._world), kept_by=self._job.sweep)
            self._engine.checkpoints.save(folder, asdict(kept_tally), in_background=False)
        self._progress.report_kept(tally)

    def _restore_branch(self) -> Tally | None:
        """The tally of the newest checkpoint that another stage of the trunk has kept; None without one that is whole.

        The state is the stage's own after so many steps, bit for bit on CPUs with equally many workers.
        """
        trunk = self._job.trunk
        if trunk is None:
            return None
        folder = Folder(trunk.folder)
        names = gather(self._world, complete_steps(folder) if self._world.rank == 0 else None)[0]
        for name in reversed([name for name in names if step_of(name) <= trunk.num_taken]):
            try:
                saved = self._engine.checkpoints.restore(folder / name)
            except DamagedCheckpoint as error:
                self._progress.say(f"{error}; the stage trains these steps itself")
                continue
            self._engine.average.restore(0, {})
            trunk_tally = Tally(**saved)
            tally = self._continue_from(
                trunk_tally.branched(sum(trunk_tally.sequences) * self._job.stage.sequence_length)
            )
            self._progress.say(f"goes on from step {tally.step} of a stage with the same trunk", tally)
            return tally
        return None

    def _load_parents_optimizer(self) -> None:
        folder = Folder(self._job.parent or "") / OPTIMIZER
        try:
            self._engine.checkpoints.load_optimizer(folder)
        except DamagedCheckpoint as error:
            raise StorageError(  # no fault of the stage: once the folder is gone the next run mends it
                f"stage {self._job.stage.name!r} starts from the optimizer state of the stage before (optimizer: "
                f"{{state: keep}}), which is not usable: {error}; delete {folder} and run again: that stage is trained "
                "once more"
            ) from error


def with_whole_checksum(tally: Tally, world: World) -> Tally:
    """The tally with the checksum of all workers' rows."""
    return replace(tally, checksum=sum(gather(world, tally.checksum)) % 2**64)
