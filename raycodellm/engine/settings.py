"""What a stage's settings mean to the engine: the rate of a step, DeepSpeed's configuration. Pure functions."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycodellm.config import LearningRate, Scaling, Stage, UserError


@dataclass(frozen=True)
class World:
    """The workers that train together, as one of them sees them."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    """This worker's: cpu, or cuda:0."""

    @property
    def device_type(self) -> str:
        return self.device.split(":")[0]


def learning_rate_at(settings: LearningRate, step: int, num_steps: int) -> float:
    """Rate of optimizer step `step` (0 first); exactly `final * peak` at the last one, except for `constant`.

    It rises on a straight line to the peak, over the first `warmup` of the steps. wsd then holds the peak, and falls on
    a straight line over the last `decay` of the steps.
    """
    done, warm = step + 1, settings.warmup * num_steps
    if done < warm:
        return settings.peak * done / warm
    start = max(warm, (1.0 - settings.decay) * num_steps) if settings.schedule == "wsd" else warm
    x = min(1.0, (done - start) / (num_steps - start)) if start < num_steps else 0.0
    if settings.schedule == "constant" or x <= 0.0:
        return settings.peak
    left = (1.0 + math.cos(math.pi * x)) / 2.0 if settings.schedule == "cosine" else 1.0 - x
    return settings.peak * (settings.final + (1.0 - settings.final) * left)


_SAID_ELSEWHERE = {
    "optimizer": "the stage's learning_rate, weight_decay and adam_betas",
    "scheduler": "the stage's learning_rate",
    "train_batch_size": "the stage's batch_tokens",
    "train_micro_batch_size_per_gpu": "scaling.deepspeed.micro_batch",
    "gradient_accumulation_steps": "scaling.deepspeed.micro_batch",
    "gradient_clipping": "the stage's gradient_clip",
    "zero_optimization.stage": "scaling.deepspeed.zero",
    "fp16.enabled": "scaling.deepspeed.precision",
    "bf16.enabled": "scaling.deepspeed.precision",
    "data_types.grad_accum_dtype": "scaling.deepspeed.precision",
}


def deepspeed_config(stage: Stage, scaling: Scaling, world: World, num_micro_batches: int) -> dict[str, Any]:
    """DeepSpeed's configuration: ours, and `scaling.deepspeed.config` where it does not contradict ours."""
    zero, precision = scaling.deepspeed.zero, scaling.deepspeed.precision
    if precision == "fp16" and world.device_type == "cpu":
        raise UserError("scaling.deepspeed.precision: found fp16, which a CPU cannot train; use fp32 or bf16")
    rows = scaling.deepspeed.micro_batch or -(-stage.batch_sequences // world.world_size)
    ours: dict[str, Any] = {
        # DeepSpeed wants these three to agree; the rows of a micro batch may be fewer in fact.
        "train_batch_size": rows * num_micro_batches * world.world_size,
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": num_micro_batches,
        # Without ZeRO in fp32 DeepSpeed clips but keeps the norm to itself, so the engine clips.
        "gradient_clipping": 0.0 if zero == 0 and precision == "fp32" else stage.gradient_clip,
        "zero_optimization": {"stage": zero},
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "steps_per_print": 10**9,
    }
    if zero > 0 and precision == "bf16":
        ours["data_types"] = {"grad_accum_dtype": "fp32"}
    given = scaling.deepspeed.config
    for key in ("optimizer", "scheduler"):
        if key in given:
            raise UserError(f"scaling.deepspeed.config.{key}: is decided by {_SAID_ELSEWHERE[key]}; remove it")
    merged = _merged(ours, given, "")
    # Our optimizer is torch's, also where its state is kept in host memory.
    merged.setdefault("zero_force_ds_cpu_optimizer", False)
    return merged


def _merged(ours: Mapping[str, Any], given: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in given.items():
        name = f"{path}{key}"
        if key not in ours:
            merged[key] = copy.deepcopy(value)
        elif isinstance(ours[key], Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(ours[key], value, f"{name}.")
        elif value not in (ours[key], "auto"):
            where = _SAID_ELSEWHERE.get(name)
            hint = f"it is decided by {where}, which gives {ours[key]!r}" if where else f"raycodellm sets {ours[key]!r}"
            raise UserError(f"scaling.deepspeed.config.{name}: found {value!r}, but {hint}; remove it")
    return merged
