"""One stage in one worker group, from wherever it stopped to its end. Runs with and without Ray.

What a stage leaves in its folder: `stage.json` (settings first, the record at the end), `checkpoint/step-000123/` while
it trains (the two newest), then `model/`, `ledger.parquet`, `metrics.parquet` and, last, `DONE`. A finished stage needs
no checkpoint, so `checkpoint/` is removed. Everything that the record says is counted from the batches that were
trained on; it travels in the checkpoint, so that a stage continued any number of times counts each sequence once.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raycodellm import engine as engines
from raycodellm import ingest, mixture
from raycodellm import model as models
from raycodellm.config import UserError
from raycodellm.engine import DamagedCheckpoint, Engine, StepResult, TrainingError, World
from raycodellm.files import Folder
from raycodellm.records import LedgerRow, Progress, StageJob, StageRecord, as_json, stage_record

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TrainingError", "World", "finished_record", "train_stage"]

DONE = "DONE"
_CHECKPOINTS = "checkpoint"
_KEPT = 2
"""Checkpoints kept: the newest, and the one before in case the newest turns out damaged."""
_ROWS = 50
"""Rows of metrics.parquet, about."""
_PROGRESS_SECONDS = 1.0


def train_stage(
    job: StageJob,
    world: World,
    *,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    use_ray_data: bool = False,
) -> StageRecord | None:
    """Trains the stage, continuing from its newest complete checkpoint; None when stopped early, checkpoint saved.

    A collective: every worker of the group calls it. `on_progress` is called on rank 0 only, about once a second;
    `should_stop` on every rank before each step, and one saying yes stops all. A finished stage is read, not trained.
    Raises TrainingError on all ranks alike (a loss that is not finite, a full disk), UserError where the job's
    settings cannot work; an exception on one rank alone leaves the others waiting for it.
    """
    engines.init_process(world, num_threads=int(job.scaling.cpus_per_worker))
    folder = Folder(job.folder)
    done = engines.gather(world, finished_record(folder) if world.rank == 0 else None)[0]
    if done is not None:
        return done
    if world.rank == 0:
        folder.write_json("stage.json", {"job": as_json(job)})
    training = _Training(job, world, on_progress)
    try:
        training.restore()
        if not training.run(should_stop, use_ray_data):
            return None
        return training.finish()
    finally:
        training.engine.close()


def finished_record(folder: Folder) -> StageRecord | None:
    """What `stage.json` says of a finished stage; None when it is not finished."""
    return stage_record(folder.read_json("stage.json")["record"]) if folder.exists(DONE) else None


# ------------------------------------------------------------------------------------------------ counting


@dataclass
class Tally:
    """What was trained so far in the stage: plain numbers that travel in the checkpoint. Summed over workers, except
    `checksum`, which each worker holds of its own rows until it is summed for a checkpoint."""

    step: int
    sequences: list[int]
    """Per source."""
    loss_tokens: list[int]
    """Per source."""
    checksum: int
    window: dict[str, Any]
    """Sums since the last row of metrics."""
    rows: list[dict[str, float]]
    """Of metrics.parquet."""
    last_loss: list[float]
    """Loss sum and tokens over the stage's last tenth."""
    resumed_at: list[int]
    wall_seconds: float

    @classmethod
    def empty(cls, num_sources: int) -> Tally:
        zeros = [0] * num_sources
        return cls(0, list(zeros), list(zeros), 0, _empty_window(num_sources), [], [0.0, 0.0], [], 0.0)


def _empty_window(num_sources: int) -> dict[str, Any]:
    sums = {name: [0] * num_sources for name in ("loss_sums", "loss_tokens", "sequences")}
    return {**sums, "applied": 0, "grad_norm": 0.0, "seconds": 0.0, "wait_seconds": 0.0}


