"""A model under DeepSpeed: one pass, one optimizer step, and whole float32 weights and moments by parameter name.

This is the only file that knows DeepSpeed's optimizers from inside. Every method is a collective: all workers call it,
in the same order.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from raycodellm.config import Scaling, Stage
from raycodellm.engine import devices
from raycodellm.engine.deepspeed_settings import clips_in_optimizer, deepspeed_config
from raycodellm.engine.devices import on_device
from raycodellm.engine.loss import IGNORED, TrainedModel
from raycodellm.engine.optimizer import make_optimizer, set_learning_rate
from raycodellm.engine.world import World

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""The names of Adam's two moments."""
_LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


class DeepSpeedAdapter:
    """A Hugging Face model, its fused AdamW and DeepSpeed's engine around both."""

    def __init__(
        self,
        model: nn.Module,
        stage: Stage,
        scaling: Scaling,
        world: World,
        num_micro_batches: int,
        rate_factors: Mapping[str, float],
    ) -> None:
        """Takes the model over: it is trained in place. `rate_factors`: see `make_optimizer`. Raises UserError for
        settings that contradict each other."""
        config = deepspeed_config(stage, scaling, world, num_micro_batches)
        self.hf_model: Any = model
        if scaling.deepspeed.activation_checkpointing or "activation_checkpointing" in config:
            self.hf_model.activation_checkpointing_enable({"use_reentrant": False})
        devices.set_deterministic(scaling.deepspeed.deterministic)
        self.trained = TrainedModel(model)
        self.device = torch.device(world.device)
        self._stage, self._zero, self._world = stage, scaling.deepspeed.zero, world
        self._num_micro_batches = num_micro_batches
        self._micro_steps_done = 0
        self._optimizer = make_optimizer(self.trained, stage, rate_factors)
        self._clips_in_optimizer = clips_in_optimizer(stage, scaling)
        if self._clips_in_optimizer:
            self._optimizer.register_step_pre_hook(self._clip)
        self._grad_norm: torch.Tensor | None = None
        """Without ZeRO: the gradient norm of the step that the optimizer is about to make."""
        self._deepspeed: Any = None
        self._initialize(config)
        self._masters = self._find_masters()
        if scaling.deepspeed.compile:
            self.trained.compile(_repeated_blocks(self.hf_model))

    def _initialize(self, config: dict[str, Any]) -> None:
        import deepspeed

        self.trained.train()
        silent = contextlib.redirect_stdout(io.StringIO())  # one of its optimizers prints the memory in use, nine times
        with silent, _compiler_not_imported():
            self._deepspeed, *_ = deepspeed.initialize(
                model=self.trained, optimizer=self._optimizer, config=config, dist_init_required=False
            )
        # Without ZeRO in 16 bits DeepSpeed has already made a step of zeros; its rate was 0, but Adam counted it.
        for state in self._optimizer.state.values():
            state["step"].zero_()

    # ---- a step

    def forward(self, micro_batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss summed over counted tokens, in nats, and the float64 sum of each row."""
        tokens, labels = micro_batch["tokens"], micro_batch["labels"]
        rows = len(tokens)
        if rows == 0:  # fewer rows than the other workers: joins their exchanges with a row that counts nothing
            tokens, labels = tokens.new_zeros(1, tokens.shape[1]), labels.new_full((1, tokens.shape[1]), IGNORED)
        loss, per_row = self._deepspeed(on_device(tokens, self.device), labels)
        return loss, per_row[:rows]

    def forward_and_backward(
        self, micro_batch: Mapping[str, torch.Tensor], step_tokens: float | torch.Tensor
    ) -> torch.Tensor:
        """Adds a micro batch's gradient; returns the float64 loss sum of each of its rows, in nats.

        `step_tokens`: tokens that count in the loss, of the whole step and all workers; a tensor on the device where
        only the device knows the sum.
        """
        loss, per_row = self.forward(micro_batch)
        divisor = max(1.0, step_tokens) if isinstance(step_tokens, float) else step_tokens.clamp(min=1.0)
        self._deepspeed.backward(loss * (self._world.world_size / divisor), scale_wrt_gas=False)
        self._micro_steps_done += 1
        if self._micro_steps_done % self._num_micro_batches:
            self._deepspeed.step()  # only gathers gradients; the last micro batch's step is made by `apply`
        return per_row

    def apply(self, learning_rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes the optimizer step.

        Returns, on the device and in float64, the gradient's norm before clipping, and 1 if the step was applied.
        """
        set_learning_rate(self._optimizer, learning_rate)
        if self._zero == 0 and self._clips_in_optimizer:
            gradients = [parameter.grad for parameter in self.trained.parameters() if parameter.grad is not None]
            self._grad_norm = total_norm = nn.utils.get_total_norm(gradients)
            self._deepspeed.step()
        else:
            self._deepspeed.step()
            total_norm = self._deepspeed.get_global_grad_norm()
        norm = torch.as_tensor(total_norm, dtype=torch.float64, device=self.device)
        norm = torch.where(norm < 0, torch.inf, norm)  # ZeRO gives -1 for a norm that is not finite
        return norm, torch.isfinite(norm).double() * float(self._deepspeed.was_step_applied())

    def _clip(self, *_: Any) -> None:
        """Tells the fused optimizer, before its step, the divisor of the gradient and whether to change nothing.

        The formula is torch's `clip_grad_norm_`. Both values stay on the device: the host does not wait for the norm.
        """
        if self._deepspeed is None:  # DeepSpeed may try the optimizer while it sets itself up
            return
        norm: Any = self._grad_norm if self._zero == 0 else self._deepspeed.optimizer._global_grad_norm
        optimizer: Any = self._optimizer
        optimizer.grad_scale = ((norm + 1e-6) / self._stage.optimizer.gradient_clip).clamp(min=1.0).float()
        optimizer.found_inf = (~torch.isfinite(norm) | (norm < 0)).float()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Forward passes inside change nothing, keep nothing for a backward pass, and have no dropout."""
        self._deepspeed.eval()
        with torch.no_grad():
            yield
        self._deepspeed.train()

    # ---- weights and moments

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter with its name in the Hugging Face model; tied parameters once."""
        for name, parameter in self.trained.named_parameters():
            yield name.removeprefix("model."), parameter

    def get_whole(self, parameter: nn.Parameter, kind: str = WEIGHT) -> torch.Tensor:
        """The whole float32 weight, or the moment named by `kind`; call `prepare_moments` before reading moments."""
        if self._masters:
            master = self._masters[parameter]
            return (master if kind == WEIGHT else self._optimizer.state[master][kind]).detach()
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if kind == WEIGHT:
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, kind)

    @torch.no_grad()
    def set_whole(self, parameter: nn.Parameter, value: torch.Tensor, kind: str = WEIGHT) -> None:
        """Replaces the whole weight, or the moment named by `kind`."""
        value = value.to(self.device, torch.float32)
        if self._masters:
            master = self._masters[parameter]
            (master if kind == WEIGHT else self._optimizer.state[master][kind]).copy_(value)
            if kind == WEIGHT:
                parameter.copy_(value)
            return
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if kind != WEIGHT:
            safe_set_full_optimizer_state(parameter, value, kind)
            return
        safe_set_full_fp32_param(parameter, value)
        with GatheredParameters([parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")):
            parameter.copy_(value)

    def _find_masters(self) -> dict[nn.Parameter, nn.Parameter]:
        """Without ZeRO: each parameter's float32 weight that the optimizer steps; in fp32 the parameter itself."""
        if self._zero > 0:
            return {}
        if self._stage.numerics.precision == "fp32":
            return {parameter: parameter for _, parameter in self.parameters()}
        optimizer = self._deepspeed.optimizer
        return {
            low: high
            for lows, highs in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
            for low, high in zip(lows, highs, strict=True)
        }

    def prepare_moments(self) -> None:
        """Makes Adam's moments readable by parameter; creates them when no step has been made yet."""
        if not self._optimizer.state:
            self._create_moments()
        optimizer = self._deepspeed.optimizer
        if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
            # DeepSpeed links the state of all groups after the first group's first step, when the others have none.
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()

    def _create_moments(self) -> None:
        """Makes a step of rate 0 on a batch that counts nothing: no weight changes, and Adam creates its state."""
        empty = torch.zeros(0, self._stage.sequence_length, dtype=torch.int64)
        for _ in range(self._num_micro_batches):
            self.forward_and_backward({"tokens": empty, "labels": empty}, 1.0)
        self.apply(0.0)
        for state in self._optimizer.state.values():  # Adam must not count this step
            state["step"].zero_()

    # ---- counters that a checkpoint holds

    def counters(self) -> dict[str, Any]:
        """Adam's number of steps and fp16's loss scale, as plain numbers."""
        steps = [int(state["step"]) for state in self._optimizer.state.values() if "step" in state]
        holder = self._loss_scale_holder()
        scale = {name: float(getattr(holder, name)) for name in _LOSS_SCALE if hasattr(holder, name)}
        return {"optimizer_steps": max(steps, default=0), "loss_scale": scale}

    def set_optimizer_steps(self, num_steps: int) -> None:
        for state in self._optimizer.state.values():
            state["step"].fill_(num_steps)

    def set_loss_scale(self, loss_scale: Mapping[str, float]) -> None:
        """Takes `loss_scale` of `counters`."""
        holder = self._loss_scale_holder()
        for name, value in loss_scale.items():
            setattr(holder, name, type(getattr(holder, name))(value))

    def _loss_scale_holder(self) -> Any:
        if self._stage.numerics.precision != "fp16":
            return None
        optimizer = self._deepspeed.optimizer
        return getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)

    def close(self) -> None:
        """Lets go of the model."""
        from deepspeed.runtime.zero import parameter_offload

        self._deepspeed.destroy()
        parameter_offload.FWD_MODULE_STACK.clear()  # ZeRO 3 leaves the model in this list of its module
        self._masters = {}
        del self._deepspeed, self.trained, self.hf_model, self._optimizer


@contextlib.contextmanager
def _compiler_not_imported() -> Iterator[None]:
    """Turns `torch.compile` off: DeepSpeed compiles the functions of another optimizer, which no stage uses, when it
    looks at ours. The import of the compiler that this takes is a third of what the first engine of a process costs."""
    name = "TORCHDYNAMO_DISABLE"
    original = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if original is not None:
            os.environ[name] = original


def _repeated_blocks(model: Any) -> list[nn.Module]:
    """The model's transformer blocks; its whole body where transformers does not name them."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names] or [model.base_model]
