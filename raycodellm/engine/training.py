"""The engine: a model in training under DeepSpeed."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from raycodellm.config import Scaling, Stage
from raycodellm.engine import devices
from raycodellm.engine.core import gather
from raycodellm.engine.devices import on_device
from raycodellm.engine.loss import IGNORED
from raycodellm.engine.saving import Saving
from raycodellm.engine.settings import World, check_execution, deepspeed_config
from raycodellm.learning_rate import learning_rate_at

__all__ = ["Batch", "Engine", "StepResult", "gather", "init_process"]


class Batch(Protocol):
    """This worker's rows of one step."""

    micro_batches: Sequence[dict[str, torch.Tensor]]
    """tokens and labels, int64[rows, length]; a label of -100 does not count. May have no rows."""
    source: np.ndarray
    """int16[all rows], in the order of the micro batches."""


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, summed over all workers."""

    loss_sums: np.ndarray
    """float64[sources], nats."""
    loss_tokens: np.ndarray
    """int64[sources]: tokens that counted in the loss."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    applied: bool
    """False when the loss or gradient was not finite; with fp16 a gradient may overflow now and then."""
    finite: bool
    """Whether every loss was finite."""
    bad_rows: tuple[int, ...]
    """Of this worker's rows, those whose loss was not finite."""
    signals: tuple[float, ...]
    """Sums over workers of what each gave to `begin_step`."""


class PendingStep:
    """A step that was given to the device. `result` waits for its numbers."""

    def __init__(self, told: torch.Tensor, num_sources: int, num_signals: int, learning_rate: float) -> None:
        self._num_sources, self._num_signals, self._learning_rate = num_sources, num_signals, learning_rate
        self._told, self._wait = _begin_reading(told)

    def result(self) -> StepResult:
        self._wait()
        told, ends = self._told.numpy(), np.cumsum([self._num_sources, self._num_sources, 1, self._num_signals, 1, 1])
        sums, counts, (num_bad,), signals, (norm,), (applied,), losses = np.split(told, ends)
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
    """The values in host memory, once what comes with them has been called."""
    if not values.is_cuda:
        return values, lambda: None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return host, copied.synchronize


def _counted(batch: Batch) -> np.ndarray:
    """int64[rows]: tokens of each row that count in the loss."""
    parts = [(part["labels"][:, 1:] != IGNORED).sum(dim=1) for part in batch.micro_batches]
    return torch.cat(parts).numpy()


def init_process(world: World, num_threads: int = 1) -> None:
    """Makes this process ready to train; may be called before every stage.

    The process group is the one that is there (Ray Train's), else one made from the usual environment variables, else
    that of a single process. It stays for the next engine: DeepSpeed's groups do not survive a new one.
    """
    on_cpu = world.device_type == "cpu"
    os.environ["DS_ACCELERATOR"] = world.device_type
    os.environ.setdefault("LOCAL_RANK", str(world.rank))
    if world.device_type == "cuda":
        # Read when a process first multiplies on a GPU, which may be before a stage that asks for determinism.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # DeepSpeed takes it for the device's number.
        os.environ["LOCAL_RANK"] = str(torch.device(world.device).index or 0)
        torch.cuda.set_device(world.device)
    else:
        torch.set_num_threads(max(1, num_threads))  # part of what makes results bitwise equal, so it is never guessed
    # DeepSpeed calls names that torch has renamed, and would be told so at every exchange.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")
    import deepspeed
    import deepspeed.ops

    if on_cpu:
        # Otherwise DeepSpeed compiles a shared-memory collective at start-up: 20 s, and it needs a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo" if on_cpu else "nccl"
    if not dist.is_initialized():
        if world.world_size == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend, rank=world.rank, world_size=world.world_size)
    if (dist.get_rank(), dist.get_world_size()) != (world.rank, world.world_size):
        raise RuntimeError(
            f"this process is {dist.get_rank()} of {dist.get_world_size()} in its process group, "
            f"but was asked to train as {world.rank} of {world.world_size}"
        )
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


