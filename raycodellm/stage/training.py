"""The training of one stage: its plan, stores and engine, step by step, and the tally of what was trained."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from raycodellm import engine as engines
from raycodellm import ingest, mixture
from raycodellm import model as models
from raycodellm.engine import DamagedCheckpoint, Engine, PendingStep, StepResult, StorageError, World
from raycodellm.files import Folder
from raycodellm.records import Progress, StageJob, StageRecord, as_json
from raycodellm.stage import faults, held_out, metrics
from raycodellm.stage.folder import CHECKPOINTS, OPTIMIZER, StageFolder, step_name
from raycodellm.stage.metrics import Tally, order_checksum, ratio
from raycodellm.storage_files import DONE, attempt, finished_stage

_ROWS = 50
"""Rows of metrics.parquet, about."""
_PROGRESS_SECONDS = 1.0


def train_stage(
    job: StageJob,
    world: World,
    *,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    on_metrics: Callable[[dict[str, Any]], None] = lambda row: None,
    use_ray_data: bool = False,
) -> StageRecord | None:
    """Trains the stage, continuing from its newest complete checkpoint; None when stopped early, checkpoint saved.

    A collective: every worker of the group calls it. `on_progress` is called on rank 0 only, about once a second;
    `should_stop` on every rank before each step, and one saying yes stops all; `on_metrics` on every rank with each row
    of `metrics.parquet`, and `stage`, the job's key. A finished stage is read, not trained.
    Raises TrainingError on all ranks alike (a loss that is not finite, a full disk), UserError where the job's
    settings cannot work; an exception on one rank alone leaves the others waiting for it.
    """
    engines.init_process(world, num_threads=int(job.scaling.cpus_per_worker))
    engines.limit_memory(world, job.scaling.gpus_per_worker)
    folder = StageFolder(job.folder)
    done = engines.gather(world, finished_stage(folder) if world.rank == 0 else None)[0]
    lost = done is None and world.rank == 0 and folder.exists(DONE)
    if done is not None and not (job.keep_optimizer and engines.gather(world, folder.lacks_optimizer())[0]):
        return done
    training = _Training(job, world, on_progress, on_metrics, done)
    if lost:
        training._say(f"{folder}/stage.json: no record of the finished stage can be read; the stage is trained again")
    try:
        training.restore()
        if not training.run(should_stop, use_ray_data):
            return None
        return training.finish()
    finally:
        training.engine.close()


# ---------------------------------------------------------------------------------------------- the training


class _Training:
    """A stage in training: its plan, stores and engine, and the tally of what was trained."""

    def __init__(
        self,
        job: StageJob,
        world: World,
        on_progress: Callable[[Progress], None],
        on_metrics: Callable[[dict[str, Any]], None],
        done: StageRecord | None,
    ) -> None:
        self.job, self.world, self.done = job, world, done
        self.folder = StageFolder(job.folder)
        self.plan = mixture.plan(job)
        self.stores = open_stores(job)
        self.names = tuple(source.name for source in job.sources)
        self.phase_ends = np.array(job.phase_ends or (self.plan.num_sequences,))
        self.tally = Tally.empty(len(job.sources), len(self.phase_ends))
        self._on_progress, self._on_metrics = on_progress, on_metrics
        self._step_ended = time.monotonic()
        self._reported = self._step_ended - _PROGRESS_SECONDS  # the first step is told at once
        self._tokens_reported = 0
        self._saved_at, self._saved_step = self._step_ended, 0
        self.extra: dict[str, Any] = {}
        """What stage.json says besides the job and the record."""
        self.engine = self._make_engine()
        self._steps_ahead = steps_ahead(world)

    def _make_engine(self) -> Engine:
        job, world = self.job, self.world
        parent = Folder(job.parent) / "model" if job.parent is not None else None
        eos_id = int(getattr(self.stores[0].manifest, "eos_id", 0))
        build = partial(
            models.build, job.model, job.vocab_size, job.seed, parent, eos_id, eos_id, job.stage.numerics.attention
        )
        self.micro_batch = self._find_micro_batch(build)
        settings = job.scaling.deepspeed.model_copy(update={"micro_batch": self.micro_batch})
        model = build()
        faults.require_context(job, models.context_of(model.config))
        self.flops_per_token = models.flops_of(model, job.stage.sequence_length)
        engine = Engine.create(
            model,
            job.stage,
            job.scaling.model_copy(update={"deepspeed": settings}),
            world,
            num_sources=len(job.sources),
            num_micro_batches=ingest.micro_batches_per_step(
                job.stage.batch_sequences, world.world_size, self.micro_batch
            ),
            seed=job.seed,
            start_rate=job.start_rate,
        )
        rows = self.micro_batch or -(-job.stage.batch_sequences // world.world_size)
        self.held_out = held_out.HeldOut(job, self.stores, world, rows)
        peak = job.scaling.peak_tflops
        self.peak_flops = peak * 1e12 if peak else engines.peak_flops(world.device, job.stage.numerics.precision)
        return engine

    def _find_micro_batch(self, build: Callable[[], Any]) -> int | None:
        """Sequences per forward pass; leaves stage.json. What was found is kept there: a stage that is continued by as
        many workers on the same device gives the same bits only if it is cut in the same way."""
        job, world = self.job, self.world
        found = job.scaling.deepspeed.micro_batch
        here = {"workers": world.world_size, "device": world.device_type}
        if found == "auto":
            kept = attempt(lambda: self.folder.read_json("stage.json"), self._say, {})
            kept = engines.gather(world, kept.get("micro_batch"))[0]
            kept = kept if isinstance(kept, dict) and isinstance(kept.get("sequences"), int) else {}
            if {name: kept.get(name) for name in here} == here:
                found = int(kept["sequences"])
            else:
                shape = f"{job.model.model_dump_json()}/{job.vocab_size}"
                found = engines.find_micro_batch(build, shape, job.stage, job.scaling, world)
                self._say(f"micro batches of {found} sequences fit into memory")
        if world.rank == 0 and self.done is None:
            there = {"micro_batch": {"sequences": found, **here}} if job.scaling.deepspeed.micro_batch == "auto" else {}
            self.extra = there
        self._begin_folder()
        return found

    def _begin_folder(self) -> None:
        """Rank 0 writes the settings; raises StorageError on all ranks alike where it cannot."""
        error: OSError | None = None
        if self.world.rank == 0 and self.done is None:
            try:
                self.folder.write_json("stage.json", {"job": as_json(self.job), **self.extra})
            except OSError as caught:
                error = caught
        problem = self._gather_problem(error)
        if problem is not None:
            raise StorageError(f"stage {self.job.key} cannot be begun: {problem}") from error

    def _gather_problem(self, error: OSError | None) -> str | None:
        return engines.gather(self.world, None if error is None else str(error))[0]

    # ---- the loop

    def run(self, should_stop: Callable[[], bool], use_ray_data: bool) -> bool:
        """Trains to the stage's end (True), or saves and returns False when told to stop."""
        stage = self.job.stage
        reading = ingest.steps(
            self.plan,
            self.stores,
            stage.sequence_length,
            stage.batch_sequences,
            self._position,
            rank=self.world.rank,
            world_size=self.world.world_size,
            micro_batch=self.micro_batch,
            use_ray=use_ray_data and self.job.scaling.reader == "ray",
        )
        with ingest.filling(self.stores), contextlib.closing(reading) as batches:
            return self._train(batches, should_stop)

    def _train(self, batches: Iterator[ingest.StepBatch], should_stop: Callable[[], bool]) -> bool:
        """Trains to the stage's end (True), or to where it was told to stop, which is saved (False).

        A GPU's numbers are read when the next step has been given to it, so that it never waits for the host; whatever
        needs the weights of one step exactly has them read first.
        """
        self._step_ended = time.monotonic()
        self._saved()
        begun: deque[tuple[ingest.StepBatch, PendingStep]] = deque()
        for batch in batches:
            asked = (should_stop(), self._save_due(len(begun)), self.engine.save_ended, *self._drawn(batch))
            step = self.tally.step + len(begun)
            begun.append((batch, self.engine.begin_step(batch, step, signals=asked)))
            wanted = [self._end_step(*begun.popleft())] if len(begun) > self._steps_ahead else []
            if any(any(one) for one in wanted) or self._needs_weights_of(step + 1):
                wanted += [self._end_step(*begun.popleft()) for _ in range(len(begun))]
            stop, save = (any(which) for which in zip(*wanted, strict=True)) if wanted else (False, False)
            if (stop or save) and self.tally.step < self.job.stage.num_steps:
                self._save(in_background=False if stop else self.job.scaling.background_checkpoints)
                if stop:
                    return False
        return True

    def _needs_weights_of(self, step: int) -> bool:
        """True if what follows the first `step` steps looks at the weights, or no other step follows."""
        stage = self.job.stage
        return step == stage.num_steps or step in stage.averaged_steps or held_out.is_due(stage, step)

    def _end_step(self, batch: ingest.StepBatch, pending: PendingStep) -> tuple[bool, bool]:
        """Counts a step once its numbers are there; whether any worker asked to stop, and to save."""
        result = pending.result()
        stop, save, written, *drawn = map(int, result.signals)
        if written == self.world.world_size:
            self._complete_save()
        skipped = self._is_skipped(batch, result)
        self._count(batch, result, np.reshape(drawn, (len(self.phase_ends), len(self.names))).tolist(), skipped)
        self._close_step(result, skipped)
        self._report(result)
        return bool(stop), bool(save)

    def _drawn(self, batch: ingest.StepBatch) -> np.ndarray:
        """This worker's sequences of the step per phase and source, one after the other."""
        phase = np.searchsorted(self.phase_ends, batch.position, side="right")
        return np.bincount(phase * len(self.names) + batch.source, minlength=self.phase_ends.size * len(self.names))

    def _is_skipped(self, batch: ingest.StepBatch, result: StepResult) -> bool:
        """Whether the step changed nothing and may be passed over; raises the same TrainingError on all ranks where a
        loss or gradient is not finite. With fp16 a gradient may overflow, which its loss scale mends."""
        half = self.job.stage.numerics.precision == "fp16"
        if result.finite and (half or result.applied):
            return False
        if self.job.stage.faults.on_nan == "skip_batch" and not result.applied:
            return True
        mine = [(int(batch.position[row]), int(batch.source[row]), int(batch.sequence[row])) for row in result.bad_rows]
        rows = sorted(row for rows in self.engine.gather(mine) for row in rows)
        raise faults.not_finite(self.job, self.tally.step, result, rows)

    def _count(
        self, batch: ingest.StepBatch, result: StepResult, drawn: list[list[int]], skipped: bool = False
    ) -> None:
        """Adds a step; `drawn`: sequences of all workers, per phase and source. A skipped step is counted apart."""
        tally, now = self.tally, time.monotonic()
        sequences = [sum(column) for column in zip(*drawn, strict=True)]
        tally.step += 1
        if skipped:
            tally.skipped_steps += 1
            tally.skipped = metrics.added(tally.skipped, sequences)
        else:
            mine = order_checksum(batch.position, batch.source, batch.sequence, self.names)
            tally.checksum = (tally.checksum + mine) % 2**64
            tally.phases = [metrics.added(total, more) for total, more in zip(tally.phases, drawn, strict=True)]
            tally.loss_tokens = metrics.added(tally.loss_tokens, result.loss_tokens.tolist())
            if tally.step > self.job.stage.num_steps - -(-self.job.stage.num_steps // 10):
                tally.last_loss[0] += float(result.loss_sums.sum())
                tally.last_loss[1] += float(result.loss_tokens.sum())
            window = tally.window
            window["loss_sums"] = metrics.added(window["loss_sums"], result.loss_sums.tolist())
            window["loss_tokens"] = metrics.added(window["loss_tokens"], result.loss_tokens.tolist())
            window["sequences"] = metrics.added(window["sequences"], sequences)
            if result.applied:  # else a half-precision gradient that overflowed
                window["grad_norm"] += result.grad_norm
                window["applied"] += 1
        tally.window["wait_seconds"] += batch.wait_seconds
        tally.window["blocks_ready"] += batch.blocks_ready
        tally.window["steps"] += 1
        tally.window["seconds"] += now - self._step_ended
        tally.wall_seconds += now - self._step_ended
        self._step_ended = now

    def _close_step(self, result: StepResult, skipped: bool) -> None:
        """What follows a counted step: the watch over its loss, the mean of weights, measurement, a row of metrics."""
        stage, tally = self.job.stage, self.tally
        if not skipped:
            faults.require_no_explosion(self.job, self.tally, result)
        if tally.step in stage.averaged_steps:
            self.engine.add_to_average()
        measured = self._measure() if held_out.is_due(stage, tally.step) else None
        if measured or tally.step % max(1, stage.num_steps // _ROWS) == 0 or tally.step == stage.num_steps:
            speed = {
                "learning_rate": result.learning_rate,
                "flops_per_token": self.flops_per_token,
                "peak_flops": self.peak_flops * self.world.world_size,
                "memory_bytes": engines.memory_bytes(self.world),
            }
            row = metrics.row(tally, self.job, speed, self.plan.code_ratio(self._position), self._code_ratio_planned())
            if stage.held_out is not None:
                row |= {f"bpb/{name}": (measured or {}).get(name, float("nan")) for name in self.names}
            tally.rows.append(row)
            self._on_metrics({"stage": self.job.key, **row})
            tally.window = metrics.empty_window(len(self.names))

    def _measure(self) -> dict[str, float]:
        """Bits per byte of held-out text. The time counts as the stage's, not as that of its steps."""
        measured = self.held_out.measure(self.engine)
        self.tally.wall_seconds += time.monotonic() - self._step_ended
        self._step_ended = time.monotonic()
        return measured

    def _code_ratio_planned(self) -> float:
        """Of all steps until now."""
        return self.plan.code_ratio_until(self._position)

    @property
    def _position(self) -> int:
        """Sequences of the plan that have been drawn."""
        return self.tally.step * self.job.stage.batch_sequences

    def _report(self, result: StepResult) -> None:
        now, tally, last = time.monotonic(), self.tally, self.tally.step == self.job.stage.num_steps
        if self.world.rank != 0 or (now - self._reported < _PROGRESS_SECONDS and not last):
            return
        tokens = sum(tally.sequences) * self.job.stage.sequence_length
        rate = (tokens - self._tokens_reported) / max(1e-9, now - self._reported)
        self._reported, self._tokens_reported = now, tokens
        self._on_progress(
            replace(
                self._progress(),
                tokens_per_second=rate,
                loss=ratio(float(result.loss_sums.sum()), float(result.loss_tokens.sum())),
                mfu=rate * self.flops_per_token / (self.peak_flops * self.world.world_size),
            )
        )

    def _progress(self, note: str = "") -> Progress:
        return Progress(
            job=self.job.key,
            step=self.tally.step,
            num_steps=self.job.stage.num_steps,
            tokens=sum(self.tally.sequences) * self.job.stage.sequence_length,
            code_ratio_planned=self._code_ratio_planned(),
            code_ratio_real=metrics.code_ratio(self.tally.sequences, [source.is_code for source in self.job.sources]),
            note=note,
        )

    def _say(self, note: str) -> None:
        if self.world.rank == 0:
            self._on_progress(self._progress(note))

    # ---- checkpoints

    def _save_due(self, steps_ahead: int) -> bool:
        """Rank 0 decides for all. `steps_ahead`: steps that were begun and not yet counted."""
        scaling = self.job.scaling
        if self.world.rank != 0:
            return False
        if scaling.checkpoint_tokens is not None:
            steps = self.tally.step + steps_ahead + 1 - self._saved_step  # the one about to be trained included
            return steps * self.job.stage.batch_tokens >= scaling.checkpoint_tokens
        return time.monotonic() - self._saved_at >= scaling.checkpoint_seconds

    def _saved(self) -> None:
        self._saved_at, self._saved_step = time.monotonic(), self.tally.step

    def _save(self, in_background: bool | None) -> None:
        self._complete_save()
        folder = self.folder / CHECKPOINTS / step_name(self.tally.step)
        self.engine.save(folder, asdict(self._whole_tally()), in_background)
        self._prune()
        self._saved()

    def _complete_save(self) -> None:
        """Of a checkpoint that was written in the background. Raises TrainingError on all ranks alike."""
        if self.engine.finish_save() is not None:
            self._prune()

    def _prune(self) -> None:
        folder = self.folder / CHECKPOINTS
        if self.world.rank == 0:
            for name in self.folder.complete_checkpoints()[: -self.job.scaling.checkpoints_kept]:
                folder.delete(name)

    def _whole_tally(self) -> Tally:
        """The tally with the checksum of all workers' rows."""
        return replace(self.tally, checksum=sum(self.engine.gather(self.tally.checksum)) % 2**64)

    def restore(self) -> None:
        """Continues from the newest checkpoint that is whole; from nothing when there is none."""
        folder = self.folder / CHECKPOINTS
        names = self.engine.gather(self.folder.complete_checkpoints() if self.world.rank == 0 else None)[0]
        for name in reversed(names):
            try:
                saved = self.engine.restore(folder / name)
            except DamagedCheckpoint as error:
                self._say(f"{error}; using the one before")
                continue
            self.tally = Tally(**saved)
            self.plan.starting_at(sum(self.tally.drawn), self.tally.drawn)
            if self.world.rank != 0:
                self.tally.checksum = 0  # rank 0 carries on the sum of all
            self.tally.resumed_at.append(self.tally.step)
            self._tokens_reported = sum(self.tally.sequences) * self.job.stage.sequence_length
            self._say(f"continues from step {self.tally.step}")
            return
        if names:
            self._say("no checkpoint is usable; starts again from the beginning")
        if self.job.stage.optimizer.state == "keep":
            self._take_parents_optimizer()

    def _take_parents_optimizer(self) -> None:
        folder = Folder(self.job.parent or "") / OPTIMIZER
        try:
            self.engine.load_optimizer(folder)
        except DamagedCheckpoint as error:
            raise StorageError(  # no fault of the stage: once the folder is gone the next run mends it
                f"stage {self.job.stage.name!r} starts from the optimizer state of the stage before (optimizer: "
                f"{{state: keep}}), which is not usable: {error}; delete {folder} and run again: that stage is trained "
                "once more"
            ) from error

    # ---- the end

    def finish(self) -> StageRecord:
        """Leaves the stage's results in its folder, DONE last; the record, the same on all ranks.

        If the stage had finished before, and was trained again for its optimizer state, only that state is written.
        """
        self._complete_save()
        if self.job.keep_optimizer:
            self.engine.save_optimizer(self.folder / OPTIMIZER)
        tally = self._whole_tally()
        record = self.done or self.engine.gather(self._record(tally))[0]
        error: OSError | None = None
        try:
            if self.done is None:
                self._export()
            if self.world.rank == 0:
                if self.done is None:
                    self.folder.leave_results(self.job, record, tally.rows, self.extra)
                self.folder.delete(CHECKPOINTS)
        except OSError as caught:
            error = caught
        # No rank goes on to another job, or takes this one for done, before it is.
        problem = self._gather_problem(error)
        if problem is not None:
            raise StorageError(f"the results of stage {self.job.key} could not be written: {problem}") from error
        return record

    def _export(self) -> None:
        weights = self.engine.whole_weights()
        if self.world.rank == 0:
            tokenizer = Folder(self.job.tokenizer)
            self.folder.leave_model(lambda directory: self.engine.export(directory, weights, tokenizer))

    def _record(self, tally: Tally) -> StageRecord:
        stage, ledger = self.job.stage, metrics.ledger(self.job, tally)
        return StageRecord(
            identity=self.job.identity,
            name=stage.name,
            num_steps=tally.step,
            num_tokens=sum(row.tokens for row in ledger),
            final_loss=ratio(*tally.last_loss),
            wall_seconds=tally.wall_seconds,
            device_seconds=tally.wall_seconds * self.world.world_size,
            order_checksum=f"{tally.checksum:016x}",
            resumed_at=tuple(tally.resumed_at),
            ledger=ledger,
            skipped_steps=tally.skipped_steps,
            held_out_bpb=self._last_measured(tally),
        )

    def _last_measured(self, tally: Tally) -> dict[str, float]:
        last = tally.rows[-1] if tally.rows else {}
        found = {name: last.get(f"bpb/{name}", float("nan")) for name in self.names}
        return {name: value for name, value in found.items() if np.isfinite(value)}


# ---------------------------------------------------------------------------------------------------- parts


def open_stores(job: StageJob) -> list[Any]:
    """The token stores of the job's sources, in their order, read as the stage packs them, without what is held out."""
    from raycodellm.tokens import Reading, TokenStore

    stores = [TokenStore.open(Folder(source.store)) for source in job.sources]
    for source, store in zip(job.sources, stores, strict=True):
        if any(source.planned) or source.held_out_sequences:
            store.verify_before_use()
    readings = [
        Reading(job.stage.packing, source.held_out_tokens, prompts_count=not job.stage.responses_only)
        for source in job.sources
    ]
    return [ingest.cached(store.packed(reading), job.scaling) for store, reading in zip(stores, readings, strict=True)]


def steps_ahead(world: World) -> int:
    """Steps that are begun before the numbers of the one before are read: with one, a GPU is never without work."""
    return 1 if world.device_type == "cuda" else 0