def order_checksum(position: np.ndarray, source: np.ndarray, sequence: np.ndarray, names: tuple[str, ...]) -> int:
    """Sum modulo 2^64 of a hash of each (position, source's name, sequence).

    The position inside the hash makes the sum depend on the order; being a sum makes it independent of who counts.
    """
    keys = [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") for name in names]
    with np.errstate(over="ignore"):
        mixed = _scrambled(np.asarray(position, dtype=np.uint64))
        mixed = _scrambled(mixed + np.asarray(keys, dtype=np.uint64)[np.asarray(source, dtype=np.int64)])
        mixed = _scrambled(mixed + np.asarray(sequence, dtype=np.uint64))
        return int(mixed.sum(dtype=np.uint64))


def _scrambled(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


# ---------------------------------------------------------------------------------------------- the training


class _Training:
    """A stage in training: its plan, stores and engine, and the tally of what was trained."""

    def __init__(self, job: StageJob, world: World, on_progress: Callable[[Progress], None]) -> None:
        self.job, self.world = job, world
        self.folder = Folder(job.folder)
        self.plan = mixture.plan(job)
        self.stores = open_stores(job)
        self.names = tuple(source.name for source in job.sources)
        self.is_code = np.array([source.is_code for source in job.sources])
        self.tally = Tally.empty(len(job.sources))
        self._on_progress = on_progress
        self._reported = self._step_ended = time.monotonic()
        self._tokens_reported = 0
        self.engine = self._make_engine()

    def _make_engine(self) -> Engine:
        job = self.job
        parent = Folder(job.parent) / "model" if job.parent is not None else None
        eos_id = int(getattr(self.stores[0].manifest, "eos_id", 0))
        model = models.build(job.model, job.vocab_size, job.seed, parent, eos_id=eos_id, pad_id=eos_id)
        _check_context(job, models.context_of(model.config))
        micro_batch = job.scaling.deepspeed.micro_batch
        return Engine.create(
            model,
            job.stage,
            job.scaling,
            self.world,
            num_sources=len(job.sources),
            num_micro_batches=ingest.micro_batches_per_step(
                job.stage.batch_sequences, self.world.world_size, micro_batch
            ),
            seed=job.seed,
        )

    # ---- the loop

    def run(self, should_stop: Callable[[], bool], use_ray_data: bool) -> bool:
        """Trains to the stage's end (True), or saves and returns False when told to stop."""
        stage = self.job.stage
        reading = ingest.steps(
            self.plan,
            self.stores,
            stage.sequence_length,
            stage.batch_sequences,
            self.tally.step * stage.batch_sequences,
            rank=self.world.rank,
            world_size=self.world.world_size,
            micro_batch=self.job.scaling.deepspeed.micro_batch,
            use_ray=use_ray_data,
        )
        with contextlib.closing(reading) as batches:
            return self._train(batches, should_stop)

    def _train(self, batches: Iterator[ingest.StepBatch], should_stop: Callable[[], bool]) -> bool:
        tally = self.tally
        saved = self._step_ended = time.monotonic()
        for batch in batches:
            due = self.world.rank == 0 and time.monotonic() - saved >= self.job.scaling.checkpoint_seconds
            drawn = np.bincount(batch.source, minlength=len(self.names))
            result = self.engine.train_step(batch, tally.step, signals=(should_stop(), due, *drawn))
            stop, save, *sequences = map(int, result.signals)
            self._require_finite(batch, result)
            self._count(batch, result, sequences)
            if (stop or save) and tally.step < self.job.stage.num_steps:
                self._save()
                saved = time.monotonic()
                if stop:
                    return False
            self._report(result)
        return True

    def _require_finite(self, batch: ingest.StepBatch, result: StepResult) -> None:
        """Raises the same TrainingError on all ranks. With fp16 a gradient may overflow, which its loss scale mends."""
        half = self.job.scaling.deepspeed.precision == "fp16"
        if result.finite and (half or result.applied):
            return
        mine = [(int(batch.position[row]), int(batch.source[row]), int(batch.sequence[row])) for row in result.bad_rows]
        rows = sorted(row for rows in self.engine.gather(mine) for row in rows)
        what = "the loss" if rows else "the gradient"
        named = ", ".join(f"position {p} ({self.names[s]} sequence {q})" for p, s, q in rows[:5])
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        where = f" at {named}{more}" if rows else f" (norm {result.grad_norm}, losses finite)"
        raise TrainingError(
            f"stage {self.job.stage.name!r}, step {self.tally.step}: {what} is not finite{where}; learning rate "
            f"{result.learning_rate:.3g}. A lower learning_rate.peak, a longer warmup, a smaller gradient_clip or "
            "precision fp32 would help; where it is always the same sequence, look at that text"
        )

    def _count(self, batch: ingest.StepBatch, result: StepResult, sequences: list[int]) -> None:
        """Adds a step that was trained; `sequences` per source are of all workers."""
        tally, now = self.tally, time.monotonic()
        mine = order_checksum(batch.position, batch.source, batch.sequence, self.names)
        tally.checksum = (tally.checksum + mine) % 2**64
        tally.step += 1
        tally.sequences = _added(tally.sequences, sequences)
        tally.loss_tokens = _added(tally.loss_tokens, result.loss_tokens.tolist())
        if tally.step > self.job.stage.num_steps - -(-self.job.stage.num_steps // 10):
            tally.last_loss[0] += float(result.loss_sums.sum())
            tally.last_loss[1] += float(result.loss_tokens.sum())
        window = tally.window
        window["loss_sums"] = _added(window["loss_sums"], result.loss_sums.tolist())
        window["loss_tokens"] = _added(window["loss_tokens"], result.loss_tokens.tolist())
        window["sequences"] = _added(window["sequences"], sequences)
        if result.applied:  # else a half-precision gradient that overflowed
            window["grad_norm"] += result.grad_norm
            window["applied"] += 1
        window["wait_seconds"] += batch.wait_seconds
        window["seconds"] += now - self._step_ended
        tally.wall_seconds += now - self._step_ended
        self._step_ended = now
        every = max(1, self.job.stage.num_steps // _ROWS)
        if tally.step % every == 0 or tally.step == self.job.stage.num_steps:
            tally.rows.append(self._metrics_row(result.learning_rate))
            tally.window = _empty_window(len(self.names))

    def _metrics_row(self, learning_rate: float) -> dict[str, float]:
        """One row of metrics.parquet: means over the steps since the row before; losses in nats per counted token."""
        tally, window, length = self.tally, self.tally.window, self.job.stage.sequence_length
        tokens = sum(window["sequences"]) * length
        row: dict[str, float] = {
            "step": tally.step,
            "tokens": sum(tally.sequences) * length,
            "loss": _ratio(sum(window["loss_sums"]), sum(window["loss_tokens"])),
            "learning_rate": learning_rate,
            "grad_norm": _ratio(window["grad_norm"], window["applied"]),
            "tokens_per_second": _ratio(tokens, window["seconds"]),
            "data_wait_seconds": window["wait_seconds"],
            "data_wait_share": _ratio(window["wait_seconds"], window["seconds"]),
            "code_ratio_planned": self._code_ratio_planned(),
            "code_ratio_real": self._code_ratio(tally.sequences),
            "code_ratio_window": self._code_ratio(window["sequences"]),
        }
        for index, name in enumerate(self.names):
            row[f"loss/{name}"] = _ratio(window["loss_sums"][index], window["loss_tokens"][index])
            row[f"tokens/{name}"] = tally.sequences[index] * length
        return row

    def _code_ratio(self, sequences: list[int]) -> float:
        return _ratio(float(np.asarray(sequences)[self.is_code].sum()), float(sum(sequences)))

    def _code_ratio_planned(self) -> float:
        return float(self.plan.code_ratio(self.tally.step * self.job.stage.batch_sequences))

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
                loss=_ratio(float(result.loss_sums.sum()), float(result.loss_tokens.sum())),
            )
        )

    def _progress(self, note: str = "") -> Progress:
        return Progress(
            job=self.job.key,
            step=self.tally.step,
            num_steps=self.job.stage.num_steps,
            tokens=sum(self.tally.sequences) * self.job.stage.sequence_length,
            code_ratio_planned=self._code_ratio_planned(),
            code_ratio_real=self._code_ratio(self.tally.sequences),
            note=note,
        )

    def _say(self, note: str) -> None:
        if self.world.rank == 0:
            self._on_progress(self._progress(note))

    # ---- checkpoints

    def _save(self) -> None:
        folder = self.folder / _CHECKPOINTS
        self.engine.save(folder / _step_name(self.tally.step), asdict(self._whole_tally()))
        if self.world.rank == 0:
            for name in _complete_checkpoints(folder)[:-_KEPT]:
                folder.delete(name)

    def _whole_tally(self) -> Tally:
        """The tally with the checksum of all workers' rows."""
        return replace(self.tally, checksum=sum(self.engine.gather(self.tally.checksum)) % 2**64)

    def restore(self) -> None:
        """Continues from the newest checkpoint that is whole; from nothing when there is none."""
        folder = self.folder / _CHECKPOINTS
        names = self.engine.gather(_complete_checkpoints(folder) if self.world.rank == 0 else None)[0]
        for name in reversed(names):
            try:
                saved = self.engine.restore(folder / name)
            except DamagedCheckpoint as error:
                self._say(f"{error}; using the one before")
                continue
            self.tally = Tally(**saved)
            if self.world.rank != 0:
                self.tally.checksum = 0  # rank 0 carries on the sum of all
            self.tally.resumed_at.append(self.tally.step)
            self._tokens_reported = sum(self.tally.sequences) * self.job.stage.sequence_length
            self._say(f"continues from step {self.tally.step}")
            return
        if names:
            self._say("no checkpoint is usable; starts again from the beginning")

    # ---- the end

    def finish(self) -> StageRecord:
        """Leaves the stage's results in its folder, DONE last; the record, the same on all ranks."""
        tally = self._whole_tally()
        record = self.engine.gather(self._record(tally))[0]
        error: OSError | None = None
        try:
            self._export()
            if self.world.rank == 0:
                self.folder.write_table("ledger.parquet", ledger_table(record.ledger))
                self.folder.write_table("metrics.parquet", _metrics_table(tally.rows))
                self.folder.write_json("stage.json", {"job": as_json(self.job), "record": as_json(record)})
                self.folder.write_bytes(DONE, b"")
                self.folder.delete(_CHECKPOINTS)
        except OSError as caught:
            error = caught
        # No rank goes on to another job, or takes this one for done, before it is.
        problem = self.engine.gather(None if error is None else str(error))[0]
        if problem is not None:
            raise TrainingError(f"the results of stage {self.job.key} could not be written: {problem}") from error
        return record

    def _export(self) -> None:
        """Leaves `model/`, all of it at once on local storage."""
        if self.world.rank != 0:
            self.engine.export(None)
            return
        with tempfile.TemporaryDirectory(prefix=".model.", dir=self.folder.make().local) as temporary:
            directory = Path(temporary) / "model"
            directory.mkdir()
            self.engine.export(directory, Folder(self.job.tokenizer))
            self.folder.delete("model")  # of an attempt that ended between here and DONE
            if self.folder.local is not None:
                directory.rename(self.folder.local / "model")
            else:
                (self.folder / "model").upload(directory)

    def _record(self, tally: Tally) -> StageRecord:
        stage = self.job.stage
        planned = self.plan.counts(self.plan.num_sequences)
        ledger = tuple(
            LedgerRow(
                source=source.name,
                kind=source.kind,
                planned_tokens=int(planned[index]) * stage.sequence_length,
                tokens=tally.sequences[index] * stage.sequence_length,
                loss_tokens=tally.loss_tokens[index],
                sequences=tally.sequences[index],
                epochs=_ratio(source.start + tally.sequences[index], source.num_sequences, empty=0.0),
            )
            for index, source in enumerate(self.job.sources)
        )
        return StageRecord(
            identity=self.job.identity,
            name=stage.name,
            num_steps=tally.step,
            num_tokens=sum(row.tokens for row in ledger),
            final_loss=_ratio(*tally.last_loss),
            wall_seconds=tally.wall_seconds,
            device_seconds=tally.wall_seconds * self.world.world_size,
            order_checksum=f"{tally.checksum:016x}",
            resumed_at=tuple(tally.resumed_at),
            ledger=ledger,
        )


# ---------------------------------------------------------------------------------------------------- parts


def open_stores(job: StageJob) -> list[Any]:
    """The token stores of the job's sources, in their order."""
    from raycodellm.tokens import TokenStore

    return [TokenStore.open(Folder(source.store)) for source in job.sources]


def _check_context(job: StageJob, longest: int | None) -> None:
    if longest is not None and job.stage.sequence_length > longest:
        raise UserError(
            f"stages.{job.stage.name}.sequence_length: found {job.stage.sequence_length}, but the model takes at most "
            f"{longest} tokens; use {longest} or less, or a model with a longer context"
        )


def _added(old: list[Any], new: list[Any]) -> list[Any]:
    return [left + right for left, right in zip(old, new, strict=True)]


def _ratio(part: float, whole: float, empty: float = float("nan")) -> float:
    return float(part) / float(whole) if whole else empty


def _step_name(step: int) -> str:
    return f"step-{step:06d}"


def _complete_checkpoints(folder: Folder) -> list[str]:
    """Names, oldest first."""
    names = [name for name in folder.list() if name.startswith("step-") and (folder / name).exists(engines.COMPLETE)]
    return sorted(names, key=lambda name: int(name.removeprefix("step-")))


def ledger_table(ledger: tuple[LedgerRow, ...]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(row) for row in ledger])


_WHOLE_NUMBERS = ("step", "tokens")


def _metrics_table(rows: list[dict[str, float]]) -> pa.Table:
    import pyarrow as pa

    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    whole = {name for name in columns if name in _WHOLE_NUMBERS or name.startswith("tokens/")}
    return pa.table(
        {name: pa.array(values, pa.int64() if name in whole else pa.float64()) for name, values in columns.items()}
    )
