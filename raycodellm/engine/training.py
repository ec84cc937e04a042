"""The engine: a model in training under DeepSpeed, its checkpoints and its export."""

from __future__ import annotations

import contextlib
import gc
import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from raycodellm import model as models
from raycodellm.config import Scaling, Stage
from raycodellm.engine import checkpoints
from raycodellm.engine.checkpoints import COMPLETE, STATE, DamagedCheckpoint
from raycodellm.engine.loss import IGNORED, TrainedModel
from raycodellm.engine.settings import World, deepspeed_config, learning_rate_at
from raycodellm.files import Folder

_MOMENTS = ("exp_avg", "exp_avg_sq")
_LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


class TrainingError(Exception):
    """Training cannot go on: a loss or gradient that is not finite, or a checkpoint that could not be written."""


class Batch(Protocol):
    """This worker's rows of one step."""

    micro_batches: Sequence[Mapping[str, torch.Tensor]]
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
    """Sums over workers of what each gave to `train_step`."""


def init_process(world: World, num_threads: int = 1) -> None:
    """Makes this process ready to train; may be called before every stage.

    The process group is the one that is there (Ray Train's), else one made from the usual environment variables, else
    that of a single process. It stays for the next engine: DeepSpeed's groups do not survive a new one.
    """
    on_cpu = world.device_type == "cpu"
    os.environ["DS_ACCELERATOR"] = world.device_type
    os.environ.setdefault("LOCAL_RANK", str(world.rank))
    if world.device_type == "cuda":
        os.environ["LOCAL_RANK"] = str(
            torch.device(world.device).index or 0
        )  # DeepSpeed takes it for the device's number
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


