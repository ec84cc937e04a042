"""The training of one stage, step by step, from its newest checkpoint to its results."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from raycodellm import engine as engines
from raycodellm import ingest, mixture
from raycodellm.engine import PendingStep, StepResult, StorageError, TrainingError, World
from raycodellm.finished import finished_stage, lacks_optimizer
from raycodellm.records import Progress, StageJob, StageRecord, short_job_key
from raycodellm.stage import faults, held_out, metrics, results
from raycodellm.stage.checkpoints import StageCheckpoints
from raycodellm.stage.folder import StageFolder
from raycodellm.stage.metrics import Tally, order_checksum
from raycodellm.stage.progress import ProgressReporter
from raycodellm.stage.setup import StageSetup, set_up
from raycodellm.stage.so_far import OnRung, SoFar
from raycodellm.storage_files import DONE

_METRICS_ROWS = 50
"""Rows of metrics.parquet, about."""


def train_stage(
    job: StageJob,
    world: World,
    *,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    on_metrics: Callable[[dict[str, Any]], None] = lambda row: None,
    on_rung: OnRung = lambda step, record: False,
    use_ray_data: bool = False,
) -> StageRecord | None:
    """Trains the stage, continuing from its newest complete checkpoint; None when stopped early, checkpoint saved.

    Also None when `on_rung` gives the stage up at a rung (see `so_far.OnRung`): then its checkpoints are deleted.

    A collective: every worker of the group calls it. `on_progress` is called on rank 0 only, about once a second;
    `should_stop` on every rank before each step, and one saying yes stops all; `on_metrics` on every rank with each row
    of `metrics.parquet`, and `stage`, the job's key. A finished stage is read, not trained.
    Raises TrainingError on all ranks alike (a loss that is not finite, a full disk), UserError where the job's
    settings cannot work; an exception on one rank alone leaves the others waiting for it.
    """
    engines.init_process(world, num_threads=int(job.scaling.cpus_per_worker))
    engines.limit_memory(world, job.scaling.gpus_per_worker)
    folder = StageFolder(job.folder)
    finished_record = engines.gather(world, finished_stage(folder) if world.rank == 0 else None)[0]
    if finished_record is not None and not (job.keep_optimizer and engines.gather(world, lacks_optimizer(folder))[0]):
        return finished_record
    plan = mixture.make_plan(job)
    progress = ProgressReporter(job, world, plan, on_progress)
    if finished_record is None and world.rank == 0 and folder.exists(DONE):
        progress.say(f"{folder}/stage.json: no record of the finished stage can be read; the stage is trained again")
    setup = set_up(job, world, plan, progress, is_finished=finished_record is not None)
    try:
        checkpoints = StageCheckpoints(setup, progress)
        so_far = SoFar(setup, on_rung)
        loop = TrainingLoop(setup, checkpoints.restore(), checkpoints, progress, on_metrics, so_far)
        try:
            if loop.is_given_up() or not loop.run(should_stop, use_ray_data):
                return None
        except TrainingError as error:
            if finished_record is None and not isinstance(error, StorageError):
                so_far.fail(loop.tally)
            raise
        return results.finish(setup, loop.tally, checkpoints, finished_record)
    finally:
        setup.engine.close()


class TrainingLoop:
    """Trains a stage step after step, and counts in `tally` the sequences and tokens trained."""

    def __init__(
        self,
        setup: StageSetup,
        tally: Tally,
        checkpoints: StageCheckpoints,
        progress: ProgressReporter,
        on_metrics: Callable[[dict[str, Any]], None],
        so_far: SoFar,
    ) -> None:
        self.tally = tally
        self._so_far = so_far
        self._setup, self._job, self._world, self._engine = setup, setup.job, setup.world, setup.engine
        self._checkpoints, self._progress, self._on_metrics = checkpoints, progress, on_metrics
        self._names = tuple(source.name for source in setup.job.sources)
        self._phase_ends = np.array(setup.phase_ends)
        self._step_ended = time.monotonic()
        self._steps_ahead = steps_ahead(setup.world)

    def is_given_up(self) -> bool:
        """True if a rung among the steps that the stage took over ends it. A collective."""
        return self._so_far.catch_up(self.tally)

    def run(self, should_stop: Callable[[], bool], use_ray_data: bool) -> bool:
        """Trains to the stage's end (True). Returns False when told to stop, with a checkpoint saved, or to give the
        stage up, without any."""
        stage, setup = self._job.stage, self._setup
        reading = ingest.steps(
            setup.plan,
            setup.stores,
            stage.sequence_length,
            stage.batch_sequences,
            setup.position(self.tally),
            rank=self._world.rank,
            world_size=self._world.world_size,
            micro_batch=setup.micro_batch,
            use_ray=use_ray_data and self._job.scaling.reader == "ray",
            name=short_job_key(self._job.key),
        )
        with ingest.filling(setup.stores), contextlib.closing(reading) as batches:
            if not self._train(batches, should_stop):
                return False
        faults.require_training(self._job, self.tally)
        return True

    def _train(self, batches: Iterator[ingest.StepBatch], should_stop: Callable[[], bool]) -> bool:
        """Trains on the batches to their end (True), or to a stop, which is saved (False).

        A GPU's numbers are read when the next step has been given to it, so that it never waits for the host. A step
        after which the weights are used (measured, averaged, saved) is waited for first.
        """
        self._step_ended = time.monotonic()
        self._checkpoints.restart_interval(self.tally.step)
        pending: deque[tuple[ingest.StepBatch, PendingStep]] = deque()
        for batch in batches:
            step = self.tally.step + len(pending)
            signals = (
                should_stop(),
                self._checkpoints.is_due(step + 1),
                self._engine.checkpoints.is_written,
                *self._drawn_counts(batch),
            )
            pending.append((batch, self._engine.begin_step(batch, step, signals=signals)))
            requests = [self._end_step(*pending.popleft())] if len(pending) > self._steps_ahead else []
            if any(any(request) for request in requests) or self._needs_weights_of(step + 1):
                requests += [self._end_step(*pending.popleft()) for _ in range(len(pending))]
            if self._so_far.is_due(self.tally.step) and requests and self._so_far.reach(self.tally):
                self._checkpoints.discard()
                return False
            if requests:
                self._checkpoints.keep_for_branches(self.tally)
                self._so_far.keep_for_branches(self.tally)
            stop, save = (any(requested) for requested in zip(*requests, strict=True)) if requests else (False, False)
            if (stop or save) and self.tally.step < self._job.stage.num_steps:
                in_background = False if stop else self._job.scaling.background_checkpoints
                self._checkpoints.save(self.tally, in_background)
                if stop:
                    self._so_far.stop(self.tally)
                    return False
        return True

    def _needs_weights_of(self, step: int) -> bool:
        """True if the weights after the first `step` steps are averaged, measured, kept or final."""
        stage, trunk = self._job.stage, self._job.trunk
        is_kept = trunk is not None and step in trunk.kept_steps
        return is_kept or step == stage.num_steps or step in stage.averaged_steps or self._is_measured(step)

    def _is_measured(self, step: int) -> bool:
        """True if a measurement follows the first `step` steps."""
        return held_out.is_due(self._job.stage, step) or self._so_far.is_due(step)

    def _end_step(self, batch: ingest.StepBatch, pending: PendingStep) -> tuple[bool, bool]:
        """Waits for a step's numbers and counts them; returns whether any worker asked to stop, and to save."""
        result = pending.result()
        stop, save, num_written, *counts = map(int, result.signals)
        if num_written == self._world.world_size:
            self._checkpoints.complete()
        is_skipped = self._is_skipped(batch, result)
        by_phase = np.reshape(counts, (len(self._phase_ends), len(self._names))).tolist()
        self._count(batch, result, by_phase, is_skipped)
        self._close_step(result, is_skipped)
        self._progress.report_step(self.tally, result, self._setup.flops_per_token, self._setup.peak_flops)
        return bool(stop), bool(save)

    def _drawn_counts(self, batch: ingest.StepBatch) -> np.ndarray:
        """int64[phases * sources]: this worker's sequences of the step per phase and source, phase after phase."""
        phase = np.searchsorted(self._phase_ends, batch.position, side="right")
        return np.bincount(phase * len(self._names) + batch.source, minlength=self._phase_ends.size * len(self._names))

    def _is_skipped(self, batch: ingest.StepBatch, result: StepResult) -> bool:
        """True if the step changed nothing and `on_nan` allows to go on.

        Raises the same TrainingError on all ranks where a loss or gradient is not finite. With fp16 a gradient may
        overflow: its loss scale adapts, and the step counts.
        """
        is_half = self._job.stage.numerics.precision == "fp16"
        if result.finite and (is_half or result.applied):
            return False
        if self._job.stage.faults.on_nan == "skip_batch" and not result.applied:
            return True
        own_rows = [
            (int(batch.position[row]), int(batch.source[row]), int(batch.sequence[row])) for row in result.bad_rows
        ]
        rows = sorted(row for rows in engines.gather(self._world, own_rows) for row in rows)
        raise faults.not_finite(self._job, self.tally.step, result, rows)

    def _count(self, batch: ingest.StepBatch, result: StepResult, drawn: list[list[int]], is_skipped: bool) -> None:
        """Adds a step to the tally; `drawn`: sequences of all workers, per phase and source."""
        seconds = self._take_seconds()
        if is_skipped:
            self.tally.add_skipped_step(drawn)
        else:
            checksum = order_checksum(batch.position, batch.source, batch.sequence, self._names)
            self.tally.add_step(result, drawn, checksum, self._job.stage.num_steps)
        self.tally.add_times(seconds, batch.wait_seconds, batch.blocks_ready)

    def _take_seconds(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        seconds, self._step_ended = now - self._step_ended, now
        return seconds

    def _close_step(self, result: StepResult, is_skipped: bool) -> None:
        """Follows a counted step: checks its loss, averages weights, measures held-out text, adds a row of metrics."""
        stage, tally, setup = self._job.stage, self.tally, self._setup
        if not is_skipped:
            faults.require_no_explosion(self._job, tally, result)
        if tally.step in stage.averaged_steps:
            self._engine.average.add()
        held_out_bpb = self._measure() if self._is_measured(tally.step) else None
        if held_out_bpb or tally.step % max(1, stage.num_steps // _METRICS_ROWS) == 0 or tally.step == stage.num_steps:
            speed = {
                "learning_rate": result.learning_rate,
                "flops_per_token": setup.flops_per_token,
                "peak_flops": setup.peak_flops,
                "memory_bytes": engines.memory_bytes(self._world),
            }
            position = setup.position(tally)
            scheduled, planned = setup.plan.code_ratio(position), setup.plan.code_ratio_until(position)
            row = metrics.row(tally, self._job, speed, scheduled, planned)
            if stage.held_out is not None:
                row |= {f"bpb/{name}": (held_out_bpb or {}).get(name, float("nan")) for name in self._names}
            tally.rows.append(row)
            self._on_metrics({"stage": self._job.key, **row})
            tally.window = metrics.empty_window(len(self._names))

    def _measure(self) -> dict[str, float]:
        """Bits per byte of held-out text. The seconds count for the stage, and not for its steps."""
        held_out_bpb = self._setup.held_out.measure(self._engine)
        self.tally.wall_seconds += self._take_seconds()
        return held_out_bpb


def steps_ahead(world: World) -> int:
    """Steps begun before the numbers of an earlier step are read: with one, a GPU always has work."""
    return 1 if world.device_type == "cuda" else 0
