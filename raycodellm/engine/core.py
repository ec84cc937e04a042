"""A model under DeepSpeed: one pass, one optimizer step, and its float32 weights and moments whole and by name.

Every function here is a collective: all workers call it, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from raycodellm.config import Scaling, Stage
from raycodellm.engine.devices import on_device
from raycodellm.engine.loss import IGNORED, TrainedModel
from raycodellm.engine.settings import World, clips_in_optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingError(Exception):
    """Training cannot go on: a loss that is not finite or explodes, a checkpoint that could not be written."""


class StorageError(TrainingError):
    """A checkpoint or result could not be written: no fault of the stage, which continues once that is possible."""


class Core:
    """The part of the engine that knows DeepSpeed."""

    def __init__(self, model: nn.Module, stage: Stage, scaling: Scaling, world: World, num_micro_batches: int) -> None:
        self._hf, self._trained = model, TrainedModel(model)
        self._stage, self._scaling, self._world = stage, scaling, world
        self._num_micro_batches = num_micro_batches
        self._device = torch.device(world.device)
        self._clips_itself = clips_in_optimizer(stage, scaling)
        self._micro_steps_done = 0
        self._adam = _optimizer(self._trained, stage)
        if self._clips_itself:
            self._adam.register_step_pre_hook(self._clip)
        self._grad_norm: torch.Tensor | None = None
        """Without ZeRO: of the step that the optimizer is about to make."""
        self._masters: dict[nn.Parameter, nn.Parameter] = {}
        self._deepspeed: Any = None

    def _micro_step(self, part: Mapping[str, torch.Tensor], total: float | torch.Tensor) -> torch.Tensor:
        """Forward and backward; the float64 loss sum of each row. All but the last call only gather gradients.

        `total`: counted tokens of the whole step, on all workers; on the device where only the device knows it.
        """
        loss, per_row = self._forward(part)
        least = max(1.0, total) if isinstance(total, float) else total.clamp(min=1.0)
        self._deepspeed.backward(loss * (self._world.world_size / least), scale_wrt_gas=False)
        self._micro_steps_done += 1
        if self._micro_steps_done % self._num_micro_batches:
            self._deepspeed.step()
        return per_row

    def _forward(self, part: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss summed over counted tokens, and the float64 sum of each row."""
        tokens, labels = part["tokens"], part["labels"]
        rows = len(tokens)
        if rows == 0:  # fewer rows than the other workers: take part in their exchanges with a row that counts nothing
            tokens, labels = tokens.new_zeros(1, tokens.shape[1]), labels.new_full((1, tokens.shape[1]), IGNORED)
        loss, per_row = self._deepspeed(on_device(tokens, self._device), labels)
        return loss, per_row[:rows]

    def _apply(self, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The optimizer step. On the device, float64: the gradient's norm before clipping, and 1 if it was applied."""
        for group in self._adam.param_groups:
            group["lr"] = rate
        if self._scaling.deepspeed.zero == 0 and self._clips_itself:
            gradients = [p.grad for p in self._trained.parameters() if p.grad is not None]
            self._grad_norm = found = nn.utils.get_total_norm(gradients)
            self._deepspeed.step()
        else:
            self._deepspeed.step()
            found = self._deepspeed.get_global_grad_norm()
        norm = torch.as_tensor(found, dtype=torch.float64, device=self._device)
        norm = torch.where(norm < 0, torch.inf, norm)  # ZeRO says -1 for one that is not finite
        return norm, torch.isfinite(norm).double() * float(self._deepspeed.was_step_applied())

    def _clip(self, *_: Any) -> None:
        """Before the optimizer's own step: what its kernel divides the gradient by, and whether it changes nothing.

        The formula is torch's `clip_grad_norm_`. Both stay on the device, so the host need not wait for the norm.
        """
        if self._deepspeed is None:  # DeepSpeed may try the optimizer while it sets itself up
            return
        norm = self._grad_norm if self._scaling.deepspeed.zero == 0 else self._deepspeed.optimizer._global_grad_norm
        self._adam.grad_scale = ((norm + 1e-6) / self._stage.optimizer.gradient_clip).clamp(min=1.0).float()
        self._adam.found_inf = (~torch.isfinite(norm) | (norm < 0)).float()

    # ---- exchanges

    def _reduced(self, values: torch.Tensor) -> torch.Tensor:
        if self._world.world_size > 1:
            dist.all_reduce(values)
        return values

    def sum_over_workers(self, values: Sequence[float]) -> list[float]:
        if self._world.world_size == 1:
            return list(values)
        return self._reduced(self._on_device(values)).tolist()

    def _on_device(self, values: Sequence[float]) -> torch.Tensor:
        return on_device(torch.tensor(list(values), dtype=torch.float64), self._device)

    def gather(self, value: Any) -> list[Any]:
        """One picklable value per worker, in the order of ranks."""
        return gather(self._world, value)

    def _find_masters(self) -> dict[nn.Parameter, nn.Parameter]:
        """Without ZeRO: each parameter's float32 weight that the optimizer steps, in fp32 the parameter itself."""
        if self._scaling.deepspeed.zero > 0:
            return {}
        if self._stage.numerics.precision == "fp32":
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
        for state in self._adam.state.values():  # a step that nobody asked for
            state["step"].zero_()

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
        if self._stage.numerics.precision != "fp16":
            return None
        optimizer = self._deepspeed.optimizer
        return getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)


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
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": stage.optimizer.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,  # set at each step
        betas=stage.optimizer.betas,
        eps=stage.optimizer.epsilon,
        fused=True,
    )
