"""The engine: trains a model step by step under DeepSpeed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from raycodellm.config import Scaling, Stage
from raycodellm.engine import devices, export
from raycodellm.engine.adapter import DeepSpeedAdapter
from raycodellm.engine.average import WeightAverage
from raycodellm.engine.checkpoints import CheckpointWriter
from raycodellm.engine.deepspeed_settings import require_execution
from raycodellm.engine.devices import on_device
from raycodellm.engine.loss import IGNORED
from raycodellm.engine.world import World, sum_over_workers
from raycodellm.files import Folder
from raycodellm.learning_rate import learning_rate_at


class TrainingBatch(Protocol):
    """This worker's rows of one step."""

    @property
    def micro_batches(self) -> Sequence[dict[str, torch.Tensor]]:
        """`tokens` and `labels`, int64[rows, length]; a label of -100 does not count. May have no rows."""

    @property
    def source(self) -> np.ndarray:
        """int16[all rows]: index of each row's source, in the order of the micro batches."""


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, summed over all workers."""

    loss_sums: np.ndarray
    """float64[sources], nats."""
    loss_tokens: np.ndarray
    """int64[sources]: tokens that counted in the loss."""
    learning_rate: float
    grad_norm: float
    """The gradient's norm before clipping."""
    applied: bool
    """False when the loss or gradient was not finite; with fp16 a gradient may overflow now and then."""
    finite: bool
    """True if every loss was finite."""
    bad_rows: tuple[int, ...]
    """This worker's rows whose loss was not finite."""
    signals: tuple[float, ...]
    """The sum over workers of each signal given to `begin_step`."""


class PendingStep:
    """A step that was given to the device; `result` waits for its numbers."""

    def __init__(self, numbers: torch.Tensor, num_sources: int, num_signals: int, learning_rate: float) -> None:
        self._num_sources, self._num_signals, self._learning_rate = num_sources, num_signals, learning_rate
        self._numbers, self._wait = _begin_reading(numbers)

    def result(self) -> StepResult:
        self._wait()
        ends = np.cumsum([self._num_sources, self._num_sources, 1, self._num_signals, 1, 1])
        parts = np.split(self._numbers.numpy(), ends)
        sums, counts, (num_bad,), signals, (norm,), (applied,), losses = parts
        return StepResult(
            loss_sums=sums,
            loss_tokens=counts.astype(np.int64),
            learning_rate=self._learning_rate,
            grad_norm=float(norm),
            applied=bool(applied),
            finite=bool(num_bad == 0),
            bad_rows=tuple(np.flatnonzero(~np.isfinite(losses)).tolist()),
            signals=tuple(signals.tolist()),
        )


def _begin_reading(values: torch.Tensor) -> tuple[torch.Tensor, Callable[[], None]]:
    """A tensor in host memory and a function to call before reading it, which waits for the copy."""
    if not values.is_cuda:
        return values, lambda: None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    copy_done = torch.cuda.Event()
    copy_done.record()
    return host, copy_done.synchronize


def _counted_tokens(batch: TrainingBatch) -> np.ndarray:
    """int64[rows]: tokens of each row that count in the loss."""
    counts = [(micro_batch["labels"][:, 1:] != IGNORED).sum(dim=1) for micro_batch in batch.micro_batches]
    return torch.cat(counts).numpy()