class Engine(Saving):
    """A model in training. Every method is a collective: all workers call it, in the same order."""

    def __init__(
        self,
        model: nn.Module,
        stage: Stage,
        scaling: Scaling,
        world: World,
        num_sources: int,
        num_micro_batches: int,
        seed: int,
        start_rate: float | None = None,
    ) -> None:
        super().__init__(model, stage, scaling, world, num_micro_batches)
        self._num_sources, self._seed, self._start_rate = num_sources, seed, start_rate

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
    ) -> Engine:
        """Takes the model over (it is trained in place) once `init_process` has run.

        `start_rate`: learning rate that the parent stage ended with, where this one goes on from it. Raises UserError
        for settings that this machine or DeepSpeed cannot do.
        """
        import deepspeed

        check_execution(stage, scaling, world)
        config = deepspeed_config(stage, scaling, world, num_micro_batches)
        if scaling.deepspeed.activation_checkpointing or "activation_checkpointing" in config:
            model.activation_checkpointing_enable({"use_reentrant": False})
        devices.set_deterministic(scaling.deepspeed.deterministic)
        engine = cls(model, stage, scaling, world, num_sources, num_micro_batches, seed, start_rate)
        engine._trained.train()
        with contextlib.redirect_stdout(io.StringIO()):  # one of its optimizers prints the memory in use, nine times
            engine._deepspeed, *_ = deepspeed.initialize(
                model=engine._trained, optimizer=engine._adam, config=config, dist_init_required=False
            )
        engine._masters = engine._find_masters()
        # Without ZeRO in 16 bits DeepSpeed has made a step of zeros by now; its rate was 0, but Adam has counted it.
        for state in engine._adam.state.values():
            state["step"].zero_()
        if scaling.deepspeed.compile:
            engine._trained.compile(_blocks(model))
        return engine

    def train_step(self, batch: Batch, step: int, signals: Sequence[float] = ()) -> StepResult:
        """Trains on one batch and waits for it; see `begin_step`."""
        return self.begin_step(batch, step, signals).result()

    def begin_step(self, batch: Batch, step: int, signals: Sequence[float] = ()) -> PendingStep:
        """Trains on one batch. `signals` are summed over workers on the way, at no further cost.

        A step whose loss or gradient is not finite changes neither weights nor moments, and is not `applied`. A GPU may
        still be at work when this returns, so that the host can begin the next step meanwhile; only DeepSpeed's
        optimizer may have waited for the gradient's norm (ZeRO 1 in bf16, any ZeRO in fp32 and fp16, ZeRO 3).
        """
        # Dropout, where a model has any, must not depend on what ran before: a resumed run draws the same.
        torch.manual_seed(hash((self._seed, step, self._world.rank)) % 2**63)
        rate = learning_rate_at(self._stage.learning_rate, step, self._stage.num_steps, self._start_rate)
        counted = _counted(batch)
        total: float | torch.Tensor = float(counted.sum())
        if self._world.world_size > 1:
            total = self._reduced(self._on_device([total]))[0]
        with devices.explained_out_of_memory(self._world, len(batch.micro_batches[0]["tokens"])):
            losses = torch.cat([self._micro_step(part, total) for part in batch.micro_batches])
            norm, applied = self._apply(rate)
        # One small exchange per step tells every worker the same thing, so all of them stop, save or fail together.
        num_bad = (~torch.isfinite(losses)).sum().double()
        told = self._summed(batch, losses, counted, num_bad, signals)
        return PendingStep(torch.cat([told, norm[None], applied[None], losses]), self._num_sources, len(signals), rate)

    def try_rows(self, rows: int) -> None:
        """Trains on made-up tokens, at a rate of 0, to see whether so many sequences fit. Raises OutOfMemory."""
        tokens = torch.zeros(rows, self._stage.sequence_length, dtype=torch.int64)
        with devices.explained_out_of_memory(self._world, rows):
            self._micro_step({"tokens": tokens, "labels": tokens}, float(tokens.numel() * self._world.world_size))
            self._apply(0.0)

    def evaluate(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Summed loss (float64, nats) and counted tokens (int64) per source, of all workers; changes nothing."""
        self._deepspeed.eval()
        with torch.no_grad():
            losses = torch.cat([self._forward(part)[1] for part in batch.micro_batches])
        self._deepspeed.train()
        told = self._summed(batch, losses, _counted(batch), losses.new_zeros(()), []).cpu().numpy()
        sums, counts, _ = np.split(told, [self._num_sources, 2 * self._num_sources])
        return sums, counts.astype(np.int64)

    def _summed(
        self, batch: Batch, losses: torch.Tensor, counted: np.ndarray, num_bad: torch.Tensor, signals: Sequence[float]
    ) -> torch.Tensor:
        """Sums over all workers, float64 on the device: loss and counted tokens per source, `num_bad`, the signals."""
        source = np.asarray(batch.source, dtype=np.int64)
        sums = torch.zeros(self._num_sources, dtype=torch.float64, device=self._device)
        sums.index_add_(0, on_device(torch.from_numpy(source), self._device), losses)
        counts = np.bincount(source, weights=counted, minlength=self._num_sources)
        known = self._on_device([*counts, *signals])
        return self._reduced(torch.cat([sums, known[: len(counts)], num_bad[None], known[len(counts) :]]))

    def close(self) -> None:
        """Frees the model; the process group lives on for the next engine."""
        from deepspeed.runtime.zero import parameter_offload

        self._drop_write()
        self._deepspeed.destroy()
        parameter_offload.FWD_MODULE_STACK.clear()  # ZeRO 3 leaves the model in this list of its module
        self._masters, self._average = {}, {}
        del self._deepspeed, self._trained, self._hf, self._adam
        gc.collect()  # DeepSpeed's hooks and the parameters point at each other
        if self._world.device_type == "cuda":
            torch.cuda.empty_cache()


def _blocks(model: Any) -> list[nn.Module]:
    """The model's repeated blocks."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names] or [model.base_model]
