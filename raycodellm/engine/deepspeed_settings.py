"""DeepSpeed's configuration, made from a stage's settings. Pure functions."""

from __future__ import annotations

import copy
import importlib.util
import shutil
from collections.abc import Mapping
from typing import Any

from raycodellm.config import Scaling, Stage, UserError
from raycodellm.engine.world import World

_COMPILERS = ("g++", "c++", "clang++")
_SET_BY = {
    "optimizer": "the stage's learning_rate and optimizer",
    "scheduler": "the stage's learning_rate",
    "train_batch_size": "the stage's batch_tokens",
    "train_micro_batch_size_per_gpu": "scaling.deepspeed.micro_batch",
    "gradient_accumulation_steps": "scaling.deepspeed.micro_batch",
    "gradient_clipping": "the stage's optimizer.gradient_clip",
    "zero_optimization.stage": "scaling.deepspeed.zero",
    "fp16.enabled": "the stage's numerics.precision",
    "bf16.enabled": "the stage's numerics.precision",
    "data_types.grad_accum_dtype": "the stage's numerics.precision",
}
"""The setting of the sweep file that decides each setting of DeepSpeed."""


def require_execution(stage: Stage, scaling: Scaling, world: World) -> None:
    """Raises UserError when this machine lacks a compiler, GPU or package that the settings need."""
    settings = scaling.deepspeed
    if settings.compile and settings.zero == 3:
        raise UserError(
            "scaling.deepspeed.compile: found true with zero 3, whose hooks it cannot see through; use zero 2"
        )
    if settings.compile and world.device_type == "cpu" and not any(map(shutil.which, _COMPILERS)):
        raise UserError(
            f"scaling.deepspeed.compile: found true, but no C++ compiler is here ({', '.join(_COMPILERS)}); install "
            "one or use false"
        )
    if stage.numerics.attention == "flash_attention_2":
        problem = None
        if world.device_type != "cuda":
            problem = "it needs a GPU"
        elif stage.numerics.precision == "fp32":
            problem = "it has no fp32; use numerics.precision bf16 or fp16"
        elif importlib.util.find_spec("flash_attn") is None:
            problem = "the package flash-attn cannot be imported; install it"
        if problem is not None:
            raise UserError(
                f"stages.{stage.name}.numerics.attention: found flash_attention_2, but {problem}, or use sdpa"
            )


def clips_in_optimizer(stage: Stage, scaling: Scaling) -> bool:
    """True if torch's fused optimizer clips the gradient, and skips one that is not finite, on the device.

    DeepSpeed would look through every gradient, and the host would wait for the answer. DeepSpeed keeps this work where
    its own optimizer does more: fp16 and autocast (the loss scale), ZeRO 3, state in host memory.
    """
    zero, extra = scaling.deepspeed.zero, stage.numerics.deepspeed_config
    zero_settings = extra.get("zero_optimization")
    offloads = isinstance(zero_settings, Mapping) and {"offload_optimizer", "cpu_offload"} & zero_settings.keys()
    if stage.numerics.precision == "fp16" or offloads or {"torch_autocast", "amp"} & extra.keys():
        return False
    return zero in (1, 2) or (zero == 0 and stage.numerics.precision == "fp32")


def deepspeed_config(stage: Stage, scaling: Scaling, world: World, num_micro_batches: int) -> dict[str, Any]:
    """DeepSpeed's configuration: our settings, and those of the stage's `numerics.deepspeed_config`.

    `num_micro_batches`: forward passes per step and worker. Raises UserError for a setting of the stage that
    contradicts ours, and for fp16 on a CPU.
    """
    zero, precision = scaling.deepspeed.zero, stage.numerics.precision
    if precision == "fp16" and world.device_type == "cpu":
        raise UserError(
            f"stages.{stage.name}.numerics.precision: found fp16, which a CPU cannot train; use fp32 or bf16"
        )
    rows = scaling.deepspeed.micro_batch or -(-stage.batch_sequences // world.world_size)
    if rows == "auto":
        raise ValueError("micro_batch auto must be resolved before the engine is made")
    ours: dict[str, Any] = {
        # DeepSpeed wants these three to agree; the rows of a micro batch may be fewer in fact.
        "train_batch_size": rows * num_micro_batches * world.world_size,
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": num_micro_batches,
        "gradient_clipping": stage.optimizer.gradient_clip,
        "zero_optimization": {"stage": zero},
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "steps_per_print": 10**9,
    }
    if zero > 0 and precision == "bf16":
        ours["data_types"] = {"grad_accum_dtype": "fp32"}
    extra, place = stage.numerics.deepspeed_config, f"stages.{stage.name}.numerics.deepspeed_config"
    for key in ("optimizer", "scheduler"):
        if key in extra:
            raise UserError(f"{place}.{key}: is decided by {_SET_BY[key]}; remove it")
    zero_settings = extra.get("zero_optimization")
    if isinstance(zero_settings, Mapping) and zero_settings.get("compute_grad_norm") is False:
        raise UserError(
            f"{place}.zero_optimization.compute_grad_norm: found false, but every step is judged by its gradient's "
            "norm; remove it"
        )
    merged = _merge_configs(ours, extra, place)
    if clips_in_optimizer(stage, scaling):
        merged["gradient_clipping"] = 0.0
        merged["bf16"] = {"check_grad_overflow": False, **merged["bf16"]}  # else it looks through every gradient first
    # The optimizer is torch's, also where its state is kept in host memory.
    merged.setdefault("zero_force_ds_cpu_optimizer", False)
    return merged


def _merge_configs(ours: Mapping[str, Any], extra: Mapping[str, Any], place: str, path: str = "") -> dict[str, Any]:
    merged = dict(ours)
    for key, value in extra.items():
        name = f"{path}{key}"
        if key not in ours:
            merged[key] = copy.deepcopy(value)
        elif isinstance(ours[key], Mapping) and isinstance(value, Mapping):
            merged[key] = _merge_configs(ours[key], value, place, f"{name}.")
        elif value not in (ours[key], "auto"):
            setting = _SET_BY.get(name)
            hint = (
                f"it is decided by {setting}, which gives {ours[key]!r}"
                if setting
                else f"raycodellm sets {ours[key]!r}"
            )
            raise UserError(f"{place}.{name}: found {value!r}, but {hint}; remove it")
    return merged
