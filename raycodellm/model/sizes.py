"""Parameters, FLOPs and shape of any model, found without making weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycodellm.config import Model, UserError
from raycodellm.identity.load_errors import load_errors
from raycodellm.model.configuration import model_config
from raycodellm.model.presets import PRESETS

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


MOST_BLOCKS = 20_000
"""Most blocks of a model, each expert counted apart."""


def num_parameters(model: Model, vocab_size: int) -> int:
    """Number of trained parameters, found without making weights."""
    if model.preset is not None:
        return PRESETS[model.preset].num_parameters(vocab_size)
    return sum(parameter.numel() for parameter in on_meta(model, vocab_size).parameters())


@dataclass(frozen=True)
class Shape:
    """The numbers that the memory of training depends on."""

    parameters: int
    layers: int
    hidden: int
    """Width of the residual stream."""
    feed_forward: int
    """Width inside a feed-forward block; 0 where unknown."""
    parallel: bool = False
    """Attention and feed-forward are side by side, after one norm."""


def shape(model: Model, vocab_size: int) -> Shape:
    """The shape of any model, found without making weights."""
    if model.preset is not None:
        preset = PRESETS[model.preset]
        parameters = preset.num_parameters(vocab_size)
        return Shape(parameters, preset.layers, preset.hidden, preset.feed_forward, preset.parallel)
    settings = model_config(model, vocab_size).get_text_config()
    width = getattr(settings, "hidden_size", 0)
    inner = getattr(settings, "intermediate_size", None) or getattr(settings, "n_inner", None) or 0
    # A mixture of experts may have a list of widths. Counting 0 makes the estimate of its memory low, never high.
    inner = inner if isinstance(inner, int) else 0
    return Shape(num_parameters(model, vocab_size), getattr(settings, "num_hidden_layers", 0), width, inner)


def flops_per_token(model: Model, vocab_size: int, sequence_length: int) -> float:
    """Training FLOPs per token: 6 N + 12 layers x hidden x sequence length (Chowdhery et al. 2022, "PaLM", appendix B).

    N counts the parameters that are multiplied: all but an embedding that is only looked up. A tied embedding is also
    the head and counts.
    """
    if model.preset is not None:
        preset = PRESETS[model.preset]
        return 6.0 * preset.num_parameters(vocab_size) + 12.0 * preset.layers * preset.hidden * sequence_length
    return flops_per_token_of(on_meta(model, vocab_size), sequence_length)


def flops_per_token_of(built: torch.nn.Module, sequence_length: int) -> float:
    """`flops_per_token` of a built model."""
    parameters = sum(parameter.numel() for parameter in built.parameters())
    looked_up, head = built.get_input_embeddings().weight, built.get_output_embeddings().weight
    if looked_up is not head:
        parameters -= looked_up.numel()
    config = built.config.get_text_config()
    return 6.0 * parameters + 12.0 * config.num_hidden_layers * config.hidden_size * sequence_length


def on_meta(model: Model, vocab_size: int) -> torch.nn.Module:
    """The model on torch's meta device: shapes without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    config = model_config(model, vocab_size)
    _check_blocks(config)
    with load_errors("model", "cannot be built by transformers", "change model.config"), torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        built.tie_weights()
    return built


def _check_blocks(config: PretrainedConfig) -> None:
    """Raises UserError for more than MOST_BLOCKS blocks. Each block and each expert is a module; a million would take
    minutes to build."""
    settings = config.get_text_config()
    layers = getattr(settings, "num_hidden_layers", 0)
    experts = [getattr(settings, name, 1) for name in ("num_experts", "num_local_experts", "n_routed_experts")]
    numbers = [number for number in (layers, *experts) if isinstance(number, (int, float))]
    if math.prod(max(1, number) for number in numbers) > MOST_BLOCKS:
        raise UserError(f"model: has {layers:,} blocks; a model has at most {MOST_BLOCKS:,}, experts counted apart")