class Engine:
    """A model in training. Every method is a collective: all workers call it, in the same order.

    `adapter` holds the model under DeepSpeed, `average` the mean of some steps' weights, `checkpoints` the state on
    disk.
    """

    def __init__(
        self,
        adapter: DeepSpeedAdapter,
        stage: Stage,
        world: World,
        num_sources: int,
        seed: int,
        start_rate: float | None,
    ) -> None:
        self.adapter = adapter
        self.average = WeightAverage(adapter, world)
        self.checkpoints = CheckpointWriter(adapter, self.average, world)
        self._stage, self._world, self._num_sources = stage, world, num_sources
        self._seed, self._start_rate = seed, start_rate

    @classmethod
    def create(
        cls,
        model: nn.Module,
        stage: Stage,
        scaling: Scaling,
        world: World,
        *,
        num_sources: int,
        num_micro_batches: int,
        seed: int,
        start_rate: float | None = None,
        rate_factors: Mapping[str, float] | None = None,
    ) -> Engine:
        """Takes the model over (it is trained in place); call `init_process` first.

        `num_micro_batches`: forward passes per step and worker. `start_rate`: the learning rate that the parent stage
        ended with, where this stage goes on from it. `rate_factors`: factor of the learning rate by the name of a
        weight's layer, 1 for the others. Raises UserError for settings that this machine or DeepSpeed cannot do.
        """
        require_execution(stage, scaling, world)
        adapter = DeepSpeedAdapter(model, stage, scaling, world, num_micro_batches, rate_factors or {})
        return cls(adapter, stage, world, num_sources, seed, start_rate)

    def train_step(self, batch: TrainingBatch, step: int, signals: Sequence[float] = ()) -> StepResult:
        """Trains on one batch and waits for its numbers; see `begin_step`."""
        return self.begin_step(batch, step, signals).result()

    def begin_step(self, batch: TrainingBatch, step: int, signals: Sequence[float] = ()) -> PendingStep:
        """Trains on one batch. `signals` are summed over workers in the step's own exchange, at no further cost.

        A step whose loss or gradient is not finite changes neither weights nor moments, and is not `applied`. A GPU may
        still be at work when this returns, so that the host can begin the next step meanwhile; only DeepSpeed's
        optimizer may have waited for the gradient's norm (ZeRO 1 in bf16, any ZeRO in fp32 and fp16, ZeRO 3).
        """
        # Dropout, where a model has any, must not depend on what ran before: a resumed run draws the same.
        torch.manual_seed(hash((self._seed, step, self._world.rank)) % 2**63)
        learning_rate = learning_rate_at(self._stage.learning_rate, step, self._stage.num_steps, self._start_rate)
        counted_tokens = _counted_tokens(batch)
        step_tokens: float | torch.Tensor = float(counted_tokens.sum())
        if self._world.world_size > 1:
            step_tokens = sum_over_workers(self._world, self._on_device([float(counted_tokens.sum())]))[0]
        with devices.explained_out_of_memory(self._world, len(batch.micro_batches[0]["tokens"])):
            passes = (self.adapter.forward_and_backward(rows, step_tokens) for rows in batch.micro_batches)
            losses = torch.cat(list(passes))
            norm, applied = self.adapter.apply(learning_rate)
        # One small exchange per step gives all workers the same numbers, so that all stop, save or fail together.
        num_bad = (~torch.isfinite(losses)).sum().double()
        totals = self._totals(batch, losses, counted_tokens, num_bad, signals)
        numbers = torch.cat([totals, norm[None], applied[None], losses])
        return PendingStep(numbers, self._num_sources, len(signals), learning_rate)

    def _totals(
        self,
        batch: TrainingBatch,
        losses: torch.Tensor,
        counted_tokens: np.ndarray,
        num_bad: torch.Tensor,
        signals: Sequence[float],
    ) -> torch.Tensor:
        """Sums over all workers, float64 on the device: loss and counted tokens per source, `num_bad`, the signals."""
        source = np.asarray(batch.source, dtype=np.int64)
        sums = torch.zeros(self._num_sources, dtype=torch.float64, device=self.adapter.device)
        sums.index_add_(0, on_device(torch.from_numpy(source), self.adapter.device), losses)
        counts = np.bincount(source, weights=counted_tokens, minlength=self._num_sources)
        host_values = self._on_device([*counts, *signals])
        own_totals = torch.cat([sums, host_values[: len(counts)], num_bad[None], host_values[len(counts) :]])
        return sum_over_workers(self._world, own_totals)

    def evaluate(self, batch: TrainingBatch) -> tuple[np.ndarray, np.ndarray]:
        """Summed loss (float64, nats) and counted tokens (int64) per source, of all workers; changes nothing."""
        with self.adapter.evaluating():
            losses = torch.cat([self.adapter.forward(micro_batch)[1] for micro_batch in batch.micro_batches])
        totals = self._totals(batch, losses, _counted_tokens(batch), losses.new_zeros(()), []).cpu().numpy()
        sums, counts, _ = np.split(totals, [self._num_sources, 2 * self._num_sources])
        return sums, counts.astype(np.int64)

    def try_rows(self, rows: int) -> None:
        """Makes a step of rate 0 on `rows` made-up sequences. Raises OutOfMemory when they do not fit."""
        tokens = torch.zeros(rows, self._stage.sequence_length, dtype=torch.int64)
        with devices.explained_out_of_memory(self._world, rows):
            step_tokens = float(tokens.numel() * self._world.world_size)
            self.adapter.forward_and_backward({"tokens": tokens, "labels": tokens}, step_tokens)
            self.adapter.apply(0.0)

    def sum_over_workers(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all workers."""
        if self._world.world_size == 1:
            return list(values)
        return sum_over_workers(self._world, self._on_device(values)).tolist()

    def _on_device(self, values: Sequence[float]) -> torch.Tensor:
        return on_device(torch.tensor(list(values), dtype=torch.float64), self.adapter.device)

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """On rank 0, the weights for `export`; a collective to call before anything that rank 0 alone does."""
        return export.whole_weights(self.adapter, self.average, self._world)

    def export(self, directory: Path, weights: dict[str, torch.Tensor], tokenizer: Folder | None = None) -> None:
        """Writes a Hugging Face model folder, on rank 0 alone; raises OSError when a file cannot be written."""
        export.export_model(self.adapter.hf_model, directory, weights, tokenizer)

    def close(self) -> None:
        """Frees the model; the process group lives on for the next engine."""
        self.checkpoints.abandon()
        self.adapter.close()
        self.average.restore(0, {})
        gc.collect()  # DeepSpeed's hooks and the parameters point at each other
        if self._world.device_type == "cuda":
            torch.cuda.empty_cache()
