"""mup: the maximal update parametrization of the presets, by which a learning rate that was found at one width serves
others (Yang et al. 2022, "Tensor Programs V", table 8, for Adam).

| | standard | mup |
|---|---|---|
| embedding, which is also the head: standard deviation | 0.02 | 0.02 |
| matrices between hidden units: standard deviation | 0.02 | 0.02 / sqrt(r) |
| learning rate of these matrices | peak | peak / r |
| learning rate of the embedding and the norms' gains | peak | peak |
| logits | 1 | 1 / (width / base width) |
| attention scores, with heads of d | 1 / sqrt(d) | sqrt(base d) / d |
| weight decay per step, as a share of the weight | rate × decay | rate × decay |

r is the matrix's fan-in divided by that of the same matrix in the base, which is `tiny`: width 64, heads of 32,
feed-forward 192. At `tiny` both columns are one model, and every other width is derived from that one. The rule for
tied embeddings is the paper's: the embedding keeps its scale and its rate, and the logits are divided.

The paper transfers across width. Depth, sequence length, batch size and the number of steps change the best rate under
mup too, and nothing here corrects for them. Adam's epsilon and the gradient's clip are the same at all widths.

A scaled model must load with plain transformers. Llama with these two scalars is transformers' Granite, which is what
the Llama presets become. Cohere has a scale for its logits, and none for its attention: there the query matrices take
the factor, in their initialisation and their rate, which is the same function of the data and the same steps (section
J.2.1 of the paper).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raycodellm.config import Model
from raycodellm.model.presets import PRESETS, Preset

BASE = PRESETS["tiny"]
"""The shape at which mup is the standard parametrization."""
_FROM_WIDTH = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
_FROM_FEED_FORWARD = ("down_proj",)


@dataclass(frozen=True)
class Scale:
    """The factors of a matrix between hidden units, by which mup differs from the standard parametrization."""

    init: float
    """Factor of the standard deviation of new weights."""
    rate: float
    """Factor of the learning rate. The weight decay is divided by it."""


def scales(model: Model) -> dict[str, Scale]:
    """The scale of each scaled matrix, by the name of its layer inside a block; empty for the standard one."""
    if model.parametrization != "mup" or model.preset is None:
        return {}
    shape = PRESETS[model.preset]
    by_width, by_feed_forward = BASE.hidden / shape.hidden, BASE.feed_forward / shape.feed_forward
    scale_of = {name: Scale(math.sqrt(by_width), by_width) for name in _FROM_WIDTH}
    scale_of |= {name: Scale(math.sqrt(by_feed_forward), by_feed_forward) for name in _FROM_FEED_FORWARD}
    if shape.parallel:
        query = math.sqrt(BASE.head_width / shape.head_width)
        scale_of["q_proj"] = Scale(scale_of["q_proj"].init * query, scale_of["q_proj"].rate * query)
    return scale_of


def rate_factors(model: Model) -> Mapping[str, float]:
    """Factor of the learning rate by the name of the layer that a weight belongs to; 1 for every other."""
    return {name: scale.rate for name, scale in scales(model).items()}


def multipliers(shape: Preset) -> dict[str, float]:
    """The settings of the transformers configuration that scale logits and attention scores under mup."""
    width = shape.hidden / BASE.hidden
    if shape.parallel:
        return {"logit_scale": 1.0 / width}
    return {"logits_scaling": width, "attention_multiplier": math.sqrt(BASE.head_width) / shape.head_width}


def scale_new_weights(built: Any, model: Model) -> None:
    """Scales newly drawn weights as `model.parametrization` says, in place."""
    scale_of = scales(model)
    for name, parameter in built.named_parameters():
        scale = scale_of.get(layer_of(name))
        if scale is not None and scale.init != 1.0:
            parameter.data.mul_(scale.init)


def layer_of(parameter: str) -> str:
    """Name of the layer that a parameter belongs to: `q_proj` of `model.layers.0.self_attn.q_proj.weight`."""
    return parameter.split(".")[-2] if "." in parameter else parameter


def parametrization_content(model: Model) -> list[Any]:
    """The parametrization's part of a model's identity; empty for the standard one."""
    return [] if model.parametrization == "standard" else [model.parametrization, asdict(BASE)]