class Engine:
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
    ) -> None:
        self._hf, self._trained = model, TrainedModel(model)
        self._stage, self._scaling, self._world, self._seed = stage, scaling, world, seed
        self._num_sources, self._num_micro_batches = num_sources, num_micro_batches
        self._device = torch.device(world.device)
        self._clips_itself = scaling.deepspeed.zero == 0 and scaling.deepspeed.precision == "fp32"
        self._micro_steps_done = 0
        self._trained.train()
        self._adam = _optimizer(self._trained, stage)
        self._deepspeed: Any = None

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
    ) -> Engine:
        """Takes the model over (it is trained in place) once `init_process` has run.

        `activation_checkpointing` among DeepSpeed's own settings turns on transformers' gradient checkpointing.
        """
        import deepspeed

        config = deepspeed_config(stage, scaling, world, num_micro_batches)
        if "activation_checkpointing" in config:
            model.activation_checkpointing_enable({"use_reentrant": False})
        engine = cls(model, stage, scaling, world, num_sources, num_micro_batches, seed)
        with contextlib.redirect_stdout(io.StringIO()):  # one of its optimizers prints the memory in use, nine times
            engine._deepspeed, *_ = deepspeed.initialize(
                model=engine._trained, optimizer=engine._adam, config=config, dist_init_required=False
            )
        engine._masters = engine._find_masters()
        # Without ZeRO in 16 bits DeepSpeed has made a step of zeros by now; its rate was 0, but Adam has counted it.
        for state in engine._adam.state.values():
            state["step"].zero_()
        return engine

    def train_step(self, batch: Batch, step: int, signals: Sequence[float] = ()) -> StepResult:
        """Trains on one batch. `signals` are summed over workers on the way, at no further cost."""
        # Dropout, where a model has any, must not depend on what ran before: a resumed run draws the same.
        torch.manual_seed(hash((self._seed, step, self._world.rank)) % 2**63)
        rate = learning_rate_at(self._stage.learning_rate, step, self._stage.num_steps)
        counted = [(part["labels"][:, 1:] != IGNORED).sum(dim=1) for part in batch.micro_batches]
        (total,) = self.sum_over_workers([float(sum(int(rows.sum()) for rows in counted))])
        row_losses = [self._micro_step(part, total) for part in batch.micro_batches]
        grad_norm, applied = self._apply(rate)
        losses = torch.cat(row_losses)
        source = torch.from_numpy(np.asarray(batch.source, dtype=np.int64)).to(self._device)
        tokens = torch.cat(counted).to(self._device, torch.float64)
        by_source = torch.zeros(2, self._num_sources, dtype=torch.float64, device=self._device)
        by_source[0].index_add_(0, source, losses)
        by_source[1].index_add_(0, source, tokens)
        bad = (~torch.isfinite(losses)).nonzero().squeeze(1)
        # One small exchange per step tells every worker the same thing, so all of them stop, save or fail together.
        tail = torch.tensor([float(len(bad)), *signals], dtype=torch.float64, device=self._device)
        told = self._reduced(torch.cat([by_source.reshape(-1), tail])).cpu().numpy()
        sums, counts, (num_bad, *summed) = np.split(told, [self._num_sources, 2 * self._num_sources])
        return StepResult(
            loss_sums=sums,
            loss_tokens=counts.astype(np.int64),
            learning_rate=rate,
            grad_norm=grad_norm,
            applied=applied,
            finite=bool(num_bad == 0),
            bad_rows=tuple(bad.tolist()),
            signals=tuple(float(value) for value in summed),
        )

    def _micro_step(self, part: Mapping[str, torch.Tensor], total: float) -> torch.Tensor:
        """Forward and backward; the float64 loss sum of each row. All but the last call only gather gradients."""
        tokens, labels = part["tokens"], part["labels"]
        rows = len(tokens)
        if rows == 0:  # fewer rows than the other workers: take part in their exchanges with a row that counts nothing
            tokens, labels = tokens.new_zeros(1, tokens.shape[1]), labels.new_full((1, tokens.shape[1]), IGNORED)
        loss, per_row = self._deepspeed(tokens.to(self._device), labels)
        self._deepspeed.backward(loss * (self._world.world_size / max(1.0, total)), scale_wrt_gas=False)
        self._micro_steps_done += 1
        if self._micro_steps_done % self._num_micro_batches:
            self._deepspeed.step()
        return per_row[:rows]

    def _apply(self, rate: float) -> tuple[float, bool]:
        """The optimizer step; the gradient's norm and whether it was applied."""
        for group in self._adam.param_groups:
            group["lr"] = rate
        if self._clips_itself:
            norm = nn.utils.clip_grad_norm_(self._trained.parameters(), self._stage.gradient_clip)
            if not math.isfinite(norm):
                return float(norm), False
            self._deepspeed.step()
            return float(norm), True
        self._deepspeed.step()
        norm = float(self._deepspeed.get_global_grad_norm())
        return norm, bool(self._deepspeed.was_step_applied()) and math.isfinite(norm)

    # ---- exchanges

    def _reduced(self, values: torch.Tensor) -> torch.Tensor:
        if self._world.world_size > 1:
            dist.all_reduce(values)
        return values

    def sum_over_workers(self, values: Sequence[float]) -> list[float]:
        if self._world.world_size == 1:
            return list(values)
        return self._reduced(torch.tensor(values, dtype=torch.float64, device=self._device)).tolist()

    def gather(self, value: Any) -> list[Any]:
        """One picklable value per worker, in the order of ranks."""
        return gather(self._world, value)

    # ---- state by parameter name

    def _find_masters(self) -> dict[nn.Parameter, nn.Parameter]:
        """Without ZeRO: each parameter's float32 weight that the optimizer steps, in fp32 the parameter itself."""
        if self._scaling.deepspeed.zero > 0:
            return {}
        if self._scaling.deepspeed.precision == "fp32":
            return {parameter: parameter for _, parameter in self._parameters()}
        optimizer = self._deepspeed.optimizer
        return {
            low: high
            for lows, highs in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
            for low, high in zip(lows, highs, strict=True)
        }

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names as the Hugging Face model has them; tied weights once."""
        for name, parameter in self._trained.named_parameters():
            yield name.removeprefix("model."), parameter

    def _full(self, parameter: nn.Parameter, moment: str | None = None) -> torch.Tensor:
        """The whole float32 weight or optimizer moment (a collective with ZeRO)."""
        if self._masters:
            master = self._masters[parameter]
            return (master if moment is None else self._adam.state[master][moment]).detach()
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if moment is None:
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, moment)

    @torch.no_grad()
    def _set_full(self, parameter: nn.Parameter, value: torch.Tensor, moment: str | None = None) -> None:
        value = value.to(self._device, torch.float32)
        if self._masters:
            master = self._masters[parameter]
            (master if moment is None else self._adam.state[master][moment]).copy_(value)
            if moment is None:
                parameter.copy_(value)
            return
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if moment is not None:
            safe_set_full_optimizer_state(parameter, value, moment)
            return
        safe_set_full_fp32_param(parameter, value)
        with GatheredParameters([parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")):
            parameter.copy_(value)

    def _make_moments(self) -> None:
        """Has the optimizer make its state: a step of rate 0 on a batch that counts nothing changes no weight."""
        length = self._stage.sequence_length
        empty = torch.zeros(0, length, dtype=torch.int64)
        nothing = {"tokens": empty, "labels": empty}
        for _ in range(self._num_micro_batches):
            self._micro_step(nothing, 1.0)
        self._apply(0.0)

    def _find_moments(self) -> None:
        """Makes the optimizer's state readable by parameter; has it made when there is none yet."""
        if not self._adam.state:
            self._make_moments()
        optimizer = self._deepspeed.optimizer
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
            # DeepSpeed links the state of all groups after the first group's first step, when the others have none.
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()

    def _loss_scale_holder(self) -> Any:
        if self._scaling.deepspeed.precision != "fp16":
            return None
        optimizer = self._deepspeed.optimizer
        return getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)

    # ---- checkpoints

    def save(self, folder: Folder, client_state: Mapping[str, Any]) -> None:
        """Writes a checkpoint into `folder`; it is complete, or it has no COMPLETE marker and `restore` refuses it.

        Each worker writes its share of the parameters. Raises TrainingError on all workers when one could not write;
        what was written before stays usable.
        """
        name = f"shard-{self._world.rank:05d}-of-{self._world.world_size:05d}.safetensors"
        tensors = self._shard()
        error: OSError | None = None
        written: dict[str, list[int]] = {}
        try:
            if self._world.rank == 0:
                folder.delete(COMPLETE)  # of a damaged checkpoint at the same step
                folder.write_json(STATE, {"engine": self._small_state(), "client": dict(client_state)})
                written[STATE] = checkpoints.size_and_checksum([folder.read_bytes(STATE)])
            written[name] = checkpoints.write_tensors(folder, name, tensors)
        except OSError as caught:
            error = caught
        told = self.gather((written, None if error is None else checkpoints.explain_write(folder, error)))
        failed = [message for _, message in told if message is not None]
        if failed:
            raise TrainingError(failed[0]) from error
        if self._world.rank == 0:
            folder.write_json(COMPLETE, {"files": {name: value for files, _ in told for name, value in files.items()}})

    def _small_state(self) -> dict[str, Any]:
        steps = [int(state["step"]) for state in self._adam.state.values() if "step" in state]
        holder = self._loss_scale_holder()
        scale = {name: float(getattr(holder, name)) for name in _LOSS_SCALE if hasattr(holder, name)}
        return {"optimizer_steps": max(steps, default=0), "loss_scale": scale}

    def _shard(self) -> dict[str, torch.Tensor]:
        """Weights and moments of the parameters that this worker writes, in host memory."""
        self._find_moments()
        mine: dict[str, torch.Tensor] = {}
        for number, (name, parameter) in enumerate(self._parameters()):
            for kind in ("weight", *_MOMENTS):
                value = self._full(parameter, None if kind == "weight" else kind)
                if number % self._world.world_size == self._world.rank:
                    mine[f"{kind}/{name}"] = value.detach().to("cpu", torch.float32, copy=True).contiguous()
        return mine

    def restore(self, folder: Folder) -> dict[str, Any]:
        """Continues from a checkpoint, whatever number of workers wrote it; returns its client state.

        Raises DamagedCheckpoint on all workers alike, before anything is changed.
        """
        problem = checkpoints.damage(folder) if self._world.rank == 0 else None
        problem = self.gather(problem)[0]
        if problem is not None:
            raise DamagedCheckpoint(f"checkpoint {folder}: {problem}")
        saved = folder.read_json(STATE)
        with checkpoints.opened_tensors(folder) as tensors:
            self._check_names(tensors, folder)
            self._find_moments()
            for name, parameter in self._parameters():
                for kind in ("weight", *_MOMENTS):
                    value = tensors[f"{kind}/{name}"].get_tensor(f"{kind}/{name}")
                    self._set_full(parameter, value, None if kind == "weight" else kind)
        for state in self._adam.state.values():
            state["step"].fill_(saved["engine"]["optimizer_steps"])
        holder = self._loss_scale_holder()
        for name, value in saved["engine"]["loss_scale"].items():
            setattr(holder, name, type(getattr(holder, name))(value))
        return saved["client"]

    def _check_names(self, tensors: Mapping[str, Any], folder: Folder) -> None:
        missing = [name for name, _ in self._parameters() if f"weight/{name}" not in tensors]
        if missing:
            raise TrainingError(f"checkpoint {folder} is of another model: it has no parameter {missing[0]!r}")

    # ---- the finished model

    def export(self, directory: Path | None, tokenizer: Folder | None = None) -> None:
        """Rank 0 writes a Hugging Face model folder: float32 weights, configuration, the tokenizer's files.

        The weights are the optimizer's, also when trained in 16 bits: the next stage starts from exactly what this
        one reached. Raises OSError when they cannot be written.
        """
        weights: dict[str, torch.Tensor] = {}
        for name, parameter in self._parameters():
            value = self._full(parameter)
            if self._world.rank == 0:
                weights[name] = value.detach().to("cpu", torch.float32, copy=True).contiguous()
        if self._world.rank != 0 or directory is None:
            return
        for name, buffer in self._hf.state_dict().items():
            if name not in weights and not isinstance(_attribute(self._hf, name), nn.Parameter):
                weights[name] = buffer.detach().cpu()
        models.quiet_transformers()
        with checkpoints.as_os_error(directory):
            self._hf.save_pretrained(directory, state_dict=weights)
        for path in directory.glob("*.safetensors"):
            path.chmod(0o644)
        self._hf.config.dtype = "float32"  # transformers has written the dtype that was trained in
        self._hf.config.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.download(directory)

    def close(self) -> None:
        """Frees the model; the process group lives on for the next engine."""
        from deepspeed.runtime.zero import parameter_offload

        self._deepspeed.destroy()
        parameter_offload.FWD_MODULE_STACK.clear()  # ZeRO 3 leaves the model in this list of its module
        self._masters = {}
        del self._deepspeed, self._trained, self._hf, self._adam
        gc.collect()  # DeepSpeed's hooks and the parameters point at each other
        if self._world.device_type == "cuda":
            torch.cuda.empty_cache()


def gather(world: World, value: Any) -> list[Any]:
    """One picklable value per worker, in the order of ranks."""
    if world.world_size == 1:
        return [value]
    told: list[Any] = [None] * world.world_size
    dist.all_gather_object(told, value)
    return told


def _optimizer(model: nn.Module, stage: Stage) -> torch.optim.AdamW:
    """torch's own fused AdamW: nothing to compile on a CPU or GPU. Weights decay; norms and biases do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": stage.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,  # set at each step
        betas=stage.adam_betas,
        eps=stage.adam_epsilon,
        fused=True,
    )


def _attribute(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
